import copy

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from mmrecnext.models.blocks import ChannelMixer
from mmrecnext.ops.recompute import recompute

LAYERS = dict(norm_cfg=dict(type='BN'), bias=True)


def chain(*more, **options):
    torch.manual_seed(0)
    return nn.Sequential(*ChannelMixer(4, 2, **(LAYERS | options)), *more).double()


def image(*shape):
    torch.manual_seed(1)
    return torch.randn(
        *(shape or (2, 4, 5, 6)), dtype=torch.float64, requires_grad=True
    )


def same(*inputs):
    return inputs


def is_lean(y):
    return 'Recompute' in y.grad_fn.name()


class Gate(nn.Module):
    """What may come before a chain: norms, several inputs, several outputs."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.scale = nn.Conv2d(4, 4, 1, groups=4, bias=False)

    def forward(self, x, y):
        z = self.scale(self.norm(x).tanh())
        return z + y, z * y, z


def run_lean(gate, steps, x, y):
    return recompute(gate.forward, [*gate.children()], steps, x, y)


@pytest.mark.parametrize('more', [(), (nn.GELU(),), (nn.Identity(),)], ids=str)
@pytest.mark.parametrize('bias', [False, True])
def test_chain(more, bias):
    steps, x = chain(*more, bias=bias), image()
    assert is_lean(recompute(same, (), steps, x)[0])
    weights = [p for n, p in steps.named_parameters()]
    assert gradcheck(
        lambda x, *_: recompute(same, (), steps, x)[0], (x, *weights), fast_mode=True
    )


def test_before_the_chain():
    gate, steps = Gate().double(), chain()
    x, y = image(), image(2, 1, 5, 6)
    weights = [*gate.parameters(), *steps.parameters()]

    def run(x, y, *_):
        return run_lean(gate, steps, x, y)

    assert len(run(x, y)) == 3
    assert gradcheck(run, (x, y, *weights), fast_mode=True)


def test_no_chain():
    gate, x, y = Gate().double(), image(), image(2, 1, 5, 6)
    assert gradcheck(
        lambda x, y, *_: run_lean(gate, None, x, y),
        (x, y, *gate.parameters()),
        fast_mode=True,
    )


@pytest.mark.parametrize('momentum', [0.1, None, 0.0])
def test_running_statistics(momentum):
    gate, steps = Gate().double(), chain()
    modules = nn.ModuleList([gate, steps])
    for norm in modules.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = momentum
    plain = copy.deepcopy(modules)
    for seed in range(3):
        torch.manual_seed(seed)
        x, y = torch.randn(2, 2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
        run_lean(gate, steps, x, y)[0].sum().backward()
        first, *_ = plain[0](x, y)
        plain[1](first)
    for (name, own), other in zip(
        modules.named_buffers(), plain.buffers(), strict=True
    ):
        assert torch.allclose(own, other, rtol=1e-12, atol=1e-14), name


def test_only_what_is_wanted():
    gate, steps = Gate().double(), chain()
    modules = nn.ModuleList([gate, steps])
    x, y = image(), image(2, 1, 5, 6).detach()
    for part in (steps[0].conv, steps[2].norm, gate.norm):
        part.requires_grad_(False)
    plain = copy.deepcopy(modules)
    first, *rest = plain[0](x, y)
    for outputs, into in (
        (run_lean(gate, steps, x, y), modules),
        ((plain[1](first), *rest), plain),
    ):
        sum(z.square().sum() for z in outputs).backward()
        into.x = x.grad
        x.grad = None
    assert torch.allclose(modules.x, plain.x)
    for (name, p), q in zip(
        modules.named_parameters(), plain.parameters(), strict=True
    ):
        assert (p.grad is None) == (q.grad is None) == (not p.requires_grad), name
        assert p.grad is None or torch.allclose(p.grad, q.grad), name


def test_twice_over_a_kept_graph():
    gate, steps, x, y = Gate().double(), chain(), image(), image(2, 1, 5, 6)
    loss = run_lean(gate, steps, x, y)[0].square().sum()
    loss.backward(retain_graph=True)
    once = x.grad.clone()
    loss.backward()
    assert torch.allclose(x.grad, 2 * once)


@pytest.mark.parametrize(
    'norm',
    [
        nn.GroupNorm(2, 8),
        nn.SyncBatchNorm(8),
        nn.BatchNorm2d(8, affine=False),
        nn.BatchNorm2d(8, track_running_stats=False),
    ],
    ids=str,
)
def test_other_norms_run_by_themselves(norm):
    steps = chain()
    steps.float()[0].norm = norm.eval()
    x = image().float()
    assert not is_lean(recompute(same, (), steps, x)[0])


def test_networks_all_of_low_precision_run_by_themselves():
    steps, x = chain().bfloat16(), image().bfloat16()
    assert not is_lean(recompute(same, (), steps, x)[0])


def test_nothing_is_kept_without_gradients():
    steps, x = chain(), image()
    with torch.no_grad():
        y = recompute(same, (), steps, x)[0]
    assert torch.allclose(y, chain()(x))
    assert not y.requires_grad


def test_a_single_pixel_has_no_variance():
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        recompute(same, (), chain(), image(1, 4, 1, 1))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('inside', [False, True], ids=['backward outside', 'inside'])
def test_mixed_precision(dtype, inside):
    gate, steps = Gate(), chain().float()
    modules = nn.ModuleList([gate, steps])
    plain = copy.deepcopy(modules)
    grads = []
    for run, owner in (
        (lambda x, y: run_lean(gate, steps, x, y)[0], modules),
        (lambda x, y: plain[1](plain[0](x, y)[0]), plain),
    ):
        x, y = image().detach().float().requires_grad_(), image(2, 1, 5, 6).float()
        with torch.autocast('cpu', dtype):
            z = run(x, y)
            if inside:
                z.float().square().sum().backward()
        assert z.dtype == dtype
        if not inside:
            z.float().square().sum().backward()
        grads.append([x.grad, *(p.grad for p in owner.parameters())])
        assert all(grad.dtype == torch.float32 for grad in grads[-1])
    scale = max(grad.abs().max() for grad in grads[1])
    for own, other in zip(*grads, strict=True):
        assert (own - other).abs().max() <= 8 * torch.finfo(dtype).eps * scale
