"""Detectors of many kinds on a RecNeXt, as MMDetection tests its own.

Each is initialised, and gives losses, predictions and plain tensors of two pictures of
different sizes. ``python -m tests.zoo.report`` tries one config of every type.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from torch import Tensor

from mmrecnext.engine.configs import nodes
from mmrecnext.swap import read_config
from mmrecnext.swap.reasons import MODELS_WITHOUT, WELDED
from tests.helpers import ROOT
from tests.zoo.configs import swap
from tests.zoo.trial import build_model, keep_boxes, train_step

pytestmark = [pytest.mark.usefixtures('quiet'), pytest.mark.slow]

SHAPES = [[3, 128, 128], [3, 125, 130]]
DETECTORS = [
    ('centernet/centernet_r18_8xb16-crop512-140e_coco.py', 't'),
    ('condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py', 'm0'),
    ('conditional_detr/conditional-detr_r50_8xb2-50e_coco.py', 't'),
    ('cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py', 'm0'),
    ('dino/dino-4scale_r50_8xb2-12e_coco.py', 'm0'),
    ('fsaf/fsaf_r50_fpn_1x_coco.py', 't'),
    ('maskformer/maskformer_r50_ms-16xb1-75e_coco.py', 't'),
    ('queryinst/queryinst_r50_fpn_1x_coco.py', 'm0'),
    ('solov2/solov2-light_r18_fpn_ms-3x_coco.py', 't'),
    ('ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py', 't'),
    ('yolact/yolact_r50_1xb8-55e_coco.py', 'm0'),
    ('yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py', 'm0'),
    ('yolox/yolox_tiny_8xb8-300e_coco.py', 't'),
]
FEW = dict(num_queries=20, num_proposals=20, max_per_img=20, nms_pre=100, num=32)
"""Of queries, proposals, boxes, candidates of a level, and samples of a head."""


def read_small(name: str) -> ConfigDict:
    """Read a config, with few boxes and few stages of a head."""
    cfg = read_config(f'mmdet::{name}')
    model = cfg.model
    if name.startswith('cornernet'):  # on a classifier, as MMDetection tests it
        model.backbone = ConfigDict(type='ResNet', depth=18, out_indices=(3,))
        model.neck = ConfigDict(
            type='FPN', in_channels=[512], out_channels=256, num_outs=1
        )
        model.bbox_head.num_feat_levels = 1
    for node in nodes(model):
        for key in FEW.keys() & node.keys():
            node[key] = min(node[key], FEW[key])
        if node.get('batch_augments'):
            node.batch_augments = None  # which make all pictures large
    if model.get('roi_head', {}).get('num_stages', 0) > 2:
        head = model.roi_head
        head.num_stages = 2
        for key in ('bbox_head', 'mask_head', 'stage_loss_weights'):
            head[key] = head[key][:2]
        model.train_cfg.rcnn = model.train_cfg.rcnn[:2]
    return cfg


def batch() -> dict:
    """Make two pictures with boxes, masks and semantic maps, as a data loader does."""
    data = demo_mm_inputs(2, SHAPES, num_classes=2, with_mask=True, with_semantic=True)
    for sample in data['data_samples']:
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0)))
    return data


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of an output, however nested."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from tensors_in(list(output.values()))
    elif isinstance(output, list | tuple):
        for part in output:
            yield from tensors_in(part)


@pytest.mark.parametrize(('name', 'arch'), DETECTORS, ids=lambda x: x.split('/')[0])
def test_losses_predictions_and_tensors(name, arch):
    cfg = swap(f'mmdet::{name}', read_small(name), [arch], {})
    for key in ('epoch', 'iter'):  # which a runner tells; some losses warm up
        MessageHub.get_current_instance().update_info(key, 0)
    torch.manual_seed(0)
    model = build_model(cfg)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model.init_weights()
        loss, faults = train_step(model, batch())
        assert faults == ()
        assert 0 < loss < 1e4
        keep_boxes(model)
        model.eval()
        with torch.no_grad():
            data = model.data_preprocessor(batch(), False)
            check_predictions(model(**data, mode='predict'))
            found = list(tensors_in(model(**data, mode='tensor')))
    assert found
    assert all(x.isfinite().all() for x in found)


def check_predictions(samples):
    """Each of two pictures has results of its own size, in finite numbers."""
    assert len(samples) == len(SHAPES)
    for sample, (_, height, width) in zip(samples, SHAPES, strict=True):
        keys = [key for key in sample.all_keys() if key.startswith('pred')]
        assert keys
        for key in keys:
            if key == 'pred_instances':
                objects = sample.pred_instances
                assert objects.bboxes.shape == (len(objects), 4)
                assert objects.bboxes.isfinite().all()
                assert ((objects.scores >= 0) & (objects.scores <= 1)).all()
                if 'masks' in objects:
                    assert objects.masks.shape == (len(objects), height, width)
            else:
                (found,) = sample.get(key).values()
                assert found.shape[-2:] == (height, width)


@pytest.mark.parametrize('kind', [*WELDED, *MODELS_WITHOUT, 'RFP'])
def test_every_refusal_is_documented(kind):
    text = (ROOT / 'docs' / 'swap.md').read_text()
    assert f'`{kind}`' in text.partition('## What is refused')[2]
