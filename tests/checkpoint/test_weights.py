"""Weights that no training leaves, which a model must not take."""

import pytest
import torch

from mmrecnext import RecNeXt
from mmrecnext.checkpoint import load_network, named_weights
from mmrecnext.checkpoint.convert import convert
from mmrecnext.checkpoint.fit import check_fit
from mmrecnext.errors import CheckpointError
from tests.helpers import SMALL, golden_weights

KEY = 'stages.2.blocks.0.channel_mixer.0.conv.weight'
VARIANCE = 'stem.stem.0.norm.running_var'


@pytest.fixture(scope='module')
def good():
    torch.manual_seed(0)
    return RecNeXt(SMALL['m0']).state_dict()


def quantized(weight):
    return torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)


SPOILT = {
    'int64 in place': lambda w: {k: v.long() for k, v in w.items()},
    'bool in place': lambda w: {**w, KEY: w[KEY].bool()},
    'complex64 in place': lambda w: {**w, KEY: w[KEY].to(torch.complex64)},
    'not finite: stages.2': lambda w: {**w, KEY: w[KEY] * float('nan')},
    'not finite: stem': lambda w: {**w, VARIANCE: w[VARIANCE] / 0},
    'below 0: stem': lambda w: {**w, VARIANCE: -w[VARIANCE]},
    'without values': lambda w: {**w, KEY: w[KEY].to('meta')},
    'sparse or quantized: stages': lambda w: {**w, KEY: w[KEY].to_sparse()},
    'sparse or quantized': lambda w: {**w, KEY: quantized(w[KEY])},
    'two weights stem': lambda w: {**w, **{f'module.{k}': v + 1 for k, v in w.items()}},
    "with 'backbone.' before": lambda w: {
        **w,
        **{f'backbone.{k}': v + 1 for k, v in w.items()},
    },
}


@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('fault', SPOILT)
@pytest.mark.filterwarnings('ignore')
def test_spoilt_weights_change_nothing(fault, deploy, good, monkeypatch):
    spoilt = {'model': SPOILT[fault](good)}
    monkeypatch.setattr(
        'mmrecnext.checkpoint.fit.read_checkpoint', lambda *_, **__: spoilt
    )
    init_cfg = dict(type='Pretrained', checkpoint='spoilt.pth')
    model = RecNeXt(SMALL['m0'], deploy=deploy, init_cfg=init_cfg)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=fault):
        model.init_weights()
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    if 'two' in fault or 'before' in fault:
        return
    network = torch.nn.ModuleDict({'backbone': RecNeXt(SMALL['m0'])})
    spoilt = {f'backbone.{k}': v for k, v in spoilt['model'].items()}
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=fault.partition(':')[0]):
        load_network(network, 'spoilt.pth')
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())


def test_the_same_weight_twice_is_one(good):
    twice = {**good, **{f'module.{key}': value for key, value in good.items()}}
    assert named_weights(twice).keys() == good.keys()


def test_half_precision_and_counters_of_any_kind_are_taken(good):
    weights = {key: value.half() for key, value in good.items()}
    check_fit(RecNeXt(SMALL['m0']), weights, 'half.pth')


def test_spoilt_weights_are_not_converted(golden_states, tmp_path):
    weights = golden_weights(golden_states, 'm0')
    weights[KEY] = weights[KEY] / 0
    with pytest.raises(CheckpointError, match='not finite'):
        convert({'model': weights}, 'bare', tmp_path / 'new.bin', 'old.pth')
    assert not list(tmp_path.iterdir())
