"""Made-up pictures for MMYOLO, which puts all boxes of a batch into one array."""

from __future__ import annotations

import torch
from mmengine.config import Config

from mmrecnext.engine.configs import nodes, type_of

IN_LISTS = ('PPYOLOEDetDataPreprocessor', 'DetDataPreprocessor')
"""Preprocessors that take pictures one by one."""

ONE_BY_ONE = 'DetDataPreprocessor'
"""That of MMDetection, which takes their boxes so as well."""

JOINTS = 17
MASK_STRIDE = 4


def yolo_batch(cfg: Config, batch: dict, side: int) -> dict:
    """Return a batch of MMDetection's as MMYOLO trains on it.

    Args:
        cfg: the config.
        batch: two pictures and their boxes.
        side: height and width of the pictures.
    """
    preprocessor = type_of(cfg.model.get('data_preprocessor'))
    if preprocessor == ONE_BY_ONE:
        return batch
    rows = []
    for i, sample in enumerate(batch['data_samples']):
        labels = sample.gt_instances.labels[:, None]
        boxes = sample.gt_instances.bboxes
        rows.append(torch.cat([torch.full_like(labels, i), labels, boxes], 1))
    labelled = torch.cat(rows)
    targets = dict(bboxes_labels=labelled)
    kinds = {type_of(node) for node in nodes(cfg.model)}
    if 'YOLOv5InsHead' in kinds:
        size = (len(labelled), side // MASK_STRIDE, side // MASK_STRIDE)
        targets['masks'] = torch.ones(size, dtype=torch.uint8)
    if 'YOLOXPoseHead' in kinds:
        corners = labelled[:, None, 2:4] + labelled[:, None, 4:6]
        targets['keypoints'] = (corners / 2).expand(-1, JOINTS, -1)
        targets['keypoints_visible'] = torch.ones(len(labelled), JOINTS)
    pictures = batch['inputs']
    if preprocessor not in IN_LISTS:
        pictures = torch.stack(pictures)
    return dict(inputs=pictures, data_samples=targets)
