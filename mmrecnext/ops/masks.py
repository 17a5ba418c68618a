"""Masks of boxes, pasted into a picture."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def paste_masks(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Enlarge masks to their boxes, bilinearly, and tell what is of an object.

    Rows and columns are enlarged one after the other, where a box is and as far as a
    pixel from it, as products of matrices: what MMDetection interpolates point by
    point, to rounding.

    Args:
        masks: ``[K, h, w]``, probabilities in boxes, as ``--masks box`` of
            ``tools/export.py`` has them.
        boxes: ``[K, 4]``, corners in pixels of the picture.
        size: its height and width.
        threshold: least probability of a pixel of an object.

    Returns:
        ``[K, height, width]``, bool.
    """
    pasted = masks.new_zeros((len(masks), *size), dtype=torch.bool)
    masks = masks.to(boxes)
    with torch.autocast(boxes.device.type, enabled=False):
        rows = _shares(boxes[:, 1], boxes[:, 3], masks.shape[1], size[0])
        columns = _shares(boxes[:, 0], boxes[:, 2], masks.shape[2], size[1])
        for picture, mask, (y, down), (x, across) in zip(
            pasted, masks, rows, columns, strict=True
        ):
            torch.ge(down @ (mask @ across.T), threshold, out=picture[y, x])
    return pasted


def _shares(
    low: Tensor, high: Tensor, cells: int, side: int
) -> list[tuple[slice, Tensor]]:
    """Return where each box is along an axis, and the share of each cell in a pixel.

    A box without extent shows the middle of its mask, as in MMDetection.

    Args:
        low: where boxes begin, ``[K]``.
        high: where they end.
        cells: of a mask.
        side: pixels of the picture.

    Returns:
        Of each box its pixels, and ``[pixels, cells]``.
    """
    first, last = (
        x.clamp(0, side).nan_to_num().long() for x in (low.floor() - 1, high.ceil() + 1)
    )
    counts = (last - first).clamp(min=0)
    # Of all boxes at once, one box after the other: few operations on little.
    ends = counts.cumsum(0)
    box = torch.arange(len(low), device=low.device).repeat_interleave(counts)
    pixels = torch.arange(len(box), device=low.device) + (first - ends + counts)[box]
    extent = high - low
    at = (pixels + 0.5 - low[box]) / extent[box] * cells - 0.5
    at = at.where(extent[box] > 0, (cells - 1) / 2)
    shares = (1 - (at[:, None] - torch.arange(cells).to(at)).abs()).clamp_(min=0)
    starts, lengths = first.tolist(), counts.tolist()
    return [
        (slice(start, start + len(part)), part)
        for start, part in zip(starts, shares.split(lengths), strict=True)
    ]
