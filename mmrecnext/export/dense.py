"""Detectors that predict boxes at each place of their maps at once."""

from __future__ import annotations

from collections.abc import Callable
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
        kind: of the head.
    """

    def __init__(self, model: Any, how: Preparation, kind: Callable[[Any], DenseHead]):
        super().__init__()
        self.prepare = Images(how)
        self.model = model
        self.head = kind(model.bbox_head)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Turn ``[N, 3, H, W]`` into detections, the best first.

        Returns:
            ``[N, K, 5]``, corners in pixels and scores, and classes ``[N, K]``, int64;
            in rows that are left over, zeros with a score of -1, and -1. What the kind
            of head finds besides comes next.
        """
        maps = self.model.extract_feat(self.prepare(images))
        found: tuple[Tensor, ...] = self.head(maps, images.shape[2:])
        return found


class DenseHead(nn.Module):
    """What a head finds: as ``BaseDenseHead`` of MMDetection, from deltas or distances.

    Args:
        head: that of the model; its outputs are logits, deltas or distances, and
            perhaps factors of the scores, one map of each level in each.
    """

    masks = False
    """Whether it finds masks, too."""

    counts: tuple[str, ...] = ('nms_pre', 'max_per_img')
    """Options of its ``test_cfg`` that there have to be, numbers of boxes."""

    def __init__(self, head: Any):
        super().__init__()
        self.head = head
        self.cfg: Any = head.test_cfg

    def forward(self, maps: Any, size: Any) -> tuple[Tensor, ...]:
        """Return detections, as :class:`WholeDenseDetector` does.

        Args:
            maps: those of the neck.
            size: height and width of the pictures.
        """
        boxes, scores, labels, valid, *_ = self.candidates(self.head(maps), size)
        return detections(boxes, scores, labels, valid, self.cfg)[:2]

    def candidates(self, outputs: Any, size: Any) -> tuple[Tensor, ...]:
        """Return what is found before suppression.

        Args:
            outputs: of the head.
            size: height and width of the pictures.

        Returns:
            Boxes ``[N, P, 4]``, corners in pixels; and of each, ``[N, P]``, its score,
            its class, whether it counts, and the row of its prior among those of all
            levels.
        """
        priors = self.priors(outputs[0])
        levels, before = [], 0
        for level, each in enumerate(zip(*outputs, priors, strict=True)):
            *found, places = self.level(level, *each)
            levels.append([*found, places + before])
            before = before + priors[level].shape[0]
        boxes, scores, labels, valid, places = (
            torch.cat(x, 1) for x in zip(*levels, strict=True)
        )
        boxes = clipped(self.head, boxes, size)
        if (least := self.cfg.get('min_bbox_size', -1)) >= 0:
            sides = boxes[..., 2:] - boxes[..., :2]
            valid = valid & (sides > least).all(-1)
        return boxes, scores, labels, valid, places

    def priors(self, maps: Any, **options: Any) -> list[Tensor]:
        """Return anchors or points of maps, ``[H * W * A, 4]`` or 2, of each level."""
        sizes = [x.shape[-2:] for x in maps]
        grids: list[Tensor] = self.head.prior_generator.grid_priors(
            sizes, dtype=maps[0].dtype, device=maps[0].device, **options
        )
        return grids

    def level(self, level: int, logits: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Return what is found at one level, given its maps and priors."""
        regression, *factors, priors = rest
        logits = rows(logits, self.head.cls_out_channels)
        places, scores, labels = leading(self.head, logits, self.cfg.nms_pre)
        valid = scores > self.cfg.get('score_thr', 0)
        for factor in factors:
            scores = scores * take(rows(factor, 1), places)[..., 0].sigmoid()
        boxes = self.boxes(level, regression, places, priors)
        return boxes, scores, labels, valid, places

    def boxes(
        self, level: int, regression: Tensor, places: Tensor, priors: Tensor
    ) -> Tensor:
        """Return boxes ``[N, P, 4]`` at places ``[N, P]`` of a level."""
        return decoded(self.head, priors[places], take(rows(regression, 4), places))


def decoded(head: Any, priors: Tensor, values: Tensor) -> Tensor:
    """Turn what a head tells of its priors into boxes, ``[..., 4]``."""
    coder = head.bbox_coder
    return CODERS[type(coder).__name__](priors, values, coder)


CODERS: dict[str, Callable[[Tensor, Tensor, Any], Tensor]] = {
    'DeltaXYWHBBoxCoder': from_deltas,
    'DistancePointBBoxCoder': lambda points, values, _: from_distances(points, values),
}
"""What turns the numbers of a head into boxes, by type of its ``bbox_coder``."""


def clipped(head: Any, boxes: Tensor, size: Any) -> Tensor:
    """Cut boxes at the borders of pictures, unless the coder of a head does not."""
    return clip(boxes, *size) if head.bbox_coder.clip_border else boxes


def rows(x: Tensor, width: int) -> Tensor:
    """Turn a map ``[N, A * width, H, W]`` into ``[N, H * W * A, width]``."""
    x = x.flatten(2).transpose(1, 2)  # so that sizes are quick to reckon with
    return x.reshape(x.shape[0], -1, width)


def leading(head: Any, logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the highest scores of a level.

    Those of the places whose best class leads are looked at alone: no others can be
    among them.

    Args:
        head: which tells how logits become scores.
        logits: ``[N, P, C]``.
        count: how many.

    Returns:
        Places, scores and classes, each ``[N, count]``; scores that are missing are -1.
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
    return places.gather(1, index // classes), scores, index % classes


def detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, valid: Tensor, cfg: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is left after suppression, the best first.

    Args:
        boxes: ``[N, P, 4]``, corners in pixels.
        scores: ``[N, P]``; none of those that count is negative.
        labels: ``[N, P]``, classes, or else what is suppressed apart.
        valid: ``[N, P]``, whether they count.
        cfg: the ``test_cfg``.

    Returns:
        Corners and scores ``[N, K, 5]``, labels ``[N, K]``, and indices ``[N, K]`` of
        the candidates; in rows that are left over, zeros and -1, -1, and any.
    """
    kept = unsuppressed(boxes, scores, labels, valid, cfg.nms.iou_threshold)
    scores, index = best(scores.where(kept, -1), cfg.max_per_img, whole=True)
    found = scores >= 0
    boxes = take(boxes, index) * found[..., None]
    scores = scores.where(found, -1)
    labels = labels.gather(1, index).where(found, -1)
    return torch.cat([boxes, scores[..., None]], -1), labels, index
