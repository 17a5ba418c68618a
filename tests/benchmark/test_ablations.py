"""The published ablations: their configs, what is counted of them, and the page."""

import re

import pytest
import torch

from mmrecnext.benchmark.ablations import (
    ABLATIONS,
    ablation_rows,
    config_of,
    measure_ablations,
    named_ablation,
)
from mmrecnext.engine.configs import read_config
from mmrecnext.errors import OptionError
from mmrecnext.models.classifier import RecNeXtClassifier
from mmrecnext.models.fusion import fuse_conv_norms
from tests.helpers import ROOT, run_tool

FOLDER = ROOT / 'configs/imagenet/ablations'
PAGE = (ROOT / 'docs/ablations.md').read_text().splitlines()
MISNAMED = '384x384_rec_convtrans_5x5_basic'

each_ablation = pytest.mark.parametrize('name', ABLATIONS)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_every_ablation_has_a_config():
    assert len(ABLATIONS) == 20
    assert {file.name for file in FOLDER.glob('*.py')} == {*map(config_of, ABLATIONS)}


@each_ablation
def test_parameters_are_those_of_the_log(name):
    known = ABLATIONS[name]
    with torch.device('meta'):
        model = RecNeXtClassifier(named_ablation(name).arch).eval()
    assert parameters(model) == known.train_params

    # The figure counts the published fused form, of the operator that the name tells.
    if name == MISNAMED:
        with torch.device('meta'):
            mixer = dict(kernel_size=5, mode='transposed')
            model = RecNeXtClassifier(dict(base='m1', mixer=mixer)).eval()
        assert parameters(model) == 5708264
    fuse_conv_norms(model)
    assert f'{parameters(model) / 1e6:.2f}' == f'{known.params:.2f}'


@each_ablation
def test_recipes_differ_in_epochs_and_size_alone(name):
    cfg = read_config(config_of(name))
    base = read_config(ROOT / 'configs/imagenet/_base_/in1k_300e.py')
    side = int(name.partition('x')[0])
    base.max_epochs = base.train_cfg.max_epochs = base.param_scheduler.epochs = 120
    base.size = side
    for part in ('train', 'val', 'test'):
        base[f'{part}_dataloader'].dataset.transform.input_size = side
    for network in (cfg.model, base.model):
        network.pop('arch', None)
    assert cfg.model.pop('drop_path_rate', 0.0) == 0.0
    assert cfg.to_dict() == base.to_dict()


@pytest.mark.slow
def test_rows_and_page():
    """Every row of the page begins with what is published and counted."""
    found = measure_ablations(['224x224_rec_5x5', MISNAMED], repeats=0)
    columns, rows = ablation_rows(found)
    assert columns[:4] == ('token mixer', 'top-1', 'params (M)', 'here')
    assert rows[1][:4] == (MISNAMED, '77.87', '5.31', '5.00')
    for row in rows:
        assert len(row) == len(columns)
        assert sum(x.startswith(f'| {" | ".join(row)} |') for x in PAGE) == 1
    assert [x.split()[1] for x in PAGE if x.startswith(('| 224', '| 384'))] == [
        *ABLATIONS
    ]


def test_times():
    found = measure_ablations(['224x224_3x3'], repeats=2, batches=(1, 2), side=32)
    assert found[0].side == 32
    assert {batch: len(s) for batch, s in found[0].seconds.items()} == {1: 2, 2: 2}
    columns, (row,) = ablation_rows(found)
    assert columns[-2:] == ('here (ms)', 'here (img/s, x2)')
    assert all(float(x) > 0 for x in row[-2:])


def test_unknown_ablation():
    with pytest.raises(OptionError, match='did you mean 224x224_rec_5x5'):
        measure_ablations(['224x224_rec_5x6'])


@pytest.mark.slow
def test_tools():
    command = ('tools/benchmark.py', '--ablations', '224x224_3x3', '--repeats', '1')
    result = run_tool(*command, '--shape', '32', '--batch', '1')
    assert result.returncode == 0 and '224x224_3x3 │ 74.64' in result.stdout
    result = run_tool('tools/benchmark.py', 'm1', '--ablations')
    assert result.returncode == 1 and '--ablations takes no models' in result.stderr

    result = run_tool('tools/get_flops.py', config_of('384x384_3x3'))
    assert result.returncode == 0 and re.search('4.79.* 5.20.* 2.381', result.stdout)
    result = run_tool('tools/get_flops.py', 'mask_rcnn_recnext_m0_shapes.py')
    assert result.returncode == 0 and re.search('3.31.* 3.32', result.stdout)
