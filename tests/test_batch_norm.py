import copy

import pytest
import torch
from torch import nn

from mmrecnext.ops.batch_norm import loses_digits, moments, statistics


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
    'shape', [(2, 3, 41, 53), (1, 40, 67, 129), (3, 1500, 33, 12)], ids=str
)
def test_sizes_that_no_band_divides(shape, dtype):
    x = maps(*shape, dtype=dtype)
    assert loses_digits(x, nn.BatchNorm2d(shape[1]))
    mean, var = moments(x, torch.float32)
    expected_var, expected = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    spread = (expected_var + expected.square()).sqrt()
    bound = max(1e-6, 1e-3 * torch.finfo(dtype).eps)
    assert ((mean - expected) / spread).abs().max() < bound
    assert (var / expected_var - 1).abs().max() < bound


@pytest.mark.parametrize('momentum', [0.1, None])
def test_learns_as_the_norm_does(momentum):
    x = maps(2, 6, 40, 40)
    norm = nn.BatchNorm2d(6, momentum=momentum)
    plain = copy.deepcopy(norm).double()
    for scale in (1, 2, 3):
        statistics(scale * x, norm)
        plain(scale * x.double())
    for own, other in zip(norm.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(own.double(), other.double(), rtol=1e-5, atol=1e-6)
