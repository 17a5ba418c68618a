"""Test-time augmentation of instance segmentation, which MMDetection leaves out."""

from __future__ import annotations

from copy import deepcopy
from inspect import signature

import torch
from mmcv.ops import batched_nms
from mmdet.datasets.transforms import PackDetInputs
from mmdet.models import DetTTAModel
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor

from mmrecnext.registry import MODELS
from mmrecnext.runner import leaf_datasets

FLIPPED_AXES = {'horizontal': (-1,), 'vertical': (-2,), 'diagonal': (-2, -1)}


@MODELS.register_module()
class InstanceTTAModel(DetTTAModel):
    """Merges the boxes of all views by NMS; a box that stays keeps its mask."""

    def _merge_single_sample(self, views: list[DetDataSample]) -> DetDataSample:
        instances = [view.pred_instances for view in views]
        if 'masks' not in instances[0]:
            return super()._merge_single_sample(views)
        boxes, scores = self.merge_aug_bboxes(
            [each.bboxes for each in instances],
            [each.scores for each in instances],
            [view.metainfo for view in views],
        )
        merged = views[0]
        if len(boxes) == 0:
            return merged
        labels = torch.cat([each.labels for each in instances])
        masks = torch.cat([upright_masks(view) for view in views])
        dets, keep = batched_nms(boxes, scores, labels, self.tta_cfg.nms)
        keep = keep[: self.tta_cfg.max_per_img]
        merged.pred_instances = InstanceData(
            bboxes=boxes[keep],
            scores=dets[: len(keep), -1],
            labels=labels[keep],
            masks=masks[keep],
        )
        return merged


def upright_masks(view: DetDataSample) -> Tensor:
    """Return the masks ``[n, H, W]`` of a view as they lie in the image itself."""
    masks = view.pred_instances.masks
    return masks.flip(FLIPPED_AXES[view.flip_direction]) if view.flip else masks


def add_flip_tta(cfg: Config):
    """Give a detector's config flips at test time, unless it has augmentations."""
    if 'tta_model' not in cfg:
        rcnn = cfg.model.get('test_cfg', {})
        rcnn = rcnn.get('rcnn', rcnn)
        cfg.tta_model = dict(
            type='mmrecnext.InstanceTTAModel',
            tta_cfg=dict(
                nms=rcnn.get('nms', dict(type='nms', iou_threshold=0.5)),
                max_per_img=rcnn.get('max_per_img', 100),
            ),
        )
    if 'tta_pipeline' not in cfg:
        dataset = next(leaf_datasets(cfg.test_dataloader.dataset))
        *pipeline, pack = deepcopy(dataset.pipeline)
        default = signature(PackDetInputs).parameters['meta_keys'].default
        pack.meta_keys = tuple(
            dict.fromkeys((*pack.get('meta_keys', default), 'flip', 'flip_direction'))
        )
        flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
        cfg.tta_pipeline = [
            *pipeline,
            dict(type='TestTimeAug', transforms=[flips, [pack]]),
        ]
