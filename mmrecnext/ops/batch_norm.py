"""Batch norm in two steps: statistics of the batch, then what they make of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from mmrecnext.compat import PLAIN_BATCH_NORMS, BatchNorm, has_hooks
from mmrecnext.ops import fast_paths

aten = torch.ops.aten

FEW_PIXELS = 2**12  # sums of no more are exact enough
SUMS = 2**10  # that are added to side by side
BAND = 2**20  # numbers whose sums are put together


class Normed(nn.Sequential):
    """A layer, then a norm, by :func:`apply_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``norm(layer(x))``."""
        layer, norm = self
        return apply_norm(norm, layer(x))


def apply_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Return ``norm(x)``, and have a batch norm add up as exactly as in other layouts.

    Args:
        norm: any layer; those but batch norms in training are called.
        x: ``[N, C, H, W]``.
    """
    if (
        fast_paths.are_on()
        and not torch.compiler.is_compiling()
        and norm.training
        and is_plain(norm)
        and loses_digits(x, norm.weight)
        and not has_hooks(norm)
    ):
        return _BatchNorm.apply(x, norm.weight, norm.bias, norm)
    return norm(x)


def is_plain(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Tell whether a layer is a batch norm of one process that learns all it can."""
    return (
        isinstance(norm, BatchNorm)
        and type(norm) in PLAIN_BATCH_NORMS
        and norm.affine
        and norm.track_running_stats
        and norm.weight.dtype in (torch.float32, torch.float64)
        and 'weight' not in vars(norm)  # where others have put a tensor
    )


class _BatchNorm(torch.autograd.Function):
    """A batch norm in training, of a map whose sums PyTorch would lose digits of."""

    @staticmethod
    def forward(ctx, x, scale, shift, norm):
        mean, invstd = statistics(x, norm)
        ctx.save_for_backward(x, scale, mean, invstd)
        ctx.eps = norm.eps
        return normalize(x, mean, invstd, scale, shift, norm.eps)

    @staticmethod
    def backward(ctx, grad):
        x, scale, mean, invstd = ctx.saved_tensors
        mask = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # of gradients, gradients are wanted
            grads = aten.native_batch_norm_backward(
                grad, x, scale, None, None, mean, invstd, True, ctx.eps, mask
            )
        else:
            grads = norm_backward(grad, x, scale, mean, invstd, ctx.eps, True, mask)
        return *grads, None


def statistics(x: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return by what ``norm`` normalises ``x``, and in training let it learn that.

    Returns:
        Mean and one over the standard deviation, each ``[C]``.

    Raises:
        ValueError: in training, for one value per channel.
    """
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None  # as in all that are plain
    learnt = mean, var
    if not norm.training:
        # Copied, for others to learn from later batches.
        return mean.clone(), (var + norm.eps).rsqrt()
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
    if not loses_digits(x, norm.weight):
        mean, var = aten.batch_norm_update_stats(x, *learnt, momentum or 0.0)
        return mean, (var + norm.eps).rsqrt()
    mean, var = moments(x, norm.weight.dtype)
    count = x.numel() // x.size(1)
    for buffer, new in zip(learnt, (mean, var * count / (count - 1)), strict=True):
        buffer.lerp_(new.to(buffer.dtype), momentum or 0.0)
    mean, var = (value.to(norm.weight.dtype) for value in (mean, var))
    return mean, (var + norm.eps).rsqrt()


def loses_digits(x: Tensor, scale: Tensor) -> bool:
    """Tell whether PyTorch adds up all pixels of ``x`` one by one, in single precision.

    Its kernel for channels-last maps on a CPU does, for a norm of weight ``scale``.
    """
    return (
        x.device.type == 'cpu'
        and scale.dtype == torch.float32
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
    counts, means, variances = [], [], []
    for band in _bands(x):
        lanes, pixels = band.size(1), band.size(3)
        zeros = band.new_zeros(lanes, dtype=dtype)
        mean, var = aten.batch_norm_update_stats(band, zeros, zeros, 0.0)
        counts += [pixels] * (lanes // channels)
        means.append(mean.view(-1, channels))
        variances.append(var.view(-1, channels))
    shares = torch.tensor(counts, dtype=torch.float64)[:, None]
    shares /= shares.sum()
    each_mean, each_var = torch.cat(means).double(), torch.cat(variances).double()
    mean = (shares * each_mean).sum(0)
    return mean, (shares * (each_var + (each_mean - mean).square())).sum(0)


def _bands(x: Tensor) -> Iterator[Tensor]:
    """Take a channels-last map apart, and neighbouring pixels for channels.

    Yields:
        ``[1, S * C, 1, L]``, channels-last: the first ``C`` of the channels are those
        of every ``S``-th pixel from the first, and so on.
    """
    channels = x.size(1)
    pixels = _pixels(x)
    group = max(1, SUMS // channels)
    size = group * max(1, BAND // (group * channels))
    rest = len(pixels) % group
    for band in (
        *pixels[: len(pixels) - rest].split(size),
        pixels[len(pixels) - rest :],
    ):
        if len(band):
            side = group if len(band) >= group else 1
            yield band.view(1, 1, -1, side * channels).permute(0, 3, 1, 2)


def _pixels(x: Tensor) -> Tensor:
    """View a channels-last map as ``[N * H * W, C]``."""
    return x.permute(0, 2, 3, 1).view(-1, x.size(1))


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


def norm_backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    mean: Tensor,
    invstd: Tensor,
    eps: float,
    by_batch: bool,
    mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of ``x``, of weight and bias of the norm.

    Args:
        grad: of the result, ``[N, C, H, W]``.
        x: what was normalised, ``[N, C, H, W]``.
        scale: weight of the norm, ``[C]``.
        mean: by which it was, ``[C]``.
        invstd: likewise.
        eps: of the norm.
        by_batch: whether these are those of ``x`` itself.
        mask: whether each of the gradients is wanted.
    """
    grad = laid_out(grad, x)
    if not (x.dtype == scale.dtype and loses_digits(x, scale)):
        var = invstd.square().reciprocal() - eps
        return aten.native_batch_norm_backward(
            grad, x, scale, mean, var, mean, invstd, by_batch, eps, [*mask]
        )
    total, product = _sums(grad, x, mean)
    factor = (scale * invstd).double()
    grad_x = None
    if mask[0] and by_batch:
        count = x.numel() / x.size(1)
        slope = -factor * product * invstd.double().square() / count
        offset = -factor * total / count - slope * mean
        grad_x = _combine(grad, x, *(v.to(x.dtype) for v in (factor, slope, offset)))
    elif mask[0]:
        grad_x = grad * factor.to(x.dtype)[:, None, None]
    return (
        grad_x,
        (product * invstd).to(scale.dtype) if mask[1] else None,
        total.to(scale.dtype) if mask[2] else None,
    )


def _sums(grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of ``grad`` and of ``grad * (x - mean)``, ``[C]``, float64.

    Added up as :func:`moments` does, by the kernel for the backward pass in inference.
    """
    channels = x.size(1)
    totals, products = [], []
    for of_grad, of_x in zip(_bands(grad), _bands(x), strict=True):
        means = mean.repeat(of_x.size(1) // channels)
        ones = torch.ones_like(means)
        _, product, total = aten.native_batch_norm_backward(
            of_grad,
            of_x,
            ones,
            means,
            ones,
            None,
            None,
            False,
            0.0,
            [False, True, True],
        )
        totals.append(total.view(-1, channels))
        products.append(product.view(-1, channels))
    return torch.cat(totals).double().sum(0), torch.cat(products).double().sum(0)


def _combine(
    grad: Tensor, x: Tensor, factor: Tensor, slope: Tensor, offset: Tensor
) -> Tensor:
    """Return ``factor * grad + slope * x + offset``, in bands that stay in cache."""
    result = torch.empty_like(x)
    rows = max(1, BAND // x.size(1))
    for out, of_grad, of_x in zip(
        *(_pixels(t).split(rows) for t in (result, grad, x)), strict=True
    ):
        torch.addcmul(offset, of_x, slope, out=out).addcmul_(of_grad, factor)
    return result


def laid_out(x: Tensor, like: Tensor) -> Tensor:
    """Return ``x`` dense, in the order that the elements of ``like`` have in memory."""
    if like.is_contiguous(memory_format=torch.channels_last):
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()
