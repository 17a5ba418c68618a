"""Recursive convolution for inference on CUDA."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmrecnext.ops import fast_paths
from mmrecnext.ops.depthwise import DepthwiseConv2d
from mmrecnext.ops.kernels import equal_or_above, triton_is_usable

INTERPOLATIONS = ('bilinear', 'nearest')
KERNEL_SIZES = (3, 5, 7)


def runs_on_triton(
    x: Tensor, down: nn.Module | None, convs: Sequence[nn.Module], mode: str
) -> bool:
    """Tell whether :func:`recconv` can do the work of these layers.

    Args:
        x: ``[N, C, H, W]``.
        down: the depthwise convolution that halves the map, if there is more than one
            level.
        convs: the depthwise convolution of each level, the coarsest first.
        mode: how maps are enlarged.
    """
    layers = [*convs] if down is None else [*convs, down]
    if (
        not fast_paths.are_on()
        or not x.is_cuda
        or mode not in INTERPOLATIONS
        or not all(type(layer) in (nn.Conv2d, DepthwiseConv2d) for layer in layers)
        or not all(layer.dilation == (1, 1) for layer in layers)
        or fast_paths.has_hooks(*layers)
    ):
        return False
    side = convs[0].weight.shape[-1]
    kernel_size = equal_or_above(side, KERNEL_SIZES)
    tensors = [x, *(p for layer in layers for p in layer.parameters())]
    return kernel_size == side and triton_is_usable(
        tensors, try_recconv, kernel_size, mode
    )


def recconv(
    x: Tensor, down: nn.Conv2d | None, convs: Sequence[nn.Conv2d], mode: str
) -> Tensor:
    """Return what these layers make of ``x``; see :func:`runs_on_triton`.

    The formula is that of :class:`~mmrecnext.models.recconv.RecConv`. Maps had better
    be channels-last, as the result is.
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    return torch.ops.mmrecnext.recconv(
        x,
        None if down is None else down.weight,
        [conv.weight for conv in convs],
        convs[-1].bias,
        mode,
    )


def try_recconv(dtype: torch.dtype, kernel_size: int, mode: str):
    """Run the kernels on a small map of the current device."""
    import mmrecnext.ops.recconv_triton  # noqa: F401

    x = torch.zeros(1, 64, 2, 2, dtype=dtype)
    weight = torch.zeros(64, 1, kernel_size, kernel_size, dtype=dtype)
    torch.ops.mmrecnext.recconv(x, weight, [weight, weight], None, mode)
