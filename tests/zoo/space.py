"""Made-up boxes in space before one camera, for MMDetection3D."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData

from mmrecnext.engine.configs import nodes

CLOSE, FAR = 10.0, 20.0
"""Distances of the boxes, in metres."""


def sees_space(cfg: Config) -> bool:
    """Tell a detector of boxes in space from one in pictures."""
    return 'Mono3D' in str(cfg.model.type)


def mono_batch(cfg: Config, side: int) -> dict:
    """Return two pictures with two boxes each, as wide as their distance allows.

    Args:
        cfg: the config.
        side: height and width of the pictures.
    """
    from mmdet3d.structures import CameraInstance3DBoxes, Det3DDataSample

    random = torch.Generator().manual_seed(0)
    camera = np.eye(4, dtype=np.float32)
    camera[[0, 1], [0, 1]] = side  # focal lengths, in pixels
    camera[:2, 2] = side / 2
    depths = torch.tensor([CLOSE, FAR])
    speeds = any(node.get('pred_velo') for node in nodes(cfg.model))
    # Centre, size, angle; and how fast it is.
    boxes = torch.zeros(2, 9 if speeds else 7)
    boxes[:, 1] = 1.0
    boxes[:, 2] = depths
    boxes[:, 3:6] = 2.0
    centers = torch.stack([torch.full((2,), side / 2), side * (0.5 + 1 / depths)], 1)
    half = (side / depths)[:, None]
    pictures, samples = [], []
    for _ in range(2):
        size = (3, side, side)
        pictures.append(
            torch.randint(0, 256, size, dtype=torch.uint8, generator=random)
        )
        sample = Det3DDataSample()
        sample.set_metainfo(
            dict(
                img_shape=(side, side),
                ori_shape=(side, side),
                pad_shape=(side, side),
                scale_factor=(1.0, 1.0),
                cam2img=camera.tolist(),
                trans_mat=np.diag([0.25, 0.25, 1.0]).astype(np.float32),
                affine_aug=False,
                box_type_3d=CameraInstance3DBoxes,
            )
        )
        labels = torch.zeros(2, dtype=torch.long)
        sample.gt_instances_3d = InstanceData(
            bboxes_3d=CameraInstance3DBoxes(boxes, box_dim=boxes.shape[1]),
            labels_3d=labels,
            centers_2d=centers,
            depths=depths,
            attr_labels=labels,
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([centers - half, centers + half], 1), labels=labels
        )
        samples.append(sample)
    return dict(inputs=dict(img=pictures), data_samples=samples)
