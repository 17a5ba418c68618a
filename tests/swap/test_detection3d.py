"""Swaps in MMDetection3D: image detectors, and the reasons that others are refused."""

import pytest
import torch
from mmengine.config import Config, ConfigDict

from mmrecnext.engine.build import build_network
from mmrecnext.engine.configs import read_config
from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.errors import ConfigError
from mmrecnext.swap import swap_backbone, write_config
from mmrecnext.swap.measure import measure_backbone
from tests.zoo.trial import attempt

is_installed = FRAMEWORKS['mmdet3d'].is_installed
needs_mmdet3d = pytest.mark.skipif(not is_installed, reason='no mmdet3d')

SMOKE = 'mmdet3d::smoke/smoke_dla34_dlaneck_gn-all_4xb8-6x_kitti-mono3d.py'
NUIMAGES = 'mmdet3d::nuimages/mask-rcnn_r50_fpn_1x_nuim.py'
SMALL = dict(base='m0', depths=(1, 1, 1, 1))


@pytest.mark.parametrize('key', ['backbone', 'pts_backbone'])
@pytest.mark.parametrize('kind', ['SECOND', 'PointNet2SASSG', 'mmdet3d.MinkResNet'])
def test_what_takes_points_is_refused(key, kind):
    cfg = Config(
        dict(
            default_scope='mmdet3d',
            model={'type': 'VoxelNet', key: dict(type=kind, in_channels=64)},
        )
    )
    kind = kind.split('.')[-1]
    match = rf'^model\.{key}: {kind} cannot be swapped: it takes the points of a LiDAR'
    with pytest.raises(ConfigError, match=match):
        swap_backbone(cfg, SMALL, pretrained=False)


def test_a_model_of_points_and_pictures_is_refused():
    model = dict(type='ImVoteNet', img_backbone=dict(type='mmdet.ResNet', depth=18))
    cfg = Config(dict(default_scope='mmdet3d', model=model))
    with pytest.raises(ConfigError, match=r'^model\.type: ImVoteNet is a detector of'):
        swap_backbone(cfg, SMALL, pretrained=False)


@needs_mmdet3d
@pytest.mark.slow
@pytest.mark.parametrize(('arch', 'groups'), [('m0', 8), ('m3', 32)])
def test_smoke_looks_at_the_stages_in_place_of_the_maps_of_dla(arch, groups):
    cfg = swap_backbone(SMOKE, dict(SMALL, base=arch), pretrained=False)
    neck, head = cfg.model.neck, cfg.model.bbox_head
    maps = measure_backbone(cfg.model, 'model', 'mmdet3d')
    channels = [m.channels for m in maps]
    assert [m.stride for m in maps] == [4, 8, 16, 32]
    assert (neck.in_channels, neck.start_level, neck.end_level) == (channels, 0, 3)
    assert neck.norm_cfg.num_groups == groups
    assert head.in_channels == head.feat_channels == channels[0]
    model = build_network(cfg.model, 'mmdet3d')
    with torch.no_grad():
        maps = model.extract_feat(dict(imgs=torch.zeros(1, 3, 64, 64)))
        assert [x.shape[-1] for x in model.bbox_head(maps)[0]] == [16]


@needs_mmdet3d
@pytest.mark.slow
def test_models_of_mmdetection_within_remain_so(tmp_path):
    cfg = swap_backbone(NUIMAGES, SMALL, pretrained=False)
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.type == 'DetDataPreprocessor' and preprocessor.bgr_to_rgb
    assert 'pretrained' not in cfg.model  # which MMDetection 3 would not take
    assert write_config(cfg, tmp_path / 'new.py', NUIMAGES) == ''
    new = read_config(tmp_path / 'new.py')
    assert new.model == cfg.model and isinstance(new.model, ConfigDict)
    built = build_network(new.model, new.default_scope, weights=False)
    assert type(built).__module__.startswith('mmdet.')


@needs_mmdet3d
@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        'imvoxelnet/imvoxelnet_8xb4_kitti-3d-car',
        'mvfcos3d/multiview-fcos3d_r101-dcn_8xb2_waymoD5-3d-3class',
        'nuimages/htc_r50_fpn_1x_nuim',
    ],
)
def test_models_train_and_predict(name):
    cfg = swap_backbone(f'mmdet3d::{name}.py', SMALL, pretrained=False)
    assert cfg.model.neck.in_channels == [40, 80, 160, 320]
    trial = attempt(cfg, 64)
    assert trial.passed, trial
