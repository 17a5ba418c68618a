import copy

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from mmrecnext.models import RecNeXt
from mmrecnext.ops import batch_norm, recompute
from mmrecnext.ops.batch_norm import apply_norm, loses_digits, moments, statistics


def maps(*shape, dtype=torch.float32):
    """Of other means and deviations in each channel, channels-last."""
    torch.manual_seed(0)
    x = torch.randn(shape)
    for channel, (mean, deviation) in enumerate(
        zip(
            torch.linspace(-2, 2, shape[1]),
            torch.linspace(0.5, 2, shape[1]),
            strict=True,
        )
    ):
        x[:, channel].mul_(deviation).add_(mean)
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def test_variance_is_as_exact_as_in_rows_of_one_channel():
    """Of a size at which PyTorch's channels-last kernel is off by more than 1e-4."""
    x, norm = maps(4, 8, 512, 512), nn.BatchNorm2d(8, momentum=1.0)
    plain = copy.deepcopy(norm)
    plain(x)
    count = x.numel() // 8
    var, mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    unbiased = var * count / (count - 1)
    assert ((plain.running_var - unbiased) / unbiased).abs().max() > 1e-4
    own_mean, invstd = statistics(x, norm)
    assert ((own_mean - mean) / var.sqrt()).abs().max() < 1e-6
    assert (invstd * (var + norm.eps).sqrt() - 1).abs().max() < 1e-6
    assert ((norm.running_var - unbiased) / unbiased).abs().max() < 1e-6
    assert ((norm.running_mean - mean) / var.sqrt()).abs().max() < 1e-6
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    'shape', [(2, 3, 41, 53), (1, 40, 67, 129), (3, 1500, 43, 32)], ids=str
)
def test_sizes_that_no_band_divides(shape, dtype):
    x = maps(*shape, dtype=dtype)
    assert loses_digits(x, nn.BatchNorm2d(shape[1]).weight)
    mean, var = moments(x, torch.float32)
    expected_var, expected = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    spread = (expected_var + expected.square()).sqrt()
    bound = max(1e-6, 1e-3 * torch.finfo(dtype).eps)
    assert ((mean - expected) / spread).abs().max() < bound
    assert (var / expected_var - 1).abs().max() < bound


@pytest.mark.parametrize('momentum', [0.1, None])
def test_learns_as_the_norm_does(momentum):
    x = maps(2, 6, 60, 40)
    norm = nn.BatchNorm2d(6, momentum=momentum)
    plain = copy.deepcopy(norm).double()
    for scale in (1, 2, 3):
        statistics(scale * x, norm)
        plain(scale * x.double())
    for own, other in zip(norm.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(own.double(), other.double(), rtol=1e-5, atol=1e-6)


def gradients(run, norm, x, grad):
    """Of the map and of both parameters."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(run(x), [x, *norm.parameters()], grad)


def test_gradients_are_as_exact_as_in_rows_of_one_channel():
    """At a size at which those of PyTorch's channels-last kernel are 10 times worse."""
    x, norm = maps(2, 16, 200, 336), nn.BatchNorm2d(16)
    nn.init.uniform_(norm.weight)
    grad = maps(2, 16, 200, 336).flip(3)  # unlike the map
    double = copy.deepcopy(norm).double()
    last, rows = copy.deepcopy(norm), copy.deepcopy(norm)
    expected = gradients(double, double, x.double(), grad.double())
    errors = [
        [
            float((one - right).norm() / right.norm())
            for one, right in zip(found, expected, strict=True)
        ]
        for found in (
            gradients(lambda x: apply_norm(norm, x), norm, x, grad),
            gradients(rows, rows, x.contiguous(), grad.contiguous()),
            gradients(last, last, x, grad),
        )
    ]
    for own, by_rows, by_pixels in zip(*errors, strict=True):
        assert own < max(1.5 * by_rows, 2e-7), errors
        assert own < 0.2 * by_pixels, errors


@pytest.mark.parametrize(
    'frozen', [('weight', 'bias'), ('weight',), ('bias',)], ids=str
)
def test_gradients_that_nobody_asks_for(frozen):
    x, norm = maps(1, 8, 72, 72), nn.BatchNorm2d(8)
    for name in frozen:
        getattr(norm, name).requires_grad_(False)
    x.requires_grad_()
    apply_norm(norm, x).square().sum().backward()
    assert x.grad is not None
    assert {n for n, p in norm.named_parameters() if p.grad is None} == set(frozen)


def test_gradients_of_gradients(monkeypatch):
    monkeypatch.setattr(batch_norm, 'loses_digits', lambda x, scale: True)
    x, norm = maps(2, 3, 4, 5, dtype=torch.float64), nn.BatchNorm2d(3).double()
    weights = torch.rand(2, 3, dtype=torch.float64).requires_grad_().unbind()

    def run(x, weight, bias):
        return batch_norm._BatchNorm.apply(x, weight, bias, norm)

    assert gradcheck(run, (x.requires_grad_(), *weights))
    assert gradgradcheck(run, (x, *weights))


def test_narrow_maps_under_a_norm_of_single_precision():
    x, norm = maps(2, 8, 72, 72, dtype=torch.bfloat16), nn.BatchNorm2d(8)
    grad = maps(2, 8, 72, 72, dtype=torch.bfloat16).flip(3)
    copied = copy.deepcopy(norm)
    own = gradients(lambda x: apply_norm(norm, x), norm, x, grad)
    plain = gradients(copied, copied, x, grad)
    assert [g.dtype for g in own] == [torch.bfloat16, torch.float32, torch.float32]
    for of_own, of_plain in zip(own, plain, strict=True):
        assert torch.allclose(of_own, of_plain, rtol=0.02, atol=0.02)


def test_other_norms_are_called():
    x = maps(1, 8, 72, 72)
    for norm in (
        nn.Identity(),
        nn.BatchNorm2d(8).eval(),
        nn.GroupNorm(2, 8),
        nn.BatchNorm2d(8, affine=False),
    ):
        assert torch.equal(apply_norm(copy.deepcopy(norm), x), norm(x))


@pytest.mark.parametrize('arch', ['m0', 'a0', 't'])
def test_no_norm_of_a_model_loses_digits(arch, monkeypatch):
    """Those of token mixers and between stages neither."""
    seen = set()

    def watched(x, norm):
        seen.add(norm)
        return statistics(x, norm)

    for module in (batch_norm, recompute):
        monkeypatch.setattr(module, 'statistics', watched)
    monkeypatch.setattr(batch_norm, 'FEW_PIXELS', 0)
    model = RecNeXt(arch).train()
    model(torch.randn(2, 3, 64, 96))
    assert seen == {m for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
