"""A config of plain Python, with ``read_base`` and classes, through all tools."""

import json
import re
from textwrap import dedent

import cv2
import pytest

from mmrecnext.engine.configs import load_config
from tests.docs.sandbox import python
from tests.helpers import ROOT, check

pytestmark = pytest.mark.slow

BASE = """
    from mmcv.transforms import LoadImageFromFile, RandomFlip, Resize
    from mmengine.dataset import DefaultSampler, InfiniteSampler
    from mmengine.optim import OptimWrapper, PolyLR
    from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
    from mmseg.evaluation import IoUMetric
    from torch.optim import AdamW

    data_root = 'data/shapes'
    shapes = dict(
        type=BaseSegDataset,
        data_root=data_root,
        metainfo=dict(
            classes=('background', 'circle', 'square', 'triangle', 'star', 'cross'),
        ),
        reduce_zero_label=True,
    )
    load = [dict(type=LoadImageFromFile)]
    loaded = [
        dict(type=Resize, scale=(64, 64)),
        dict(type=LoadAnnotations, reduce_zero_label=True),
    ]
    pack = [dict(type=PackSegInputs)]
    train_dataloader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type=InfiniteSampler, shuffle=True),
        dataset=dict(
            **shapes,
            data_prefix=dict(
                img_path='images/training', seg_map_path='annotations/training'
            ),
            pipeline=load + loaded[::-1] + [dict(type=RandomFlip, prob=0.5)] + pack,
        ),
    )
    val_dataloader = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type=DefaultSampler, shuffle=False),
        dataset=dict(
            **shapes,
            data_prefix=dict(
                img_path='images/validation', seg_map_path='annotations/validation'
            ),
            pipeline=load + loaded + pack,
        ),
    )
    test_dataloader = val_dataloader
    val_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
    test_evaluator = val_evaluator
    train_cfg = dict(type=IterBasedTrainLoop, max_iters=2, val_interval=2)
    val_cfg = dict(type=ValLoop)
    test_cfg = dict(type=TestLoop)
    optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3))
    param_scheduler = [dict(type=PolyLR, power=0.9, by_epoch=False, end=2)]
"""
MINE = """
    from mmengine.config import read_base
    from mmengine.hooks import CheckpointHook, LoggerHook
    from mmseg.models import (
        FPN, CrossEntropyLoss, EncoderDecoder, FPNHead, SegDataPreProcessor
    )
    from torch.nn import BatchNorm2d

    from mmrecnext import RecNeXt

    with read_base():
        from .base import *

    norm_cfg = dict(type=BatchNorm2d)
    model = dict(
        type=EncoderDecoder,
        data_preprocessor=dict(
            type=SegDataPreProcessor,
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            size=(64, 64),
        ),
        backbone=dict(
            type=RecNeXt,
            arch=dict(base='m0', dims=(8, 16, 32, 64), depths=(1, 1, 1, 1)),
        ),
        neck=dict(
            type=FPN,
            in_channels=[8, 16, 32, 64],
            out_channels=16,
            num_outs=4,
            norm_cfg=norm_cfg,
        ),
        decode_head=dict(
            type=FPNHead,
            in_channels=[16] * 4,
            in_index=[0, 1, 2, 3],
            feature_strides=[4, 8, 16, 32],
            channels=16,
            num_classes=6,
            norm_cfg=norm_cfg,
            align_corners=False,
            loss_decode=dict(type=CrossEntropyLoss),
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    train_dataloader.update(batch_size=4)
    default_hooks = dict(
        logger=dict(type=LoggerHook, interval=1),
        checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=2),
    )
"""


def test_from_training_to_pictures(shapes, tmp_path):
    for name, text in (('base', BASE), ('mine', MINE)):
        (tmp_path / f'{name}.py').write_text(dedent(text))
    config = str(tmp_path / 'mine.py')
    assert load_config(config).model.backbone.type == 'mmrecnext.RecNeXt'
    work_dir, photos = tmp_path / 'work', shapes / 'images/validation'
    data = ['--data-root', shapes, '--work-dir', work_dir]

    def run(name, *options):
        tool = str(ROOT / f'tools/{name}.py')
        return check(python([tool, config, *map(str, options)], tmp_path))

    log = run('train', *data)
    assert len(re.findall(r' loss: \d', log)) == 2 and re.search(r' mIoU: \d', log)
    checkpoint = work_dir / 'iter_2.pth'
    out = tmp_path / 'maps'
    log = run('test', checkpoint, *data, '--tta', '--deploy', '--out', out)
    assert re.search(r'^mine: aAcc \d.* mIoU \d', log, re.M)
    assert len([*out.glob('*.png')]) == 2
    run('infer', checkpoint, photos, '--out-dir', tmp_path / 'found')
    found = json.loads((tmp_path / 'found/predictions.json').read_text())
    assert len(found) == 2
    drawn = [cv2.imread(str(x)) for x in (tmp_path / 'found').glob('*.png')]
    assert [x.shape[:2] for x in drawn] == [(96, 96)] * 2
