"""Configs of MMDetection3D: their networks, and a training step each."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import VISUALIZERS, DefaultScope
from mmengine.structures import InstanceData

from mmrecnext import ARCHS
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.outputs import picture_of
from mmrecnext.engine.predictions import kind_of
from mmrecnext.engine.predictor import Predictor
from mmrecnext.errors import ConfigError
from mmrecnext.pretrained import PRETRAINED
from tests.configs.steps import train_a_step
from tests.helpers import ROOT
from tests.zoo.space import space_batch

pytest.importorskip('mmdet3d')

FILES = {file.stem: file for file in ROOT.glob('configs/det3d/*.py')}
ARCH_OF = {'fcos3d_recnext_m0_nuscenes': 'm0', 'fcos3d_recnext_m3_nuscenes': 'm3'}


def test_every_config_is_known():
    assert {*FILES} == {*ARCH_OF}


@pytest.mark.parametrize(('name', 'arch'), ARCH_OF.items())
def test_starts_from_the_weights_of_its_model(name, arch):
    model = load_config(str(FILES[name])).model
    assert model.backbone.arch == arch
    assert PRETRAINED[model.backbone.init_cfg.checkpoint].arch == arch
    assert model.neck.in_channels == [*ARCHS[arch].dims]


@pytest.mark.slow
def test_trains_a_step():
    cfg = load_config(str(FILES['fcos3d_recnext_m0_nuscenes']))
    cfg.model.backbone.update(init_cfg=None, arch=dict(base='m0', depths=(1, 1, 1, 1)))
    train_a_step(cfg, space_batch(cfg, side=64))


def test_a_picture_alone_is_not_enough_to_predict():
    cfg = load_config(str(FILES['fcos3d_recnext_m0_nuscenes']))
    with pytest.raises(ConfigError, match='a picture and the calibration of its cam'):
        Predictor(cfg, None)


@pytest.mark.parametrize(('score_thr', 'is_drawn'), [(0.3, True), (0.9, False)])
def test_boxes_are_drawn_as_the_camera_sees_them(score_thr, is_drawn, tmp_path):
    load_config(str(FILES['fcos3d_recnext_m0_nuscenes']))
    cfg = Config(dict(default_scope='mmdet3d', model=dict(type='FCOSMono3D')))
    sample = space_batch(cfg, side=64)['data_samples'][0]
    boxes = sample.gt_instances_3d.bboxes_3d
    sample.pred_instances_3d = InstanceData(
        bboxes_3d=boxes,
        scores_3d=torch.full((len(boxes),), 0.5),
        labels_3d=torch.zeros(len(boxes), dtype=torch.long),
    )
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        visualizer = VISUALIZERS.build(dict(type='Det3DLocalVisualizer', name='boxes'))
    kind = kind_of('mmdet3d')(dict(classes=('car',), palette=[(0, 255, 0)]))
    out = tmp_path / 'drawn.png'
    picture = np.zeros((64, 64, 3), np.uint8)
    options = dict(out_file=str(out), draw_gt=False)
    kind.draw(visualizer, 'boxes', picture, sample, score_thr, **options)
    assert cv2.imread(str(out)).any() == is_drawn


def test_the_picture_of_a_sample_stands_by_its_camera():
    images = dict(CAM_FRONT=dict(img_path='front.jpg'))
    assert picture_of(dict(images=images)) == 'front.jpg'
    assert picture_of(dict(img_path='a.jpg')) == 'a.jpg'
