"""Depthwise convolution that is fast on a CPU, forward and backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# oneDNN has a kernel for the weight gradient of depthwise convolutions as wide as this
# at most. Beyond it takes a general one, which is an order of magnitude slower.
WIDEST = 3
# Smaller maps are not worth being taken apart.
LEAST_NUMEL = 2**15
# That kernel adds up one pixel after the other, so that the sum of many loses digits.
MOST_PIXELS = 2**12


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` of one input channel per group, on a CPU a faster one.

    It computes the same, and has the same parameters. What is no depthwise convolution,
    or on another device than a CPU, runs as ever.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``[N, C, H, W]``."""
        if not self._is_apt(x):
            return super().forward(x)
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled('cpu'):
            dtype = torch.get_autocast_dtype('cpu')
            x, weight = x.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        if self.training and torch.is_grad_enabled():
            return _Depthwise.apply(x, weight, bias, self.stride, self.padding)
        return depthwise(x, weight, bias, self.stride, self.padding)

    def _is_apt(self, x: Tensor) -> bool:
        is_compiled = torch.compiler.is_compiling() and self.training
        return (
            not is_compiled
            and not torch.jit.is_tracing()
            and not torch.compiler.is_exporting()
            and x.device.type == 'cpu'
            and x.dim() == 4
            and self.groups == self.in_channels
            and self.dilation == (1, 1)
            and self.padding_mode == 'zeros'
            and not isinstance(self.padding, str)
        )


def depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
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
    return y if bias is None else y.add_(bias[:, None, None])


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution of any channel multiplier, channels-last."""

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding):
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.has_bias = stride, padding, bias is not None
        return depthwise(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
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
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), x.size(1), mask
    )[which]


def weight_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """Return the gradient of a depthwise convolution with respect to its weight.

    Some columns of the kernel at a time, each few enough for the fast routine: they are
    a convolution by themselves, of a map that begins further to the right.

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
    like = weight.new_empty(x.size(1), 1, rows, columns)
    pixels = grad.numel() // grad.size(1)
    is_simple = columns <= WIDEST and pixels <= MOST_PIXELS
    if is_simple or grad.numel() < LEAST_NUMEL:
        return _backward(grad, x, like, stride, padding, 1)
    height, width = padding
    x = F.pad(x, (width, width, height, height))
    band = max(1, MOST_PIXELS // (grad.size(0) * grad.size(3)))
    total = torch.zeros_like(like)
    for top in range(0, grad.size(2), band):
        part = grad[:, :, top : top + band]
        begin = top * stride[0]
        part_of_x = x[:, :, begin : begin + (part.size(2) - 1) * stride[0] + rows]
        total += _by_columns(part, part_of_x, like, stride)
    return total


def _by_columns(grad: Tensor, x: Tensor, weight: Tensor, stride) -> Tensor:
    """Return the gradient of the weight, of a convolution without padding."""
    columns = weight.size(3)
    reach = (grad.size(3) - 1) * stride[1]
    parts = []
    begin = 0
    # As even as can be: a single column is slow where the stride is 2.
    for indices in torch.arange(columns).tensor_split(-(-columns // WIDEST)):
        some = len(indices)
        window = x[..., begin : begin + reach + some]
        parts.append(_backward(grad, window, weight[..., :some], stride, (0, 0), 1))
        begin += some
    return torch.cat(parts, 3)
