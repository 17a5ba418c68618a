"""Convolutions of the inference form, with what follows them done in the same pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrecnext.compat import ONEDNN, onednn_dtypes
from mmrecnext.ops import fast_paths

ONEDNN_DTYPES = onednn_dtypes()
POINTWISE = ([0, 0], [1, 1], [1, 1], 1)  # padding, stride, dilation, groups
# The expanded map of so many bytes stays in cache. A whole one of high resolution would
# besides be memory that the system hands out anew, page by page, each time.
BAND_BYTES = 6 * 2**20


def conv_gelu(x: Tensor, conv: nn.Module) -> Tensor:
    """Return ``gelu(conv(x))``, the exact GELU.

    Args:
        x: ``[N, C, H, W]``.
        conv: a convolution, by itself or with a norm of its own.
    """
    if runs_on_onednn(x, conv):
        settings = (conv.padding, conv.stride, conv.dilation, conv.groups)
        return _conv_gelu(x, conv.weight, conv.bias, *settings)
    return conv_gelu_plain(x, conv)


def conv_gelu_plain(x: Tensor, conv: nn.Module) -> Tensor:
    """Return what :func:`conv_gelu` does, layer by layer."""
    return F.gelu(conv(x))


def mix_channels(
    x: Tensor,
    expand: nn.Module,
    project: nn.Module,
    residual: Tensor,
    overwrite: bool = False,
) -> Tensor:
    """Return ``project(gelu(expand(x))) + residual``.

    Args:
        x: ``[N, C, H, W]``.
        expand: a convolution of kernel size 1, by itself or with a norm of its own.
        project: likewise, back to ``C`` channels.
        residual: ``[N, C, H, W]``.
        overwrite: whether the result may take the place of ``x``, as of a map that
            nobody else holds.
    """
    if not all(
        runs_on_onednn(x, conv) and is_pointwise(conv) for conv in (expand, project)
    ):
        return mix_channels_plain(x, expand, project, residual)
    result = x.contiguous(memory_format=torch.channels_last)
    if result is x and not overwrite:
        result = x.clone()
    _mix_channels(
        result,
        expand.weight,
        expand.bias,
        project.weight,
        project.bias,
        None if residual is x else residual,
    )
    return result


def mix_channels_plain(
    x: Tensor, expand: nn.Module, project: nn.Module, residual: Tensor
) -> Tensor:
    """Return what :func:`mix_channels` does, one convolution after the other."""
    return project(conv_gelu_plain(x, expand)) + residual


def memory_format(x: Tensor, weight: Tensor) -> torch.memory_format:
    """Return the memory format that ``nn.Conv2d`` gives to what it makes of ``x``."""
    is_last = any(
        t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()
        for t in (x, weight)
    )
    return torch.channels_last if is_last else torch.contiguous_format


def is_pointwise(conv: nn.Module) -> bool:
    """Tell whether a convolution is one matrix product for all pixels."""
    if not isinstance(conv, nn.Conv2d):
        return False
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.groups)
    return shape == ((1, 1), (1, 1), (0, 0), 1)


def runs_on_onednn(x: Tensor, conv: nn.Module) -> bool:
    """Tell whether oneDNN's fused convolutions do this one.

    They have no gradient, do not take part in autocast, and would tie a traced or
    exported model to this kind of machine.
    """
    return (
        fast_paths.are_on()
        and x.dtype in ONEDNN_DTYPES
        and x.numel() > 0
        and isinstance(conv, nn.Conv2d)
        and x.device.type == 'cpu'
        and x.dtype == conv.weight.dtype
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled('cpu')
    )


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
    return ONEDNN._convolution_pointwise(
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


@torch.library.custom_op('mmrecnext::mix_channels', mutates_args=['x'])
def _mix_channels(
    x: Tensor,
    expand: Tensor,
    expand_bias: Tensor | None,
    project: Tensor,
    project_bias: Tensor | None,
    residual: Tensor | None,
) -> None:
    """Overwrite ``x``, channels-last, by what its channels mix to, plus ``residual``.

    Without one, plus itself.
    """
    rows = x.permute(0, 2, 3, 1).view(-1, x.shape[1])
    bands = max(1, round(len(rows) * len(expand) * x.itemsize / BAND_BYTES))
    pixels = max(1, -(-len(rows) // bands))
    parts = rows.split(pixels)
    rests: Sequence[Tensor | None] = [None] * len(parts)
    if residual is not None:
        rests = residual.permute(0, 2, 3, 1).reshape(rows.shape).split(pixels)
    for band, rest in zip(parts, rests, strict=True):
        hidden = ONEDNN._convolution_pointwise(
            _as_map(band), expand, expand_bias, *POINTWISE, 'gelu', [], 'none'
        )
        if rest is not None:
            band.copy_(rest)
        ONEDNN._convolution_pointwise_.binary(
            _as_map(band), hidden, project, project_bias, *POINTWISE,
            'add', 1.0, None, [], None,
        )  # fmt: skip


@_mix_channels.register_fake
def _(x, expand, expand_bias, project, project_bias, residual):
    pass


def _as_map(rows: Tensor) -> Tensor:
    """View pixels ``[P, C]`` as a map of one row."""
    return rows[None, None].permute(0, 3, 1, 2)
