"""A residual layer gives what its plain twin does, in each of the ways that it has."""

import copy

import pytest
import torch

from mmrecnext import RecNeXt
from mmrecnext.ops.residual import in_turn, in_turn_plain, residual, residual_plain
from tests.helpers import SMALL


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('skip_layers', [True, False])
def test_residual(skip_layers, training):
    torch.manual_seed(0)
    model = RecNeXt(SMALL['a0']).double().train(training)
    results = []
    for compute, block in (
        (residual, model.stages[1].blocks[0]),
        (residual_plain, copy.deepcopy(model).stages[1].blocks[0]),
    ):
        x = torch.linspace(-1, 1, 2 * 32 * 36).double().reshape(2, 32, 6, 6)
        x.requires_grad_(training)
        layers = (block.token_mixer, block.norm)
        mixers = (block.channel_mixer, block.drop_path)
        with torch.set_grad_enabled(training):
            y = compute(x, layers, *mixers, skip_layers=skip_layers)
        if training:
            y.square().sum().backward()
            y = torch.cat([y.detach().flatten(), x.grad.flatten()])
        results.append(y)
    assert torch.allclose(*results, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('training', [True, False])
def test_in_turn(training):
    torch.manual_seed(0)
    stem = RecNeXt(SMALL['m0']).double().train(training).stem.stem
    x = torch.randn(2, 3, 16, 16).double()
    expected = in_turn_plain(x, copy.deepcopy(stem))
    with torch.set_grad_enabled(training):
        assert torch.allclose(in_turn(x, stem), expected, rtol=1e-9, atol=1e-9)
