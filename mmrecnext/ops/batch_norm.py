"""Batch norm in two steps: statistics of the batch, then what they make of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

aten = torch.ops.aten

FEW_PIXELS = 2**10  # sums of no more are exact enough
SUMS = 2**10  # that are added to side by side
BAND = 2**20  # numbers whose sums are put together


def statistics(x: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return by what ``norm`` normalises ``x``, and in training let it learn that.

    Returns:
        Mean and one over the standard deviation, each ``[C]``.

    Raises:
        ValueError: in training, for one value per channel.
    """
    if not norm.training:
        # Copied, for others to learn from later batches.
        return norm.running_mean.clone(), (norm.running_var + norm.eps).rsqrt()
    if x.numel() == x.size(1):
        raise ValueError(
            'Expected more than 1 value per channel when training, '
            f'got input size {list(x.shape)}'
        )
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1 / float(norm.num_batches_tracked)
    learnt = norm.running_mean, norm.running_var
    if not loses_digits(x, norm):
        mean, var = aten.batch_norm_update_stats(x, *learnt, momentum or 0.0)
        return mean, (var + norm.eps).rsqrt()
    mean, var = moments(x, norm.weight.dtype)
    count = x.numel() // x.size(1)
    for buffer, new in zip(learnt, (mean, var * count / (count - 1)), strict=True):
        buffer.lerp_(new.to(buffer.dtype), momentum or 0.0)
    mean, var = (value.to(norm.weight.dtype) for value in (mean, var))
    return mean, (var + norm.eps).rsqrt()


def loses_digits(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Tell whether PyTorch adds up all pixels of ``x`` one by one, in single precision.

    Its kernel for channels-last maps on a CPU does.
    """
    return (
        x.device.type == 'cpu'
        and norm.weight.dtype == torch.float32
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
        and x.numel() > x.size(1) * FEW_PIXELS
    )


def moments(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel, of a map with channels side by side.

    PyTorch's kernel takes neighbouring pixels for channels of their own, in bands of a
    map that stay in cache: each of its sums is short, and what it sums to is put
    together in double.

    Args:
        x: ``[N, C, H, W]``, channels-last.
        dtype: that the kernel sums in.

    Returns:
        Two tensors ``[C]``, float64; the variance is that of the pixels themselves.
    """
    channels = x.size(1)
    pixels = x.permute(0, 2, 3, 1).view(-1, channels)
    group = max(1, SUMS // channels)
    size = group * max(1, BAND // (group * channels))
    rest = len(pixels) % group
    bands = [*pixels[: len(pixels) - rest].split(size), pixels[len(pixels) - rest :]]
    counts, means, variances = [], [], []
    for band in filter(len, bands):
        side = group if len(band) >= group else 1
        zeros = band.new_zeros(side * channels, dtype=dtype)
        wide = band.view(1, 1, -1, side * channels).permute(0, 3, 1, 2)
        mean, var = aten.batch_norm_update_stats(wide, zeros, zeros, 0.0)
        counts += [len(band) / side] * side
        means.append(mean.view(side, channels))
        variances.append(var.view(side, channels))
    shares = torch.tensor(counts, dtype=torch.float64)[:, None] / len(pixels)
    each_mean, each_var = torch.cat(means).double(), torch.cat(variances).double()
    mean = (shares * each_mean).sum(0)
    return mean, (shares * (each_var + (each_mean - mean).square())).sum(0)


def normalize(
    x: Tensor, mean: Tensor, invstd: Tensor, scale: Tensor, shift: Tensor, eps: float
) -> Tensor:
    """Return ``(x - mean) * invstd * scale + shift``, of the dtype of ``x``.

    Args:
        x: ``[N, C, H, W]``.
        mean: ``[C]``, as all that follow.
        invstd: one over the standard deviation, which is that of a variance plus eps.
        scale: weight of the norm.
        shift: bias of the norm.
        eps: of the norm.
    """
    if x.dtype == scale.dtype:
        scale = scale * invstd
        shift = shift - mean * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None])
    var = invstd.square().reciprocal() - eps
    return aten.native_batch_norm(x, scale, shift, mean, var, False, 0.0, eps)[0]
