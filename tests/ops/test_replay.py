"""What is computed again is computed as it was, whatever the modules are by then."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from mmrecnext.models import RecNeXt
from mmrecnext.ops import fast_paths
from tests.helpers import SMALL


def fail(*_):
    raise AssertionError('called in the backward pass')


def change_modes(model):
    """Take in another batch, switch to inference, set whatever can be set."""
    with torch.no_grad():
        model(torch.ones(2, 3, 64, 96, dtype=torch.float64))
    model.eval()
    model.with_cp = not model.with_cp
    for module in model.modules():
        module.register_forward_hook(fail)
        module.register_forward_pre_hook(fail)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum, module.eps = 0.9, 0.1
            module.running_mean = torch.ones_like(module.running_mean)
            module.running_var = 2 * torch.ones_like(module.running_var)


def replace_parts(model):
    """Put other parameters into the layers, then other layers into the model."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                setattr(module, name, nn.Parameter(2 * parameter.detach()))
    model.switch_to_deploy()


def train_all(model):
    nn.Module.train(model)
    model.requires_grad_(True)


CHANGES = {
    'modes': change_modes,
    'parts': replace_parts,
    'all trains': train_all,
    'nothing trains': lambda model: model.requires_grad_(False),
}
OPTIONS = {
    'all': dict(),
    'norm_eval': dict(norm_eval=True),
    'with_cp': dict(with_cp=True, frozen_stages=1),
}


def step(model, change, plain):
    """Return the gradients of a step, with a change between its two passes."""
    parameters = dict(model.named_parameters())
    torch.manual_seed(1)
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64, requires_grad=True)
    with fast_paths.off() if plain else nullcontext():
        loss = sum((x * x.detach().sin()).sum() for x in model(image))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    change(model)
    after = [buffer.clone() for buffer in model.buffers()]
    loss.backward()
    for buffer, kept in zip(model.buffers(), after, strict=True):
        assert torch.equal(buffer, kept)
    return {'input': image.grad} | {k: p.grad for k, p in parameters.items()}, buffers


@pytest.mark.parametrize('options', OPTIONS)
@pytest.mark.parametrize('base', ['m0', 'a0', 't_share_channel'])
def test_changes_between_forward_and_backward(base, options):
    torch.manual_seed(0)
    model = RecNeXt(SMALL[base], **OPTIONS[options]).double().train()
    plain = copy.deepcopy(model)
    plain.with_cp = False
    expected, learnt = step(plain, lambda model: None, plain=True)
    scale = max(g.std() for g in expected.values() if g is not None)
    for change in CHANGES:
        own, own_learnt = step(copy.deepcopy(model), CHANGES[change], plain=False)
        for name, buffer in learnt.items():
            assert torch.allclose(own_learnt[name], buffer, rtol=1e-12, atol=1e-14)
        for name, grad in expected.items():
            if change == 'nothing trains' and name != 'input':
                grad = None  # as ever: what is frozen accumulates none
            assert (own[name] is None) == (grad is None), (change, name)
            if grad is not None:
                bound = 1e-9 * max(grad.std(), 1e-3 * scale)
                assert (own[name] - grad).abs().max() <= bound, (change, name)
