"""Detectors that predict boxes at each place of their maps at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmrecnext.export.boxes import (
    best,
    clip,
    from_deltas,
    from_distances,
    take,
    unsuppressed,
)
from mmrecnext.export.images import Images, Preparation


class WholeDenseDetector(nn.Module):
    """From pictures to detections, by a head whose scores and boxes lie in maps.

    Args:
        model: a ``SingleStageDetector`` of MMDetection, with anchors or points.
        how: what its pictures go through.
    """

    def __init__(self, model: Any, how: Preparation):
        super().__init__()
        self.prepare = Images(how)
        self.model = model
        self.head: Any = model.bbox_head
        self.cfg: Any = self.head.test_cfg

    @property
    def width(self) -> int:
        """Of how many numbers the head makes a box."""
        return 4

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Turn ``[N, 3, H, W]`` into detections, the best first.

        Returns:
            ``[N, K, 5]``, corners in pixels and scores, and classes ``[N, K]``, int64;
            in rows that are left over, zeros with a score of -1, and -1.
        """
        maps = self.model.extract_feat(self.prepare(images))
        boxes, *rest = self.candidates(self.head(maps), images.shape[2:])
        dets, labels, _ = detections(boxes, *rest, cfg=self.cfg)
        return dets, labels

    def candidates(self, outputs: Any, size: Any) -> tuple[Tensor, ...]:
        """Return boxes, scores, classes, and whether they count, of all levels.

        Args:
            outputs: of the head: logits, distances or deltas, and perhaps factors of
                the scores, one map of each level in each.
            size: height and width of the pictures.

        Returns:
            ``[N, P, 4]`` and three of ``[N, P]``.
        """
        priors = self.head.prior_generator.grid_priors(
            [x.shape[-2:] for x in outputs[0]], device=outputs[0][0].device
        )
        levels = [
            self.level(level, rows(logits, self.head.cls_out_channels), *rest)
            for level, (logits, *rest) in enumerate(
                zip(*outputs[:3], priors, strict=True)
            )
        ]
        boxes, scores, labels, valid = (
            torch.cat(x, 1) for x in zip(*levels, strict=True)
        )
        return clipped(self.head, boxes, size), scores, labels, valid

    def level(self, level: int, logits: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Return the candidates of one level, as :meth:`candidates` does."""
        regression, *factors, priors = rest
        places, scores, labels, valid = leading(self.head, logits, self.cfg.nms_pre)
        valid = valid & (scores > self.cfg.get('score_thr', 0))
        for factor in factors:
            scores = scores * take(rows(factor, 1), places)[..., 0].sigmoid()
        values = take(rows(regression, self.width), places)
        return self.decode(level, priors[places], values), scores, labels, valid

    def decode(self, level: int, priors: Tensor, values: Tensor) -> Tensor:
        """Return boxes ``[N, P, 4]`` of anchors or points, and what the head tells."""
        return CODERS[type(self.head.bbox_coder).__name__](
            priors, values, self.head.bbox_coder
        )


CODERS = {
    'DeltaXYWHBBoxCoder': from_deltas,
    'DistancePointBBoxCoder': lambda points, values, _: from_distances(points, values),
}
"""What turns the numbers of a head into boxes, by type of its ``bbox_coder``."""


def rows(x: Tensor, width: int) -> Tensor:
    """Turn a map ``[N, A * width, H, W]`` into ``[N, H * W * A, width]``."""
    x = x.flatten(2).transpose(1, 2)
    return x.reshape(x.shape[0], -1, width)


def leading(head: Any, logits: Tensor, count: int) -> tuple[Tensor, ...]:
    """Return the highest scores of a level.

    Those of the places whose best class leads are looked at alone: no others can be
    among them.

    Args:
        head: which tells how logits become scores.
        logits: ``[N, P, C]``.
        count: how many.

    Returns:
        Places, scores, classes, and whether there is one, each ``[N, count]``.
    """
    if not head.use_sigmoid_cls:
        logits = logits.softmax(-1)[..., :-1]
    classes = logits.shape[2]
    tops = logits.amax(-1)
    tops, places = best(tops.sigmoid() if head.use_sigmoid_cls else tops, count)
    scores = take(logits, places)
    scores = scores.sigmoid() if head.use_sigmoid_cls else scores
    scores = scores.where((tops >= 0)[..., None], -1)
    scores, index = best(scores.flatten(1), count)
    places = places.gather(1, index // classes)
    return places, scores, index % classes, scores >= 0


def clipped(head: Any, boxes: Tensor, size: Any) -> Tensor:
    """Cut boxes at the borders of pictures, unless the coder of a head does not."""
    return clip(boxes, *size) if head.bbox_coder.clip_border else boxes


def detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, valid: Tensor, cfg: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is left of candidates, the best first.

    Args:
        boxes: ``[N, P, 4]``, corners in pixels.
        scores: ``[N, P]``, none of them negative.
        labels: ``[N, P]``, classes, or else what is suppressed apart.
        valid: ``[N, P]``, whether they count.
        cfg: the ``test_cfg``.

    Returns:
        ``[N, K, 5]``, ``[N, K]``, and the indices ``[N, K]`` of the candidates.
    """
    if (least := cfg.get('min_bbox_size', -1)) >= 0:
        sides = boxes[..., 2:] - boxes[..., :2]
        valid = valid & (sides > least).all(-1)
    kept = unsuppressed(boxes, scores, labels, valid, cfg.nms.iou_threshold)
    scores, index = best(scores.where(kept, -1), cfg.max_per_img, whole=True)
    found = scores >= 0
    boxes = take(boxes, index) * found[..., None]
    scores = scores.where(found, -1)
    labels = labels.gather(1, index).where(found, -1)
    return torch.cat([boxes, scores[..., None]], -1), labels, index
