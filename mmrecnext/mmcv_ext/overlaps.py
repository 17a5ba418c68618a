"""Overlaps of upright boxes in place of mmcv's compiled operator."""

import torch
from torch import Tensor

from mmrecnext.mmcv_ext.precision import at_least_float32

_IOU = 0
# Pairs of boxes at once, a few times 4 bytes each.
_PAIRS = 2**22


def bbox_overlaps(
    bboxes1: Tensor,
    bboxes2: Tensor,
    ious: Tensor,
    mode: int,
    aligned: bool,
    offset: int,
) -> None:
    """Write the overlaps of boxes into ``ious``.

    Args:
        bboxes1: (N, 4) corners x1, y1, x2, y2.
        bboxes2: (M, 4).
        ious: (N, M), or (N,) if ``aligned``, written.
        mode: 0 for the shared area over that of the union, 1 over that of the first
            box.
        aligned: Whether bboxes1[i] is compared with bboxes2[i] alone.
        offset: 0 or 1, added to every width and height.
    """
    a, b = at_least_float32(bboxes1, bboxes2)
    if aligned:
        ious.copy_(_overlap(a, b, mode, offset))
        return
    rows = max(1, _PAIRS // max(1, len(b)))
    for part, out in zip(a.split(rows), ious.split(rows), strict=True):
        out.copy_(_overlap(part[:, None], b[None], mode, offset))


def _overlap(a: Tensor, b: Tensor, mode: int, offset: int) -> Tensor:
    """Overlaps of (..., 4) boxes, which are broadcast."""
    shared = area_a = area_b = a.new_ones(())
    for low, high in ((0, 2), (1, 3)):
        last = torch.minimum(a[..., high], b[..., high])
        first = torch.maximum(a[..., low], b[..., low])
        shared = shared * (last - first + offset).clamp(min=0)
        area_a = area_a * (a[..., high] - a[..., low] + offset)
        area_b = area_b * (b[..., high] - b[..., low] + offset)
    return shared / (area_a + area_b - shared if mode == _IOU else area_a)
