"""Configs of MMYOLO: their networks, a training step each, and the tools on them."""

import json

import cv2
import pytest

from mmrecnext import ARCHS
from mmrecnext.engine.configs import load_config, nodes, type_of
from mmrecnext.pretrained import PRETRAINED
from tests.configs.steps import train_a_step
from tests.helpers import ROOT, check, run_tool

pytest.importorskip('mmyolo')

FILES = {file.stem: file for file in ROOT.glob('configs/yolo/*.py')}
ARCH_OF = {'yolov8_recnext_m0_coco': 'm0', 'yolov8_recnext_m3_coco': 'm3'}
SIDE = 128
CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')


def fitted(name, shapes):
    """A config on the shapes, with pictures of ``SIDE`` pixels, from random weights."""
    cfg = load_config(str(FILES[name]))
    cfg.model.backbone.init_cfg = None
    for node in nodes(cfg._cfg_dict):
        for key, value in node.items():
            if value == (640, 640):
                node[key] = (SIDE, SIDE)
            if key == 'num_classes':
                node[key] = len(CLASSES)
            if key == 'border':
                node[key] = (-SIDE // 2, -SIDE // 2)
            if isinstance(value, list):  # Albu takes a package that may be missing
                node[key] = [x for x in value if type_of(x) != 'Albu']
        if 'data_prefix' in node:
            node.update(data_root=str(shapes), metainfo=dict(classes=CLASSES))
        if type_of(node) == 'CocoMetric':
            node.ann_file = str(shapes / 'annotations/instances_val2017.json')
    return cfg


def test_every_config_is_known():
    assert {*FILES} == {*ARCH_OF}


@pytest.mark.parametrize(('name', 'arch'), ARCH_OF.items())
def test_starts_from_the_weights_of_its_model(name, arch):
    cfg = load_config(str(FILES[name]))
    backbone, neck = cfg.model.backbone, cfg.model.neck
    assert backbone.arch == arch
    assert PRETRAINED[backbone.init_cfg.checkpoint].arch == arch
    assert [x * neck.widen_factor for x in neck.in_channels] == [*ARCHS[arch].dims[1:]]


@pytest.mark.slow
def test_trains_a_step(shapes):
    train_a_step(fitted('yolov8_recnext_m3_coco', shapes))


@pytest.mark.slow
def test_the_tools_train_test_and_draw(shapes, tmp_path):
    cfg = fitted('yolov8_recnext_m0_coco', shapes)
    cfg.model.backbone.arch = dict(base='m0', depths=(1, 1, 1, 1))
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.train_dataloader.update(batch_size=4)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.dump(tmp_path / 'yolo.py')
    run = tmp_path / 'run'
    check(run_tool('tools/train.py', tmp_path / 'yolo.py', '--work-dir', run))
    checkpoint = run / 'epoch_1.pth'
    options = ['--work-dir', run, '--deploy', '--out', tmp_path / 'found.json']
    check(run_tool('tools/test.py', tmp_path / 'yolo.py', checkpoint, *options))
    assert json.loads((tmp_path / 'found.bbox.json').read_text())
    options = ['--out-dir', tmp_path / 'drawn', '--score-thr', '0']
    pictures = shapes / 'val2017'
    check(
        run_tool('tools/infer.py', tmp_path / 'yolo.py', checkpoint, pictures, *options)
    )
    for file in pictures.iterdir():
        drawn = cv2.imread(str(tmp_path / 'drawn' / f'{file.stem}.png'))
        assert drawn.shape == cv2.imread(str(file)).shape
