"""Recursive convolution, by PyTorch or, for inference on CUDA, by Triton."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrecnext.compat import has_hooks
from mmrecnext.ops import fast_paths
from mmrecnext.ops.constants import INTERPOLATIONS, KERNEL_SIZES
from mmrecnext.ops.depthwise import DepthwiseConv2d
from mmrecnext.ops.kernels import equal_or_above, on_device_of, triton_is_usable

Layers = Sequence[nn.Module] | nn.ModuleList
Halve = Callable[[Tensor], tuple[Tensor, Tensor | None]]
Enlarge = Callable[[Tensor, Sequence[int], Tensor | None], Tensor]


def recconv(x: Tensor, down: nn.Module | None, convs: Layers, mode: str) -> Tensor:
    """Convolve a pyramid of ``x``, from the coarsest level up.

    The formula is that of :class:`~mmrecnext.models.recconv.RecConv`.

    Args:
        x: ``[N, C, H, W]``; had better be channels-last, as the result of Triton is.
        down: the depthwise convolution that halves the map, if there is more than one
            level.
        convs: the depthwise convolution of each level, the coarsest first.
        mode: interpolation by which maps are enlarged, one of ``INTERPOLATIONS``.
    """
    if _runs_on_triton(x, down, convs, mode):
        return _recconv_triton(x, down, convs, mode)

    def halve(x: Tensor) -> tuple[Tensor, None]:
        assert down is not None  # as with any recursion
        return down(x), None

    return recconv_plain(
        x, convs, halve, lambda x, size, _: F.interpolate(x, size, mode=mode)
    )


def recconv_plain(x: Tensor, convs: Layers, halve: Halve, enlarge: Enlarge) -> Tensor:
    """Return what :func:`recconv` does, whatever halves and enlarges the maps.

    Args:
        x: ``[N, C, H, W]``.
        convs: see :func:`recconv`.
        halve: returns the next coarser map, and where its values stood if that matters.
        enlarge: returns a map at the next finer size, given where values stood.
    """
    finer = []
    for _ in range(len(convs) - 1):
        coarse, places = halve(x)
        finer.append((x, places))
        x = coarse

    first, *rest = convs
    mixed = first(x)
    for conv in rest:
        fine, places = finer.pop()
        mixed = conv(enlarge(mixed, fine.shape[2:], places).add_(fine))
    return mixed


def _runs_on_triton(
    x: Tensor, down: nn.Module | None, convs: Layers, mode: str
) -> bool:
    layers = [*convs] if down is None else [*convs, down]
    if (
        not fast_paths.are_on()
        or not x.is_cuda
        or mode not in INTERPOLATIONS
        or not _are_convolutions(layers)
        or not all(layer.dilation == (1, 1) for layer in layers)
        or has_hooks(*layers)
    ):
        return False
    side = layers[0].weight.shape[-1]
    kernel_size = equal_or_above(side, KERNEL_SIZES)
    tensors = [x, *(p for layer in layers for p in layer.parameters())]
    return (
        kernel_size is not None
        and all(layer.weight.shape[-2:] == (kernel_size,) * 2 for layer in layers)
        and triton_is_usable(tensors, try_recconv, kernel_size, mode)
    )


def _are_convolutions(layers: Sequence[nn.Module]) -> TypeGuard[Sequence[nn.Conv2d]]:
    return all(type(layer) in (nn.Conv2d, DepthwiseConv2d) for layer in layers)


def _recconv_triton(
    x: Tensor, down: nn.Module | None, convs: Layers, mode: str
) -> Tensor:
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    with on_device_of(x):
        return torch.ops.mmrecnext.recconv(
            x,
            None if down is None else down.weight,
            [conv.weight for conv in convs],
            convs[-1].bias,
            mode,
        )


def try_recconv(dtype: torch.dtype, kernel_size: int, mode: str):
    """Run the kernels on a small map of the default device."""
    import mmrecnext.ops.recconv_triton  # noqa: F401

    x = torch.zeros(1, 64, 2, 2, dtype=dtype)
    weight = torch.zeros(64, 1, kernel_size, kernel_size, dtype=dtype)
    with on_device_of(x):
        torch.ops.mmrecnext.recconv(x, weight, [weight, weight], None, mode)
