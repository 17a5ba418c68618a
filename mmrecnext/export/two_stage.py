"""Detectors that look for regions first, and at each of them then."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmrecnext.export.dense import DenseHead, clipped, decoded, detections
from mmrecnext.export.images import Images, Preparation
from mmrecnext.export.masks import paste
from mmrecnext.export.regions import aligned, counted, regions, spread


class RegionHead(DenseHead):
    """What an ``RPNHead`` finds, each level by itself, whatever the score."""

    def level(self, level: int, logits: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Return what is found at one level, with its number for a class."""
        boxes, scores, labels, _, places = super().level(level, logits, *rest)
        return boxes, scores, torch.full_like(labels, level), scores >= 0, places


class WholeTwoStageDetector(nn.Module):
    """From pictures to detections, by way of regions.

    Args:
        model: a ``TwoStageDetector`` of MMDetection.
        how: what its pictures go through.
        masks: ``picture`` to paste masks into the picture, ``box`` to return them as
            they are predicted in boxes, None for none.
    """

    def __init__(self, model: Any, how: Preparation, masks: str | None):
        super().__init__()
        self.prepare = Images(how)
        self.model = model
        self.masks = masks
        self.region_head = RegionHead(model.rpn_head)
        self.roi_head: Any = model.roi_head
        self.cfg: Any = model.roi_head.test_cfg
        # A cascade has lists of all that a standard head has one of.
        stages = getattr(model.roi_head, 'num_stages', None)
        self.stages: list[int | None] = [*range(stages)] if stages else [None]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Turn ``[N, 3, H, W]`` into detections, the best first.

        Returns:
            ``[N, K, 5]``, corners in pixels and scores, and classes ``[N, K]``, int64;
            and perhaps masks, bool ``[N, K, H, W]``, or probabilities ``[N, K, h, w]``.
            In rows that are left over zeros with a score of -1, and -1, and zeros.
        """
        size = images.shape[2:]
        maps = self.model.extract_feat(self.prepare(images))
        proposals, levels = self.region_head(maps, size)
        dets, labels = self.look(maps, proposals[..., :4], levels >= 0, size)
        if self.masks is None:
            return dets, labels
        return dets, labels, self.draw(maps, dets[..., :4], labels, size)

    def look(
        self, maps: Any, boxes: Tensor, valid: Tensor, size: Any
    ) -> tuple[Tensor, Tensor]:
        """Return what is found at regions ``[N, P, 4]``, those of them that count."""
        index = counted(valid)
        rois = regions(boxes, index)
        head, logits, values = self.predict(maps, rois, self.stages[0])
        total = logits
        for stage in self.stages[1:]:
            rois = moved(head, rois, logits, values, size)
            head, logits, values = self.predict(maps, rois, stage)
            total = total + logits
        scores = (total / len(self.stages)).softmax(-1)[:, :-1]
        scores = spread(scores, index, valid).where(valid[..., None], 0)
        found = clipped(head, decoded(head, rois[:, None, 1:], values), size)
        found = spread(found, index, valid)
        found = found.expand(*scores.shape, 4)  # one box may be that of all classes
        labels = torch.arange(scores.shape[2], device=scores.device).expand_as(scores)
        found, scores, labels = (
            found.flatten(1, 2),
            scores.flatten(1),
            labels.flatten(1),
        )
        valid = scores > self.cfg.score_thr
        return detections(found, scores, labels, valid, self.cfg)[:2]

    def predict(
        self, maps: Any, rois: Tensor, stage: int | None
    ) -> tuple[Any, Tensor, Tensor]:
        """Return the head of a stage, its logits ``[R, C]``, deltas ``[R, C, 4]``."""
        head = part(self.roi_head.bbox_head, stage)
        logits, values = head(self.features('bbox', maps, rois, stage))
        return head, logits, values.unflatten(1, (-1, 4))

    def features(self, kind: str, maps: Any, rois: Tensor, stage: int | None) -> Tensor:
        """Return what the maps show at regions ``[R, 5]`` to a kind of head."""
        extractor = part(getattr(self.roi_head, f'{kind}_roi_extractor'), stage)
        found = aligned(extractor, maps, rois)
        return (
            self.roi_head.shared_head(found)
            if self.roi_head.with_shared_head
            else found
        )

    def draw(self, maps: Any, boxes: Tensor, labels: Tensor, size: Any) -> Tensor:
        """Return the masks of detections, ``[N, K, 4]`` and ``[N, K]``."""
        valid = labels >= 0
        index = counted(valid)
        rois = regions(boxes, index)
        classes = torch.cat([labels.flatten(), labels.new_zeros(1)])[index]
        masks = self.masks_in_boxes(maps, rois, classes)
        if self.masks == 'box':
            return spread(masks, index, valid) * valid[..., None, None]
        pasted = paste(masks, rois[:, 1:], *size) >= self.cfg.mask_thr_binary
        return spread(pasted, index, valid) & valid[..., None, None]

    def masks_in_boxes(self, maps: Any, rois: Tensor, classes: Tensor) -> Tensor:
        """Return probabilities ``[R, h, w]`` of regions, each for its class."""
        masks = []
        for stage in self.stages:
            head = part(self.roi_head.mask_head, stage)
            logits = head(self.features('mask', maps, rois, stage))
            at = classes * (not head.class_agnostic)
            at = at[:, None, None, None].expand(-1, 1, *logits.shape[2:])
            masks.append(logits.gather(1, at)[:, 0].sigmoid())
        return sum(masks[1:], masks[0]) / len(masks)


def part(parts: Any, stage: int | None) -> Any:
    """Return what is for one stage, if there are several."""
    return parts if stage is None else parts[stage]


def moved(head: Any, rois: Tensor, logits: Tensor, values: Tensor, size: Any) -> Tensor:
    """Return regions ``[R, 5]`` moved as a stage tells, each for its best class."""
    if values.shape[1] > 1:
        best = logits[:, :-1].argmax(1)
        values = values.gather(1, best[:, None, None].expand(-1, 1, 4))
    boxes = clipped(head, decoded(head, rois[:, 1:], values[:, 0]), size)
    return torch.cat([rois[:, :1], boxes], 1)
