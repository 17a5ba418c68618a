"""Masks of boxes, pasted into pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def paste(masks: Tensor, boxes: Tensor, height: Any, width: Any) -> Tensor:
    """Enlarge masks to their boxes, bilinearly, in pictures that are zero elsewhere.

    Rows and columns are interpolated one after the other, by products of matrices: the
    same numbers as those of a grid of points, for a fraction of the work.

    Args:
        masks: ``[R, h, w]``.
        boxes: ``[R, 4]``, corners in pixels.
        height: of the pictures; may be a symbol.
        width: likewise.

    Returns:
        ``[R, height, width]``.
    """
    x1, y1, x2, y2 = boxes.unbind(1)
    columns = _shares(x1, x2, masks.shape[2], width)
    rows = _shares(y1, y2, masks.shape[1], height)
    return rows @ (masks @ columns.transpose(1, 2))


def _shares(low: Tensor, high: Tensor, cells: int, side: Any) -> Tensor:
    """Return the share of each cell in each pixel, ``[R, side, cells]``.

    As in MMDetection, a box without extent shows the middle of its mask, and nothing is
    drawn further than a pixel from a box.
    """
    low, high = low[:, None], high[:, None]
    pixels = torch.arange(side, device=low.device).to(low)
    extent = high - low
    at = (pixels + 0.5 - low) / extent * cells - 0.5
    at = at.where(extent > 0, (cells - 1) / 2)
    near = (pixels >= low.floor() - 1) & (pixels < high.ceil() + 1)
    centres = torch.arange(cells, device=low.device).to(low)
    return (1 - (at[..., None] - centres).abs()).clamp(min=0) * near[..., None]
