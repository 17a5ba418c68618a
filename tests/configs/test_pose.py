"""Configs of MMPose: their networks, a training step each, and the demo in small."""

import importlib.util
import re

import pytest

from mmrecnext import ARCHS
from mmrecnext.engine.build import build_runner
from mmrecnext.engine.configs import load_config, nodes, type_of
from mmrecnext.engine.prepare import prepare
from mmrecnext.pretrained import PRETRAINED
from tests.configs.steps import train_a_step
from tests.helpers import ROOT, TINY, check, run_tool

pytest.importorskip('mmpose')

FILES = {file.stem: file for file in ROOT.glob('configs/pose/*.py')}
BENCHMARKS = {
    'td-hm_recnext-m0_coco-256x192': 'm0',
    'td-hm_recnext-m3_coco-256x192': 'm3',
    'td-hm_recnext-a3_coco-256x192': 'a3',
    'rtmpose-m_recnext-m3_8xb256-420e_coco-256x192': 'm3',
}
DEMO = 'td-hm_recnext-m0_stick'


@pytest.fixture(scope='module')
def stick(tmp_path_factory):
    """A few figures, one a picture."""
    folder = tmp_path_factory.mktemp('data') / 'stick'
    options = ['--train', 64, '--val', 16, '--size', '48x64', '--sides', '65-100']
    check(run_tool('tools/make_stick_figures_data.py', folder, *options))
    return folder


def with_what_is_installed(cfg):
    """Leave out a transform that takes a package which MMPose does not ask for."""
    if importlib.util.find_spec('albumentations') is None:
        for node in nodes(cfg._cfg_dict):
            for key, value in node.items():
                if isinstance(value, list):
                    node[key] = [x for x in value if type_of(x) != 'Albumentation']
    return cfg


def test_every_config_is_known():
    assert {*FILES} == {*BENCHMARKS, DEMO}


@pytest.mark.parametrize('name', BENCHMARKS)
def test_starts_from_the_weights_of_its_model(name):
    cfg = load_config(str(FILES[name]))
    arch = BENCHMARKS[name]
    backbone = cfg.model.backbone
    assert backbone.arch == arch
    assert backbone.init_cfg.type == 'Pretrained'
    assert PRETRAINED[backbone.init_cfg.checkpoint].arch == arch
    assert cfg.model.head.in_channels == ARCHS[arch].dims[-1]


def test_batch_of_the_demo():
    cfg = load_config(str(FILES[DEMO]))
    recipe = (ROOT / 'Makefile').read_text()
    processes = re.search(r'dist_train\.sh configs/\$\(1\)\.py (\d+)', recipe)[1]
    batch = cfg.train_dataloader.batch_size * int(processes)
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert f'run_demo,pose/{DEMO},stick,' in recipe


@pytest.mark.slow
@pytest.mark.parametrize('name', BENCHMARKS)
def test_trains_a_step(name, stick):
    cfg = with_what_is_installed(load_config(str(FILES[name])))
    cfg.model.backbone.init_cfg = None
    cfg.train_dataloader.dataset.data_root = str(stick)
    train_a_step(cfg)


@pytest.mark.slow
def test_the_demo_learns(stick, tmp_path):
    """A small one halves how far the joints of figures that it has not seen are off."""
    cfg = load_config(str(FILES[DEMO]))
    cfg.model.backbone.arch = TINY
    cfg.model.head.in_channels = sum(TINY['dims'])
    cfg.param_scheduler[0].end = 4
    prepare(cfg, DEMO, ('train', 'test'), str(tmp_path), str(stick))
    runner = build_runner(cfg)
    before = runner.test()
    runner.train()
    after = runner.test()
    assert after['EPE'] < 0.5 * before['EPE']
