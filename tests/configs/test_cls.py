"""Configs of MMPretrain: their networks, and a training step each."""

import cv2
import numpy as np
import pytest

from mmrecnext import ARCHS
from mmrecnext.engine.configs import load_config
from mmrecnext.pretrained import PRETRAINED
from tests.configs.steps import train_a_step
from tests.helpers import ROOT

pytest.importorskip('mmpretrain')

FILES = {file.stem: file for file in ROOT.glob('configs/cls/*.py')}
ARCH_OF = {f'recnext_{arch}_8xb128_in1k': arch for arch in ('m0', 'm3', 'a3')}


def test_every_config_is_known():
    assert {*FILES} == {*ARCH_OF}


@pytest.mark.parametrize('name', ARCH_OF)
def test_starts_from_the_weights_of_its_model(name):
    cfg = load_config(str(FILES[name]))
    backbone = cfg.model.backbone
    assert backbone.arch == ARCH_OF[name]
    assert PRETRAINED[backbone.init_cfg.checkpoint].arch == backbone.arch
    assert cfg.model.head.in_channels == ARCHS[backbone.arch].dims[-1]
    gpus = int(name.split('_')[2].split('xb')[0])
    assert cfg.auto_scale_lr.base_batch_size == gpus * cfg.train_dataloader.batch_size


@pytest.mark.slow
@pytest.mark.parametrize('name', ARCH_OF)
def test_trains_a_step(name, tmp_path):
    for label in 'ab':
        file = tmp_path / 'train' / label / 'picture.jpg'
        file.parent.mkdir(parents=True)
        picture = np.random.RandomState(ord(label)).randint(0, 255, (64, 64, 3))
        cv2.imwrite(str(file), picture)
    cfg = load_config(str(FILES[name]))
    cfg.model.backbone.init_cfg = None
    cfg.train_dataloader.dataset.update(
        data_root=str(tmp_path), metainfo=dict(classes=('a', 'b'))
    )
    train_a_step(cfg)
