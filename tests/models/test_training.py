"""Networks that compute parts of themselves again have the gradients of autograd."""

import copy
import re
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmrecnext.benchmark.cases import Case
from mmrecnext.benchmark.measure import saved_bytes
from mmrecnext.benchmark.original import original_of
from mmrecnext.benchmark.workloads import build
from mmrecnext.models import RecNeXt
from mmrecnext.ops import fast_paths
from tests.helpers import (
    SMALL,
    assert_same_gradients,
    compare_networks,
    gradients,
    randomise,
)


@pytest.mark.parametrize('size', [(64, 96), (197, 161)], ids=str)
@pytest.mark.parametrize('base', SMALL)
def test_networks_in_double(base, size):
    torch.manual_seed(0)
    compare_networks(RecNeXt(SMALL[base]).train(), size)


@pytest.mark.parametrize(
    'options',
    [
        dict(norm_eval=True),
        dict(frozen_stages=2),
        dict(norm_eval=True, frozen_stages=0, with_cp=True),
    ],
    ids=str,
)
@pytest.mark.parametrize('base', ['m0', 'a0', 'b'])
def test_frozen_parts_in_double(base, options):
    torch.manual_seed(0)
    compare_networks(RecNeXt(SMALL[base], **options).train(), (97, 65))


def assert_as_exact(layers, in_channels):
    """Compare a layer's gradients with autograd's in the same precision and layout.

    They agree to 1e-5 of their spread or, where numbers cancel so that autograd itself
    is further from what it gives in double, to a few times that.
    """
    x = torch.randn(2, in_channels, 67, 53).to(memory_format=torch.channels_last)
    y = layers[0](x)
    cotangent = torch.randn_like(y)
    own, plain = (gradients(f, x, cotangent, f) for f in layers)
    double = copy.deepcopy(layers[1]).double().requires_grad_()
    double.zero_grad()
    exact = gradients(double, x.double(), cotangent.double(), double)
    for name, grad in plain.items():
        error = (grad - exact[name]).abs().max()
        bound = max(1e-5 * exact[name].std(), 4 * error)
        assert (own[name] - grad).abs().max() <= bound, name


class Alone(nn.Module):
    """A block as a function of the map alone."""

    def __init__(self, block, *others):
        super().__init__()
        self.block = block
        self.others = others

    def forward(self, x):
        return self.block(x, *self.others)


@pytest.mark.parametrize('base', ['m0', 'a0', 'b'])
def test_layers_in_single_precision(base):
    torch.manual_seed(0)
    model = RecNeXt(SMALL[base]).train()
    original = original_of(model)
    dims = SMALL[base]['dims']
    for i, (own, plain) in enumerate(zip(model.stages, original.stages, strict=True)):
        assert_as_exact([Alone(own.blocks[0]), Alone(plain.blocks[0], [])], dims[i])
        if i > 0:
            assert_as_exact([own.downsample, plain.downsample], dims[i - 1])


@pytest.mark.parametrize(
    ('arch', 'most'),
    [('m3', 0.4), ('a3', 0.35), ('b', 0.45), ('t_share_channel', 0.45)],
)
def test_bytes_saved(arch, most):
    sizes = [
        saved_bytes(
            build(Case(arch, form, work='step', shape=(96, 96), batch=2), 'cpu')
        )
        for form in ('train', 'original')
    ]
    assert sizes[0] <= most * sizes[1]


@pytest.mark.slow
def test_compiles_whole():
    torch.manual_seed(0)
    model = RecNeXt(SMALL['t_share_channel']).double().train()
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    whole = torch.compile(copy.deepcopy(model), backend='eager', fullgraph=True)
    for x, y in zip(whole(image), model(image), strict=True):
        assert torch.allclose(x, y)


def test_traced_in_training_mode():
    torch.manual_seed(0)
    model = RecNeXt(SMALL['m0']).train()
    image = torch.randn(2, 3, 64, 64)
    traced = torch.jit.trace(copy.deepcopy(model), image, check_trace=False)
    for x, y in zip(traced(image), model(image), strict=True):
        assert torch.allclose(x, y, atol=1e-5)


def test_data_parallel_hooks_see_every_gradient(tmp_path):
    torch.manual_seed(0)
    model = RecNeXt(SMALL['a0']).train()
    image = torch.randn(2, 3, 64, 64)
    plain = copy.deepcopy(model)
    sum(x.square().mean() for x in plain(image)).backward()
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    try:
        parallel = DistributedDataParallel(model)
        for _ in range(2):  # the second step needs all gradients of the first reduced
            parallel.zero_grad()
            sum(x.square().mean() for x in parallel(image)).backward()
    finally:
        torch.distributed.destroy_process_group()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    'options',
    [{}, dict(with_cp=True), dict(norm_eval=True), dict(frozen_stages=1)],
    ids=str,
)
@pytest.mark.parametrize('base', ['m0', 'a0', 't_share_channel'])
def test_gradients_of_gradients(base, options):
    """Of a penalty on gradients of the image, and of one on those of a sum."""

    def step(form):
        torch.manual_seed(0)
        model = randomise(RecNeXt(SMALL[base], **options)).double().train()
        image = torch.randn(2, 3, 65, 97, dtype=torch.float64, requires_grad=True)
        with fast_paths.off() if form == 'plain' else nullcontext():
            maps = model(image)
        loss = sum(x.square().mean() for x in maps)
        (grad,) = torch.autograd.grad(loss, image, create_graph=True)
        (slope,) = torch.autograd.grad(maps[-1].sum(), image, create_graph=True)
        (loss + grad.square().sum() + 1e-3 * slope.square().sum()).backward()
        named = [*model.named_parameters(), ('image', image)]
        return {name: p.grad for name, p in named if p.requires_grad}, model

    (plain, one), (lean, other) = step('plain'), step('lean')
    assert_same_gradients(lean, plain, 1e-9, floor=1e-3)
    for x, y in zip(one.buffers(), other.buffers(), strict=True):
        assert torch.allclose(x, y, rtol=1e-12, atol=1e-12)  # learnt from once


def test_changed_parameters_are_noticed():
    model = RecNeXt(SMALL['m0']).train()
    loss = sum(x.square().mean() for x in model(torch.randn(2, 3, 64, 64)))
    with torch.no_grad():
        model.stages[0].blocks[0].token_mixer.down.weight.mul_(2)
    with pytest.raises(RuntimeError, match=re.escape('modified by an inplace')):
        loss.backward()


def test_shared_parameters_count_once():
    """Of two token mixers' convolutions with one weight, as in tied networks."""
    gradients = []
    for form in ('plain', 'lean'):
        torch.manual_seed(0)
        model = RecNeXt(SMALL['m0']).double().train()
        mixer = model.stages[0].blocks[0].token_mixer
        mixer.convs[0].weight = mixer.convs[1].weight
        image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
        with fast_paths.off() if form == 'plain' else nullcontext():
            model(image)[0].square().sum().backward()
        gradients.append(mixer.convs[0].weight.grad)
    assert torch.allclose(*gradients, rtol=1e-9)
