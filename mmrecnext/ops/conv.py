"""Convolutions of the inference form, with what follows them done in the same pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_gelu(x: Tensor, conv: nn.Module) -> Tensor:
    """Return ``gelu(conv(x))``, the exact GELU.

    Args:
        x: ``[N, C, H, W]``.
        conv: a convolution, by itself or with a norm of its own.
    """
    if runs_on_onednn(x, conv):
        return _conv_gelu(x, conv.weight, conv.bias, *_settings(conv))
    return F.gelu(conv(x))


def conv_add(x: Tensor, conv: nn.Module, other: Tensor) -> Tensor:
    """Return ``conv(x) + other``.

    Args:
        x: ``[N, C, H, W]``.
        conv: a convolution, by itself or with a norm of its own.
        other: of the shape of the result.
    """
    if runs_on_onednn(x, conv):
        return _conv_add(x, other, conv.weight, conv.bias, *_settings(conv))
    return conv(x) + other


def runs_on_onednn(x: Tensor, conv: nn.Module) -> bool:
    """Tell whether oneDNN's fused convolutions do this one.

    They have no gradient, do not take part in autocast, and would tie a traced or
    exported model to this kind of machine.
    """
    return (
        HAS_ONEDNN
        and isinstance(conv, nn.Conv2d)
        and x.device.type == 'cpu'
        and x.dtype == conv.weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled('cpu')
        and not torch.jit.is_tracing()
        and not torch.compiler.is_exporting()
    )


def _settings(conv: nn.Conv2d) -> tuple:
    return [*conv.padding], [*conv.stride], [*conv.dilation], conv.groups


def _has_onednn() -> bool:
    """Tell whether this build of PyTorch has the fused convolution as known here."""
    fused = getattr(torch.ops.mkldnn, '_convolution_pointwise', None)
    return torch.backends.mkldnn.is_available() and hasattr(fused, 'binary')


HAS_ONEDNN = _has_onednn()


# As operators of their own, for torch.compile to take as they are: it knows neither
# the shape of what oneDNN's return, nor a better way.
@torch.library.custom_op('mmrecnext::conv_gelu', mutates_args=())
def _conv_gelu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise(
        x.contiguous(memory_format=torch.channels_last),
        weight,
        bias,
        padding,
        stride,
        dilation,
        groups,
        'gelu',
        [],
        'none',
    )


@_conv_gelu.register_fake
def _(x, weight, bias, padding, stride, dilation, groups):
    # Not by F.conv2d, which would have torch.compile tell small maps from large ones.
    sides = [
        (side + 2 * pad - dilate * (kernel - 1) - 1) // step + 1
        for side, pad, dilate, kernel, step in zip(
            x.shape[2:], padding, dilation, weight.shape[2:], stride, strict=True
        )
    ]
    return torch.empty(
        (x.shape[0], weight.shape[0], *sides),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )


@torch.library.custom_op('mmrecnext::conv_add', mutates_args=())
def _conv_add(
    x: Tensor,
    other: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise.binary(
        x.contiguous(memory_format=torch.channels_last),
        other.contiguous(memory_format=torch.channels_last),
        weight,
        bias,
        padding,
        stride,
        dilation,
        groups,
        'add',
        1.0,
        None,
        [],
        None,
    )


@_conv_add.register_fake
def _(x, other, weight, bias, padding, stride, dilation, groups):
    return torch.empty_like(other, memory_format=torch.channels_last)
