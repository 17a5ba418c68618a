"""Test-time augmentation of boxes and masks, which MMDetection has for boxes alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from mmcv.ops import batched_nms
from mmdet.models import DetTTAModel
from mmdet.models.detectors import RPN, MaskFormer, TwoStagePanopticSegmentor
from mmdet.models.mot import BaseMOTModel
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from torch import Tensor

from mmrecnext.errors import ConfigError
from mmrecnext.registry import MODELS

FLIPPED_AXES = {'horizontal': (-1,), 'vertical': (-2,), 'diagonal': (-2, -1)}

UNMERGEABLE = {
    TwoStagePanopticSegmentor: 'panoptic maps',
    RPN: 'proposals of no class',
    BaseMOTModel: 'tracks through a video',
}
"""Detectors that predict something else than instances of one picture."""

MODEL = 'InstanceTTAModel'
"""The model that merges, by its registered name."""


def check_mergeable(kind: type, model: Mapping):
    """Refuse a model whose predictions cannot be merged.

    Args:
        kind: its type.
        model: its config.

    Raises:
        ConfigError: naming what it predicts.
    """
    predicts = [what for base, what in UNMERGEABLE.items() if issubclass(kind, base)]
    test_cfg = model.get('test_cfg') or {}
    if issubclass(kind, MaskFormer) and test_cfg.get('panoptic_on', True):
        predicts = ['panoptic maps, as long as `model.test_cfg.panoptic_on`']
    if predicts:
        raise ConfigError(
            f'--tta merges boxes and masks; a {kind.__name__} predicts {predicts[0]}'
        )


def default_settings(model: Mapping) -> dict:
    """Return settings of :class:`InstanceTTAModel` that are those of a detector."""
    test_cfg = model.get('test_cfg') or {}
    test_cfg = test_cfg.get('rcnn') or test_cfg
    return dict(
        tta_cfg=dict(
            nms=test_cfg.get('nms') or dict(type='nms', iou_threshold=0.5),
            max_per_img=test_cfg.get('max_per_img', 100),
        )
    )


@MODELS.register_module()
class InstanceTTAModel(DetTTAModel):
    """Merges the boxes of all views by NMS; a box that stays keeps its mask.

    Instances that are masks alone, such as SOLO's, are merged by their masks.
    """

    def _merge_single_sample(self, views: list[DetDataSample]) -> DetDataSample:
        merged = next((view for view in views if not view.flip), views[0])
        found = InstanceData.cat([upright(view) for view in views])
        if len(found) and 'masks' in found and not found.bboxes.any():
            threshold = self.tta_cfg.nms.get('iou_threshold', 0.5)
            sizes = [len(view.pred_instances) for view in views]
            view = np.repeat(np.arange(len(views)), sizes)
            found = found[distinct_masks(found, view, threshold)]
        elif len(found):
            boxes, keep = batched_nms(
                found.bboxes, found.scores, found.labels, self.tta_cfg.nms
            )
            found = found[keep]
            found.scores = boxes[: len(keep), -1]
        merged.pred_instances = found[: self.tta_cfg.max_per_img]
        return merged


def upright(view: DetDataSample) -> InstanceData:
    """Return the instances of a view as they lie in the image itself."""
    instances = view.pred_instances
    if view.flip:
        instances = instances.clone()
        if not ('masks' in instances and not instances.bboxes.any()):
            instances.bboxes = bbox_flip(
                instances.bboxes, view.ori_shape, view.flip_direction
            )
        if 'masks' in instances:
            instances.masks = instances.masks.flip(FLIPPED_AXES[view.flip_direction])
    return instances


def distinct_masks(
    instances: InstanceData, view: np.ndarray, iou_threshold: float
) -> Tensor:
    """Choose of masks of one object, seen in several views, the one of highest score.

    Objects that one view tells apart stay apart.

    Args:
        instances: ``n`` of them, with ``masks`` ``[n, H, W]``, ``scores``, ``labels``.
        view: ``[n]``, which view each is of.
        iou_threshold: masks of one class that overlap by more are one object.

    Returns:
        Indices of those that stay, by falling score.
    """
    masks = instances.masks.cpu().numpy().astype(np.uint8)
    runs = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
    overlap = coco_mask.iou(runs, runs, [0] * len(runs)) > iou_threshold
    labels = instances.labels.cpu().numpy()
    same = overlap & (labels[:, None] == labels) & (view[:, None] != view)
    order = instances.scores.argsort(descending=True, stable=True)
    keep: list[int] = []
    for i in order.tolist():
        if not same[i, keep].any():
            keep.append(i)
    return torch.tensor(keep, device=order.device)
