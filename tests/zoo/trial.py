"""One training step and one prediction of a config, on made-up pictures, on the CPU."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from unittest.mock import patch

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from torch import nn

from mmrecnext.compat import BatchNorm
from mmrecnext.engine.build import build_network, fit_cpu, whole_model
from mmrecnext.engine.configs import nodes, type_of
from mmrecnext.swap.training import is_pretrained
from tests.zoo.classification import classification_batch
from tests.zoo.pose import pose_batch
from tests.zoo.rotated import rotated_batch
from tests.zoo.space import sees_space, space_batch
from tests.zoo.yolo import yolo_batch

VIDEOS = ('MaskTrackRCNN', 'Mask2FormerVideo', 'QDTrack')
SORTS = ('DeepSORT', 'StrongSORT')
TRACKERS = ('ByteTrack', 'OCSORT', *SORTS)
"""Of videos; trackers train on pictures, SORT and its kin their detector alone."""

REGIONS = 64
"""Of a picture that a head trains with or predicts from, at most."""

LEARNERS = ('backbone', 'img_backbone')
"""What backbones are called in a model, those of teachers too."""

COARSER = 5
"""Voxels along each side of the ground that become one: a step on a CPU in seconds."""


@dataclass(frozen=True)
class Trial:
    """What came out of a training step, and of a prediction.

    Attributes:
        loss (float): the sum of the losses, NaN where there are none.
        faults (tuple): what was wrong with losses or gradients, or the error.
        predictions (int): samples that came back with predictions.
        unpredicted (str): why none did, if so.
    """

    loss: float
    faults: tuple[str, ...]
    predictions: int
    unpredicted: str = ''

    @property
    def passed(self) -> bool:
        """Whether it trained and predicted."""
        return not self.faults and self.predictions > 0


def build_model(cfg: Config, weights: bool = True) -> nn.Module:
    """Build the model of a config, for a CPU, with no file and no network.

    Args:
        cfg: the config.
        weights: whether to make memory for its weights.
    """
    cfg = copy.deepcopy(cfg)
    for node in nodes(cfg.model):
        init = node.get('init_cfg')
        if isinstance(init, list | tuple):
            node.init_cfg = [one for one in init if not is_pretrained(one)]
        elif is_pretrained(init):
            node.init_cfg = None
        if isinstance(node.get('pretrained'), str):
            node.pretrained = None
        if 'teacher_ckpt' in node:
            node.teacher_ckpt = None
    fit_cpu(cfg)
    return build_network(whole_model(cfg), cfg.default_scope, weights)


def shrink(cfg: Config, side: int):
    """Have a config take pictures as they are, however small, in place."""
    for node in nodes(cfg.model):
        if type_of(node) == 'PPYOLOEDetDataPreprocessor':  # which stacks by them
            for augment in node.batch_augments:
                augment.random_size_range = (side, side)
        elif 'batch_augments' in node:
            node.batch_augments = None
        if 'pos_fraction' in node:  # a sampler of regions
            node.num = min(node.num, REGIONS)
        if 'nms_pre' in node and 'max_per_img' in node:
            node.max_per_img = min(node.max_per_img, REGIONS)
        if type_of(node) == 'SegDataPreProcessor' and 'size' in node:
            node.size = (side, side)
        if node.get('mode') == 'slide':
            node.mode = 'whole'
        if 'n_voxels' in node:
            *ground, height = node.n_voxels
            node.n_voxels = [*(n // COARSER for n in ground), height]
        elif 'neck_3d' in node:
            *ground, height = node.voxel_size
            node.voxel_size = (*(size * COARSER for size in ground), height)


def attempt(cfg: Config, side: int = 128) -> Trial:
    """Train a config for a step, and predict.

    Args:
        cfg: the config.
        side: height and width of the pictures.
    """
    cfg = copy.deepcopy(cfg)
    shrink(cfg, side)
    torch.manual_seed(0)
    np.random.seed(0)
    for name in ('epoch', 'iter'):  # which a runner tells; some losses warm up
        MessageHub.get_current_instance().update_info(name, 0)
    model = build_model(cfg)
    with (
        DefaultScope.overwrite_default_scope(cfg.default_scope),
        # A loss of MMRotate asks for a GPU, wherever the model is.
        patch.object(torch.Tensor, 'cuda', lambda tensor: tensor),
    ):
        model.init_weights()
        wake(model)
        try:
            batch = batch_for(cfg, side, training=True)
            loss, faults = train_step(trained_part(model), batch)
        except Exception as error:
            loss, faults = nan, (brief(error),)
        keep_boxes(model)
        try:
            predictions = predict(model, batch_for(cfg, side, training=False))
        except Exception as error:
            return Trial(loss, faults, 0, brief(error))
    return Trial(loss, faults, predictions, '' if predictions else 'nothing predicted')


def wake(model: nn.Module):
    """Put small numbers in the place of weights that begin at zero, in place.

    What stands behind those would learn nothing in the first step.
    """
    for p in model.parameters():
        if p.dim() > 1 and not p.any():
            nn.init.normal_(p, std=0.01)
    for module in model.modules():
        if isinstance(module, BatchNorm) and module.affine and not module.weight.any():
            nn.init.ones_(module.weight)


def trained_part(model: nn.Module) -> nn.Module:
    """Return what MMDetection trains: of SORT and its kin the detector alone.

    It may have no preprocessor of its own, being fed by that of videos.
    """
    if type(model).__name__ not in SORTS:
        return model
    from mmdet.models import DetDataPreprocessor

    model.detector.data_preprocessor = DetDataPreprocessor(pad_size_divisor=32)
    return model.detector


def keep_boxes(model: nn.Module):
    """Have dynamic heads predict the boxes that they start from, in place.

    Random weights move them out of the picture stage by stage, where MMDetection cannot
    paste a mask on a CPU.
    """
    for head in model.modules():
        if type(head).__name__ == 'DIIHead':
            nn.init.zeros_(head.fc_reg.weight)
            nn.init.zeros_(head.fc_reg.bias)


def brief(error: Exception) -> str:
    """Return an error in a line."""
    text = re.sub(r'\s+', ' ', str(error))
    text = re.split(r'(?<=[a-z])\. ', text)[0]
    return f'{type(error).__name__}: {text}'[:300]


def train_step(model: nn.Module, batch: Mapping) -> tuple[float, tuple[str, ...]]:
    """Return the loss, and what is wrong with it or with the gradients."""
    model.train()
    data = model.data_preprocessor(batch, True)
    losses = model(**data, mode='loss')
    total, logged = model.parse_losses(losses)
    total.backward()
    faults = [f'{k} is {v}' for k, v in logged.items() if not np.isfinite(float(v))]
    backbones = learners(model)
    if not backbones:
        faults.append('it has no backbone that learns')
    for name, backbone in backbones:
        for key, p in backbone.named_parameters():
            if not p.requires_grad:
                continue
            if p.grad is None or not p.grad.isfinite().all():
                faults.append(f'{name}.{key} has no finite gradient')
            elif not p.grad.any():
                faults.append(f'{name}.{key} has a gradient of zeros')
    return float(total), tuple(faults)


def learners(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return path and module of each backbone, but those of teachers."""
    return [
        (path, module)
        for path, module in model.named_modules()
        if path.split('.')[-1] in LEARNERS and 'teacher' not in path
    ]


@torch.no_grad()
def predict(model: nn.Module, batch: Mapping) -> int:
    """Return how many samples came back with predictions."""
    model.eval()
    data = model.data_preprocessor(batch, False)
    samples = model(**data, mode='predict')
    return sum(any('pred' in key for key in found(s).all_keys()) for s in samples)


def found(sample):
    """Return the last frame of a video, or the sample of a picture."""
    frames = getattr(sample, 'video_data_samples', None)
    return frames[-1] if frames else sample


def batch_for(cfg: Config, side: int, training: bool) -> dict:
    """Return two made-up pictures and labels, or a video, as a data loader would."""
    if cfg.default_scope in BATCHES:
        return BATCHES[cfg.default_scope](cfg, side, training)
    return detector_batch(cfg, side, training)


def detector_batch(cfg: Config, side: int, training: bool) -> dict:
    """Return the same for one of MMDetection's models."""
    kind = type_of(cfg.model)
    if kind in VIDEOS or (kind in TRACKERS and not training):
        return video_batch(side, kind, training)
    masks = any(map(loads_masks, nodes(cfg._cfg_dict)))
    batch = detection_batch(side, masks)
    if kind == 'FastRCNN':
        add_proposals(batch, side)
    if kind == 'SoftTeacher' and training:
        branches = ('sup', 'unsup_teacher', 'unsup_student')
        batch = {k: {b: copy.deepcopy(v) for b in branches} for k, v in batch.items()}
    return batch


def loads_masks(node: Mapping) -> bool:
    """Tell a step of a pipeline that loads masks, which panoptic ones do by default."""
    return node.get('with_mask', type_of(node) == 'LoadPanopticAnnotations')


def detection_batch(side: int, masks: bool) -> dict:
    """Return two pictures with boxes, semantic maps, and perhaps masks."""
    from mmdet.testing import demo_mm_inputs

    batch = demo_mm_inputs(
        2,
        (3, side, side),
        num_items=[3, 2],
        num_classes=2,
        with_mask=masks,
        with_semantic=True,
        sem_seg_output_strides=1,
    )
    for sample in batch['data_samples']:
        sample.gt_instances.labels.zero_()
        sample.set_metainfo(
            dict(
                scale_factor=(1.0, 1.0),
                img_path='',
                homography_matrix=np.eye(3, dtype=np.float32),
                text=('box', 'other'),  # for those that look for what a text names
                custom_entities=True,
            )
        )
    return batch


def add_proposals(batch: dict, side: int):
    """Give each sample boxes to start from."""
    from mmdet.testing import demo_mm_proposals

    samples = batch['data_samples']
    proposals = demo_mm_proposals([(3, side, side)] * len(samples), 10)
    for sample, boxes in zip(samples, proposals, strict=True):
        sample.proposals = boxes


def video_batch(side: int, kind: str, training: bool) -> dict:
    """Return a video of two frames, the first of them the key frame."""
    from mmdet.testing import demo_track_inputs

    batch = demo_track_inputs(
        1,
        num_frames=2 if training else 1,
        key_frames_inds=[0] if training else None,
        image_shapes=(3, side, side),
        num_items=[3],
        num_classes=1,
        with_mask=kind != 'QDTrack',
    )
    for video in batch['data_samples']:
        for frame in video.video_data_samples:
            frame.set_metainfo(dict(scale_factor=(1.0, 1.0), ori_video_length=1))
    return batch


def segmentation_batch(side: int) -> dict:
    """Return two pictures with semantic maps of two classes."""
    from mmseg.structures import SegDataSample

    pictures, samples = [], []
    for _ in range(2):
        pictures.append(torch.randint(0, 256, (3, side, side), dtype=torch.uint8))
        size = (side, side)
        sample = SegDataSample(
            metainfo=dict(
                img_shape=size, ori_shape=size, pad_shape=size, flip=False, img_path=''
            )
        )
        labels = torch.randint(0, 2, (1, *size))
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return dict(inputs=pictures, data_samples=samples)


def yolo(cfg: Config, side: int, training: bool) -> dict:
    """Return a batch for MMYOLO."""
    batch = detector_batch(cfg, side, training)
    return yolo_batch(cfg, batch, side) if training else batch


def space(cfg: Config, side: int, training: bool) -> dict:
    """Return a batch for MMDetection3D, some of whose models are MMDetection's."""
    if sees_space(cfg):
        return space_batch(cfg, side)
    return detector_batch(cfg, side, training)


BATCHES = {
    'mmdet3d': space,
    'mmpose': lambda cfg, side, training: pose_batch(cfg, training),
    'mmpretrain': classification_batch,
    'mmrotate': lambda cfg, side, training: rotated_batch(cfg, side),
    'mmseg': lambda cfg, side, training: segmentation_batch(side),
    'mmyolo': yolo,
}
"""What makes a batch, by framework; for all others :func:`detector_batch` does."""
