"""Rotary position embedding: pairs of channels are turned by where a pixel stands."""

from __future__ import annotations

import torch
from torch import Tensor

BASE = 10000
"""Over which the angles of the last pair of channels per pixel are about 1."""


def angles(
    channels: int, height: int, width: int, device: torch.device | None = None
) -> Tensor:
    """Return by how much each pair of channels is turned, in single precision.

    Half of the pairs tell the row, the others the column: for ``k`` from 0 to
    ``K = channels / 4``, each pixel down or to the right adds ``BASE ** (-k / K)``.

    Args:
        channels: a multiple of 4.
        height: of the map, in pixels.
        width: likewise.
        device: of the result; by default that of new tensors.

    Returns:
        Radians, ``[channels / 2, height, width]``.
    """
    count = channels // 4
    steps = 1 / BASE ** (torch.arange(count, device=device) / count)[:, None, None]
    rows = torch.arange(height, device=device)[:, None].expand(height, width)
    columns = torch.arange(width, device=device).expand(height, width)
    return torch.cat([rows * steps, columns * steps])


def rotate(x: Tensor) -> Tensor:
    """Return ``x`` turned by its :func:`angles`: channel ``2 p`` towards ``2 p + 1``.

    Args:
        x: ``[N, C, H, W]``, of single precision or more.
    """
    _, channels, height, width = x.shape
    turn = angles(channels, height, width, x.device)
    cos, sin = turn.cos().to(x.dtype), turn.sin().to(x.dtype)
    even, odd = x.unflatten(1, (-1, 2)).unbind(2)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], 2).flatten(
        1, 2
    )
