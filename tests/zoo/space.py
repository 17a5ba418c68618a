"""Made-up boxes in space before cameras, for MMDetection3D."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor

from mmrecnext.engine.configs import nodes

CLOSE, FAR = 10.0, 20.0
"""Distances of the boxes, in metres."""

CLOSE_INDOORS, FAR_INDOORS = 2.0, 4.0
"""Within a room."""

SEEN_FROM = {
    # right, down and ahead of a camera, in the axes of
    'LIDAR': ((0, -1, 0), (0, 0, -1), (1, 0, 0)),  # ahead, left and up
    'DEPTH': ((1, 0, 0), (0, 0, -1), (0, 1, 0)),  # right, ahead and up
}

VIEWS = 2
"""Cameras of a model that sees from several."""


def sees_space(cfg: Config) -> bool:
    """Tell a detector of boxes in space from one in pictures."""
    return 'Mono3D' in str(cfg.model.type) or fills_space(cfg)


def fills_space(cfg: Config) -> bool:
    """Tell a detector that fills voxels with what pictures show."""
    return 'neck_3d' in cfg.model


def space_batch(cfg: Config, side: int) -> dict:
    """Return two pictures, or two by several cameras, with two boxes each.

    Args:
        cfg: the config.
        side: height and width of the pictures.
    """
    make = voxel_sample if fills_space(cfg) else mono_sample
    samples = [make(cfg, side) for _ in range(2)]
    size = (VIEWS, 3, side, side) if has_views(cfg) else (3, side, side)
    random = torch.Generator().manual_seed(0)
    pictures = [
        torch.randint(0, 256, size, dtype=torch.uint8, generator=random)
        for _ in samples
    ]
    return dict(inputs=dict(img=pictures), data_samples=samples)


def has_views(cfg: Config) -> bool:
    """Tell a detector that sees from several cameras."""
    return 'MultiView' in str(cfg.model.type)


def camera_of(side: int) -> np.ndarray:
    """Return the matrix of a camera with focal lengths of ``side`` pixels."""
    camera = np.eye(4, dtype=np.float32)
    camera[[0, 1], [0, 1]] = side
    camera[:2, 2] = side / 2
    return camera


def mono_sample(cfg: Config, side: int):
    """Return two boxes, as wide in the picture as their distance allows."""
    from mmdet3d.structures import CameraInstance3DBoxes, Det3DDataSample

    depths = torch.tensor([CLOSE, FAR])
    speeds = any(node.get('pred_velo') for node in nodes(cfg.model))
    # Centre, size, angle; and how fast it is.
    boxes = torch.zeros(2, 9 if speeds else 7)
    boxes[:, 1] = 1.0
    boxes[:, 2] = depths
    boxes[:, 3:6] = 2.0
    centers = torch.stack([torch.full((2,), side / 2), side * (0.5 + 1 / depths)], 1)
    half = (side / depths)[:, None]
    sample = Det3DDataSample()
    sample.set_metainfo(
        dict(
            img_shape=(side, side),
            ori_shape=(side, side),
            pad_shape=(side, side),
            scale_factor=(1.0, 1.0),
            cam2img=camera_of(side).tolist(),
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
    return sample


def voxel_sample(cfg: Config, side: int):
    """Return two boxes in the axes of a LiDAR or of a room, and where cameras are."""
    from mmdet3d.structures import (
        DepthInstance3DBoxes,
        Det3DDataSample,
        LiDARInstance3DBoxes,
    )

    axes = cfg.model.get('coord_type', 'LIDAR')
    indoors = axes == 'DEPTH'
    box_type = DepthInstance3DBoxes if indoors else LiDARInstance3DBoxes
    placed = np.eye(4, dtype=np.float32)
    placed[:3, :3] = SEEN_FROM[axes]
    projection = camera_of(side) @ placed
    sample = Det3DDataSample()
    sample.set_metainfo(
        dict(
            img_shape=(side, side),
            ori_shape=(side, side),
            box_type_3d=box_type,
            **{'depth2img' if indoors else 'lidar2img': projection},
        )
    )
    if has_views(cfg):
        sample.set_metainfo(
            dict(
                num_views=VIEWS,
                num_ref_frames=0,
                scale_factor=[1.0] * VIEWS,
                lidar2cam=[placed] * VIEWS,
                ori_cam2img=[camera_of(side)] * VIEWS,
            )
        )
    distances = (CLOSE_INDOORS, FAR_INDOORS) if indoors else (CLOSE, FAR)
    sample.gt_instances_3d = InstanceData(
        bboxes_3d=box_type(boxes_at(distances, ahead=SEEN_FROM[axes][2])),
        labels_3d=torch.zeros(2, dtype=torch.long),
    )
    return sample


def boxes_at(distances: tuple[float, ...], ahead: tuple[int, ...]) -> Tensor:
    """Return boxes as large as a car.

    Args:
        distances: of each, in metres.
        ahead: the direction in which they are.
    """
    places = torch.tensor(distances)[:, None] * torch.tensor(ahead)
    sizes = torch.tensor([3.9, 1.6, 1.56]).expand(len(distances), -1)
    boxes = torch.cat([places, sizes, torch.zeros(len(distances), 1)], 1)
    boxes[:, 2] = -1.78  # their bottom, below the camera
    return boxes
