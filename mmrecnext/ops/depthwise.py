"""Depthwise convolution that is fast on a CPU, forward and backward."""

from __future__ import annotations

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrecnext.ops import fast_paths

# oneDNN has a kernel for the weight gradient of depthwise convolutions as wide as this
# at most. Beyond it takes a general one, which is an order of magnitude slower.
WIDEST = 3
# Smaller maps are not worth being taken apart; but those that are smaller than the
# kernel are soon, for the general one then copies all that the kernel meets.
LEAST_NUMEL = 2**15
LEAST_NUMEL_BELOW_KERNEL = 2**11
# That kernel adds up one pixel after the other, so that the sum of many loses digits.
MOST_PIXELS = 2**12


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` of one input channel per group, by :func:`depthwise`.

    It computes the same, and has the same parameters.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``[N, C, H, W]``."""
        return depthwise(x, self)


def depthwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return ``conv(x)``, on a CPU faster if each channel is convolved by itself.

    Args:
        x: ``[N, C, H, W]``.
        conv: what is no depthwise convolution, or on another device, runs as ever.
    """
    if isinstance(conv.padding, str) or not _is_apt(x, conv):
        return depthwise_plain(x, conv)
    weight, bias = conv.weight, conv.bias
    if torch.is_autocast_enabled('cpu'):
        dtype = torch.get_autocast_dtype('cpu')
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if _only_scales(conv):
        # On one thread, PyTorch loops over the channels of such a convolution.
        y = x * _per_channel(weight)
        return y if bias is None else y + _per_channel(bias)
    if conv.training and torch.is_grad_enabled():
        return _Depthwise.apply(x, weight, bias, conv.stride, conv.padding)
    return _convolve(x, weight, bias, conv.stride, conv.padding)


def depthwise_plain(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return what :func:`depthwise` does, by PyTorch's own layer."""
    return nn.Conv2d.forward(conv, x)


def _only_scales(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.out_channels == conv.in_channels
    )


def _is_apt(x: Tensor, conv: nn.Conv2d) -> bool:
    is_compiled = torch.compiler.is_compiling() and conv.training
    return (
        fast_paths.are_on()
        and not is_compiled
        and x.device.type == 'cpu'
        and x.dim() == 4
        and conv.groups == conv.in_channels
        and conv.dilation == (1, 1)
        and conv.padding_mode == 'zeros'
    )


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> Tensor:
    """Convolve each channel by itself.

    oneDNN knows only as many outputs as inputs as depthwise: several outputs of each
    input are as many convolutions.

    Args:
        x: ``[N, C, H, W]``.
        weight: ``[times * C, 1, K, L]``, those of one channel side by side.
        bias: ``[times * C]``.
        stride: in pixels, down and to the right.
        padding: zeros above and below, and on either side.
    """
    times = len(weight) // x.size(1)
    if times == 1:
        return F.conv2d(x, weight, bias, stride, padding, groups=x.size(1))
    parts = [
        F.conv2d(x, part, None, stride, padding, groups=x.size(1))
        for part in _split(weight, 0, times)
    ]
    y = torch.stack([part.permute(0, 2, 3, 1) for part in parts], -1)
    y = y.flatten(3).permute(0, 3, 1, 2)
    return y if bias is None else y.add_(_per_channel(bias))


def _per_channel(x: Tensor) -> Tensor:
    return x.flatten()[:, None, None]


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution of any channel multiplier, channels-last."""

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.has_bias = stride, padding, bias is not None
        x = x.contiguous(memory_format=torch.channels_last)
        return _convolve(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # of gradients, gradients are wanted
            mask = ctx.needs_input_grad[:3]
            grads = _convolution_backward(
                grad, x, weight, ctx.stride, ctx.padding, mask
            )
            return *grads, None, None
        x = x.contiguous(memory_format=torch.channels_last)
        times = len(weight) // x.size(1)
        grads = [
            part.contiguous(memory_format=torch.channels_last)
            for part in _split(grad, 1, times)
        ]
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x, *rest = (
                _backward(part, x, part_of_weight, ctx.stride, ctx.padding, 0)
                for part, part_of_weight in zip(
                    grads, _split(weight, 0, times), strict=True
                )
            )
            for other in rest:
                grad_x.add_(other)
        if ctx.needs_input_grad[1]:
            parts = [
                weight_gradient(part, x, weight, ctx.stride, ctx.padding)
                for part in grads
            ]
            grad_weight = torch.stack(parts, 1).flatten(0, 1)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias, None, None


def _split(x: Tensor, dim: int, times: int) -> list[Tensor]:
    """Return every ``times``-th entry of a dimension, from the first, second..."""
    return [x] if times == 1 else list(x.unflatten(dim, (-1, times)).unbind(dim + 1))


def _backward(grad, x, weight, stride, padding, which: int) -> Tensor:
    """Return the gradient with respect to ``x`` (``which`` 0) or ``weight`` (1)."""
    mask = [which == 0, which == 1, False]
    return _convolution_backward(grad, x, weight, stride, padding, mask)[which]


def _convolution_backward(grad, x, weight, stride, padding, mask):
    """Return the gradients with respect to ``x``, ``weight`` and bias, by PyTorch."""
    bias_sizes = [len(weight)] if mask[2] else None
    return torch.ops.aten.convolution_backward(
        *(grad, x, weight, bias_sizes, stride, padding),
        *((1, 1), False, (0, 0), x.size(1), mask),
    )


def weight_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """Return the gradient of a depthwise convolution with respect to its weight.

    Some columns of the kernel at a time, each few enough for the fast routine: they are
    a convolution by themselves, of a map that begins further to the right. In memory,
    that is the same padded map from some pixels on. What then follows the end of a row
    is of the next, and meets a gradient of zero.

    Args:
        grad: gradient of the result, ``[N, C, H', W']``.
        x: what was convolved, ``[N, C, H, W]``.
        weight: ``[..., 1, K, L]``, of which only the last two sizes matter.
        stride: in pixels, down and to the right.
        padding: zeros above and below, and on either side.

    Returns:
        ``[C, 1, K, L]``.
    """
    rows, columns = weight.shape[2:]
    n, channels, height, width = grad.shape
    like = weight.new_empty(channels, 1, rows, columns)
    is_small = n * height * width <= MOST_PIXELS
    is_below_kernel = x.size(2) < rows or x.size(3) < columns
    least = LEAST_NUMEL_BELOW_KERNEL if is_below_kernel else LEAST_NUMEL
    if (is_small and columns <= WIDEST) or grad.numel() < least:
        return _backward(grad, x, like, stride, padding, 1)

    reach = (height - 1) * stride[0] + rows, (width - 1) * stride[1] + columns
    some = min(columns, WIDEST)
    last = columns - some
    width = (reach[1] - some) // stride[1] + 1  # with the pixels of no gradient
    x = _framed(x, reach, padding, last)
    grad = _framed(grad, (height, width), (0, 0))
    images, band = (n, height) if is_small else (1, max(1, MOST_PIXELS // width))

    def by_part(begin: int, image: int, top: int) -> Tensor:
        high = min(band, height - top)
        shape = (images, high, width)
        source = (images, (high - 1) * stride[0] + rows, reach[1])
        return _backward(
            _window(grad, (image * height + top) * width, shape),
            _window(x, (image * reach[0] + top * stride[0]) * reach[1] + begin, source),
            like[..., :some],
            stride,
            (0, 0),
            1,
        )

    parts = list(product(range(0, n, images), range(0, height, band)))
    for begin in sorted({*range(0, last, some), last}):
        like[..., begin : begin + some] = sum(by_part(begin, *part) for part in parts)
    return like


def _framed(x: Tensor, size, padding, spare: int = 0) -> Tensor:
    """Return the pixels of a map behind zeros, and with zeros up to ``size``.

    Args:
        x: ``[N, C, H, W]``.
        size: height and width of the frame; what does not fit is cut off.
        padding: zeros above, and to the left.
        spare: pixels beyond the last.

    Returns:
        ``[N * height * width + spare, C]``, row by row.
    """
    height, width = size
    top, left = padding
    pixels = x.size(0) * height * width
    result = x.new_empty(pixels + spare, x.size(1))
    result[pixels:] = 0
    x = x[:, :, : height - top, : width - left].permute(0, 2, 3, 1)
    bottom, right = top + x.size(1), left + x.size(2)
    frame = result[:pixels].unflatten(0, (-1, height, width))
    frame[:, top:bottom, left:right] = x
    for margin in (
        frame[:, :top],
        frame[:, bottom:],
        frame[:, top:bottom, :left],
        frame[:, top:bottom, right:],
    ):
        margin.zero_()
    return result


def _window(pixels: Tensor, start: int, shape: tuple[int, int, int]) -> Tensor:
    """View pixels ``[P, C]``, from one on, as maps of ``shape`` ``(N, H, W)``."""
    part = pixels[start : start + math.prod(shape)]
    return part.unflatten(0, shape).permute(0, 3, 1, 2)
