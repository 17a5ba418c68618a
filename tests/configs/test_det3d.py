"""Configs of MMDetection3D: their networks, and a training step each."""

import pytest

from mmrecnext import ARCHS
from mmrecnext.engine.configs import load_config
from mmrecnext.pretrained import PRETRAINED
from tests.configs.steps import train_a_step
from tests.helpers import ROOT
from tests.zoo.detection3d import detection3d_batch

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
    train_a_step(cfg, detection3d_batch(cfg, 128, training=True))
