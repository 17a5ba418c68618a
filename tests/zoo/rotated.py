"""Made-up rotated boxes, for MMRotate."""

from __future__ import annotations

import torch
from mmengine.config import Config

ANGLE = 0.3
"""Of all boxes, in radians."""


def rotated_batch(cfg: Config, batch: dict) -> dict:
    """Return a batch of MMDetection's with its boxes turned.

    Args:
        cfg: the config.
        batch: two pictures and their boxes.
    """
    from mmrotate.structures.bbox import RotatedBoxes

    for sample in batch['data_samples']:
        found = sample.gt_instances
        corners = found.bboxes
        low, high = corners[:, :2], corners[:, 2:]
        angle = torch.full_like(low[:, :1], ANGLE)
        boxes = RotatedBoxes(torch.cat([(low + high) / 2, high - low, angle], 1))
        found.bboxes = boxes
        del sample.ignored_instances
    return batch
