"""Maps enlarged by operators that every device has, and with the same results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mmrecnext.errors import ExportError

interpolate = F.interpolate


class WholeFactors(TorchFunctionMode):
    """Has maps enlarged by whole factors, within.

    Core ML's older form has no others for the nearest pixel, and takes the mean of
    several without a word. A map that was halved with a rest is doubled, and cut.

    Args:
        convolve: whether to double maps by a transposed convolution, which devices
            have that lack interpolation.
    """

    def __init__(self, convolve: bool = False):
        super().__init__()
        self.convolve = convolve

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace interpolation, and nothing else."""
        if func is interpolate:
            return self._enlarge(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _enlarge(
        self,
        x: Tensor,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = 'nearest',
        align_corners: bool | None = None,
        **others: Any,
    ) -> Tensor:
        if size is None:
            factors = _pair(scale_factor)
            sides = tuple(int(s * f) for s, f in zip(x.shape[2:], factors, strict=True))
        else:
            sides = _pair(size)
        given = tuple(x.shape[2:])
        if mode == 'nearest' and _are_doubled(given, sides):
            enlarged = by_nearest(x, 2) if self.convolve else _doubled(x)
            for axis, side in zip((2, 3), sides, strict=True):
                if side != enlarged.shape[axis]:
                    enlarged = enlarged.narrow(axis, 0, side)
            return enlarged
        if not self.convolve or sides == given:
            return interpolate(x, size, scale_factor, mode, align_corners, **others)
        factor = sides[0] // given[0]
        ways = {'nearest': by_nearest, 'bilinear': by_bilinear}
        if sides != (given[0] * factor, given[1] * factor):
            raise ExportError(
                f'a map of {given[0]} x {given[1]} is enlarged to {sides[0]} x '
                f'{sides[1]}, no whole factor: for transposed convolutions choose a '
                'size that is halved without rest, of multiples of 64'
            )
        if mode not in ways or align_corners:
            raise ExportError(f'maps enlarged by {mode} are no transposed convolution')
        return ways[mode](x, factor)


def _pair(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value, value)


def by_nearest(x: Tensor, factor: int) -> Tensor:
    """Enlarge maps ``[N, C, H, W]`` as ``nearest`` does, by a transposed convolution.

    Args:
        x: the maps.
        factor: by which both sides grow.
    """
    return _spread(x, torch.ones(factor), factor)


def by_bilinear(x: Tensor, factor: int) -> Tensor:
    """Enlarge maps as ``bilinear`` does without aligned corners; see ``by_nearest``."""
    length = 2 * factor - factor % 2
    distance = (torch.arange(length) - (length - 1) / 2).abs()
    padded = F.pad(x, (1, 1, 1, 1), mode='replicate')  # beyond its edge, a map goes on
    return _spread(padded, 1 - distance / factor, factor, factor + factor // 2)


def _spread(x: Tensor, weights: Tensor, factor: int, cut: int = 0) -> Tensor:
    """Give each pixel a square of ``weights`` by ``weights``, at a distance."""
    kernel = torch.outer(weights, weights).to(x)
    kernel = kernel.repeat(x.shape[1], 1, 1, 1)
    return F.conv_transpose2d(x, kernel, None, factor, cut, groups=x.shape[1])


def _are_doubled(given: tuple[int, ...], sides: tuple[int, ...]) -> bool:
    """Tell whether sides are those of a map before it was halved."""
    return all(
        side in (2 * half - 1, 2 * half)
        for side, half in zip(sides, given, strict=True)
    )


def _doubled(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2.0, mode='nearest')
