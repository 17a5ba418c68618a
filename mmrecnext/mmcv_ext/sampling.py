"""Sums of bilinear samples, as products with a sparse matrix.

Features become a table with a row per pixel, its channels; an output with a row per
bin. The matrix has the weight of every pixel in every bin: it yields the output from
the table and, transposed, the gradient of the table from that of the output.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Taps(NamedTuple):
    """The four pixels around each of some points, and their weights.

    Args:
        pixels: (..., 4) int64, row times width plus column.
        weights: (..., 4) by which they are summed.
        slopes_y: (..., 4) by which the weights grow with y.
        slopes_x: (..., 4) by which they grow with x.
    """

    pixels: Tensor
    weights: Tensor
    slopes_y: Tensor
    slopes_x: Tensor


def bilinear_taps(y: Tensor, x: Tensor, height: int, width: int) -> Taps:
    """Sample maps at points in pixels, where pixel centres are whole numbers.

    A point up to a pixel outside has the value of the border, one further away is 0.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    rows, shares_y, signs_y = _axis(y, height)
    columns, shares_x, signs_x = _axis(x, width)
    pixels = rows[..., :, None] * width + columns[..., None, :]
    weights, slopes_y, slopes_x = (
        (a[..., :, None] * b[..., None, :] * inside[..., None, None]).flatten(-2)
        for a, b in ((shares_y, shares_x), (signs_y, shares_x), (shares_y, signs_x))
    )
    return Taps(pixels.flatten(-2), weights, slopes_y, slopes_x)


def _axis(at: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two pixels of an axis, their shares of a sample, and how fast these grow."""
    clamped = at.clamp(0, limit - 1).nan_to_num()
    before = clamped.floor()
    after = clamped - before
    pixels = torch.stack([before, before + 1], -1).clamp(max=limit - 1).long()
    moves = ((at >= 0) & (at < limit - 1)).to(at)
    shares = torch.stack([1 - after, after], -1)
    return pixels, shares, torch.stack([-moves, moves], -1)


def sum_matrix(pixels: Tensor, weights: Tensor, size: int) -> Tensor:
    """Sparse (B, ``size``) matrix that sums ``pixels`` (B, n) by ``weights``."""
    bins = torch.arange(len(pixels), device=pixels.device)[:, None].expand_as(pixels)
    index = torch.stack([bins.flatten(), pixels.flatten()])
    return torch.sparse_coo_tensor(
        index, weights.flatten(), (len(pixels), size), check_invariants=False
    )


def to_table(features: Tensor) -> Tensor:
    """Rows of pixels (B * H * W, C) of maps (B, C, H, W)."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def from_table(table: Tensor, height: int, width: int) -> Tensor:
    """Maps (B, C, H, W) of rows of pixels (B * H * W, C)."""
    return table.unflatten(0, (-1, height, width)).permute(0, 3, 1, 2)
