"""Whole networks of the frameworks: building them, and where their time goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mmrecnext.benchmark.cases import DTYPES, Case
from mmrecnext.benchmark.original import original_of
from mmrecnext.checkpoint import load_network
from mmrecnext.engine.build import build_network, fit_cpu, whole_model
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.engine.pasting import paste_in_boxes
from mmrecnext.engine.precision import infer_in
from mmrecnext.engine.segmentation import bound_memory
from mmrecnext.errors import ConfigError
from mmrecnext.models import RecNeXt
from mmrecnext.models.fusion import speed_up_convolutions, switch_to_deploy

PARTS = ('backbone', 'neck', 'heads', 'post-processing')
OBJECTS = 8
"""Boxes in each of the random images that are trained on."""


def build_detector(case: Case, checkpoint: str | None = None) -> nn.Module:
    """Build the network of a config.

    Raises:
        ConfigError: for a config that has no backbone, or whose ``original`` is asked
            for although its backbone is no RecNeXt.
    """
    cfg = load_config(case.model)
    if 'backbone' not in cfg.model:
        raise ConfigError(f'{case.model}: its model has no backbone')
    cfg.model.backbone.init_cfg = None
    cfg.model.pop('pretrained', None)
    fit_cpu(cfg)
    model = build_network(whole_model(cfg), cfg.default_scope)
    if checkpoint:
        load_network(model, checkpoint)
    training = case.work == 'step'
    model.train(training)
    if case.form == 'original':
        if not isinstance(model.backbone, RecNeXt):
            raise ConfigError(
                f'{case.model}: only a RecNeXt has an original computation, not '
                f'{type(model.backbone).__name__}: measure --form train or deploy'
            )
        model.backbone = original_of(model.backbone, fused=not training)
    elif case.form == 'deploy':
        switch_to_deploy(model)
        bound_memory(model)  # as the tools do
        paste_in_boxes(model)  # likewise
    elif not torch.cuda.is_available():
        speed_up_convolutions(model)  # likewise
    return model


def mixed_precision(dtype: str, device: str) -> torch.autocast:
    """Return the context of automatic mixed precision, which fp32 is without.

    Args:
        dtype: a name in ``DTYPES``.
        device: its type.
    """
    if dtype == 'fp32':
        return torch.autocast(device, enabled=False)
    return torch.autocast(device, DTYPES[dtype])


def detector_calls(
    model: Any, case: Case, device: str
) -> tuple[Callable[[], object], Callable[[Any], object] | None]:
    """Return functions that find the objects in random images, or learn from some.

    Other types than fp32 are those of automatic mixed precision, as with ``--amp`` of
    ``tools/train.py``; deployed, those of ``--dtype`` of ``tools/test.py``.
    """
    autocast = case.dtype
    if case.work == 'forward' and case.form == 'deploy' and case.dtype != 'fp32':
        infer_in(model, case.dtype)
        autocast = 'fp32'
    images = torch.randn(case.batch, 3, *case.shape, device=device)
    if case.layout == 'nhwc':
        images = images.contiguous(memory_format=torch.channels_last)

    def forward() -> object:
        # The frameworks write their results into the samples.
        samples = make_samples(model, case, device)
        model.zero_grad(set_to_none=True)
        with mixed_precision(autocast, images.device.type):
            if case.work == 'step':
                return model.parse_losses(model.loss(images, samples))[0]
            with torch.no_grad():
                return model.predict(images, samples)

    return forward, torch.Tensor.backward if case.work == 'step' else None


def make_samples(model: nn.Module, case: Case, device: str) -> list:
    """Return what the framework wants to be told of each image of ``case``."""
    shape = case.shape
    meta = dict(
        img_shape=shape,
        ori_shape=shape,
        pad_shape=shape,
        batch_input_shape=shape,
        scale_factor=(1.0, 1.0),
        flip=False,
    )
    scope = type(model).__module__.split('.')[0]
    predicts = FRAMEWORKS[scope].predicts if scope in FRAMEWORKS else 'instances'
    make = SAMPLES.get(predicts, detection_sample)
    return [make(meta, device, model) for _ in range(case.batch)]


def segmentation_sample(meta: dict, device: str, model: Any) -> object:
    """Return a sample of MMSegmentation, all of its pixels of the first class."""
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=meta)
    labels = torch.zeros(1, *meta['img_shape'], dtype=torch.long, device=device)
    sample.gt_sem_seg = PixelData(data=labels)
    return sample


def detection_sample(meta: dict, device: str, model: Any) -> object:
    """Return a sample of MMDetection with boxes, and masks that fill them."""
    import numpy as np
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    height, width = meta['img_shape']
    random = np.random.RandomState(0)
    masks = np.zeros((OBJECTS, height, width), np.uint8)
    boxes = []
    for mask in masks:
        x, y = random.randint(0, (width // 2, height // 2))
        w, h = random.randint((width // 8, height // 8), (width // 2, height // 2))
        mask[y : y + h, x : x + w] = 1
        boxes.append([x, y, x + w, y + h])
    sample = DetDataSample(metainfo=meta)
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32, device=device),
        labels=torch.zeros(OBJECTS, dtype=torch.long, device=device),
        masks=BitmapMasks(masks, height, width),
    )
    return sample


def pose_sample(meta: dict, device: str, model: Any) -> object:
    """Return a sample of MMPose, of one person, encoded as the head learns it."""
    import numpy as np
    from mmpose.datasets.transforms import PackPoseInputs

    height, width = meta['img_shape']
    codec = model.head.decoder
    joints = model.head.out_channels
    points = np.random.RandomState(0).uniform((0, 0), (width, height), (1, joints, 2))
    points = points.astype(np.float32)
    results = dict(
        codec.encode(points, np.ones((1, joints), np.float32)),
        **meta,
        img=np.zeros((height, width, 3), np.uint8),
        bbox=np.array([[0, 0, width, height]], np.float32),
        bbox_score=np.ones(1, np.float32),
        input_size=(width, height),
        input_center=np.array([width / 2, height / 2]),
        input_scale=np.array([width, height]),
        flip_indices=[*range(joints)],
        instance_mapping_table=dict(bbox='bboxes', bbox_score='bbox_scores'),
        label_mapping_table=codec.label_mapping_table,
        field_mapping_table=codec.field_mapping_table,
    )
    return PackPoseInputs()(results)['data_samples'].to(device)


def class_sample(meta: dict, device: str, model: Any) -> object:
    """Return a sample of MMPretrain, of the first class."""
    from mmpretrain.structures import DataSample

    return DataSample(metainfo=meta).set_gt_label([0]).to(device)


SAMPLES: dict[str, Callable[[dict, str, Any], object]] = {
    'class': class_sample,
    'instances': detection_sample,
    'keypoints': pose_sample,
    'label map': segmentation_sample,
}
"""What makes a sample, by what a framework predicts."""


class PartClock:
    """Tells how the time of a detector divides into ``PARTS``.

    Each moment counts for the innermost part that is at work. What a head does after
    its network, in ``predict_by_feat``, is post-processing, and so is what is neither
    backbone, neck nor head.

    Args:
        model: a detector or segmentor.
        synchronize: waits for the device.
    """

    def __init__(self, model: nn.Module, synchronize: Callable[[], None]):
        self.synchronize = synchronize
        self.stack: list[str] = []
        self.seconds: dict[str, float] = defaultdict(float)
        self.since = 0.0
        for name, child in model.named_children():
            if name == 'data_preprocessor':
                continue
            self.watch(child, 'forward', name if name in PARTS else 'heads')
            if hasattr(child, 'predict'):
                self.watch(child, 'predict', 'heads')
        for module in model.modules():
            if hasattr(module, 'predict_by_feat'):
                self.watch(module, 'predict_by_feat', 'post-processing')

    def watch(self, module: nn.Module, method: str, part: str):
        """Count the time of a method of a module for a part."""
        inner = getattr(module, method)

        def timed(*args, **kwargs):
            self.enter(part)
            try:
                return inner(*args, **kwargs)
            finally:
                self.leave()

        # Past `nn.Module.__setattr__`, and seen by this instance alone.
        object.__setattr__(module, method, timed)

    def switch(self):
        """Count the time until now for the part that was at work."""
        self.synchronize()
        now = time.perf_counter()
        if self.stack:
            self.seconds[self.stack[-1]] += now - self.since
        self.since = now

    def enter(self, part: str):
        """Begin a part."""
        self.switch()
        self.stack.append(part)

    def leave(self):
        """Return to the part that was at work before."""
        self.switch()
        self.stack.pop()

    def run(self, call: Callable[[], object]) -> dict[str, float]:
        """Return the seconds that each part takes in a call."""
        self.seconds.clear()
        self.enter('post-processing')
        call()
        self.leave()
        return {part: self.seconds[part] for part in PARTS}
