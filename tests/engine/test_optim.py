"""Layer-wise learning-rate decay: the rate of every parameter, by name."""

from importlib import import_module

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from mmrecnext import ARCHS, RecNeXt
from mmrecnext.errors import ConfigError, OptionError
from tests.helpers import ROOT

SMALL = dict(dims=(16, 32, 64, 128), depths=(1, 2, 1, 1))
RATE = 0.5
LR = 0.064


class Model(nn.Module):
    """What a detector is to the constructor: a backbone and more."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(nn.Conv2d(128, 4, 1), nn.BatchNorm2d(4))


def optimizer(model, lr=LR, **paramwise):
    cfg = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', weight_decay=0.05, **(dict(lr=lr) if lr else {})),
        constructor='mmrecnext.RecNeXtLayerDecay',
        paramwise_cfg=paramwise,
    )
    return build_optim_wrapper(model, cfg).optimizer


def settings(model, optimizer, setting):
    """A setting of each parameter that is trained, by its name."""
    names = {p: name for name, p in model.named_parameters()}
    found = [
        (names[p], group[setting])
        for group in optimizer.param_groups
        for p in group['params']
    ]
    assert len(found) == len(dict(found))  # none twice
    return dict(found)


# Rates in halves: of six layers (stem, five blocks) the stem is halved six times.
BY_LAYER = {
    'backbone.stem.': LR / 64,
    'backbone.stages.0.blocks.0.': LR / 32,
    'backbone.stages.1.downsample.': LR / 16,
    'backbone.stages.1.blocks.0.': LR / 16,
    'backbone.stages.1.blocks.1.': LR / 8,
    'backbone.stages.2.downsample.': LR / 4,
    'backbone.stages.2.blocks.0.': LR / 4,
    'backbone.stages.3.downsample.': LR / 2,
    'backbone.stages.3.blocks.0.': LR / 2,
    'head.': LR,
}
BY_STAGE = {
    'backbone.stem.': LR / 32,
    'backbone.stages.0.': LR / 16,
    'backbone.stages.1.': LR / 8,
    'backbone.stages.2.': LR / 4,
    'backbone.stages.3.': LR / 2,
    'head.': LR,
}


def expected(model, table):
    """The rates of a table, by name of parameter instead of its beginning."""
    return {
        name: next(lr for start, lr in table.items() if name.startswith(start))
        for name, p in model.named_parameters()
        if p.requires_grad
    }


@pytest.mark.parametrize('base', ['m0', 'a0', 't', 'b_share_channel'])
@pytest.mark.parametrize(
    ('kind', 'table'), [('layer_wise', BY_LAYER), ('stage_wise', BY_STAGE)]
)
def test_rate_of_every_parameter(base, kind, table):
    model = Model(RecNeXt(dict(SMALL, base=base)))
    made = optimizer(model, decay_rate=RATE, decay_type=kind)
    assert settings(model, made, 'lr') == expected(model, table)
    assert len(made.param_groups) == len(set(table.values()))


def test_a_first_stage_without_blocks_is_no_layer():
    model = Model(RecNeXt(dict(SMALL, base='t', depths=(0, 1, 1, 1))))
    rates = settings(model, optimizer(model, decay_rate=RATE), 'lr')
    assert rates['backbone.stem.stem.0.conv.weight'] == LR / 16


def test_layers_are_those_of_timm():
    timm = pytest.importorskip('timm')
    optim = pytest.importorskip('timm.optim')
    import mmrecnext.classification  # noqa: F401

    with torch.device('meta'):
        model = timm.create_model('recnext_m3')
        rates = settings(model, optimizer(model, decay_rate=RATE), 'lr')
        groups = optim.param_groups_layer_decay(model, 0, layer_decay=RATE)
    names = {p: name for name, p in model.named_parameters()}
    scales = {names[p]: g['lr_scale'] for g in groups for p in g['params']}
    assert {k: v / LR for k, v in rates.items()} == pytest.approx(scales)


def test_frozen_stages_are_left_out():
    backbone = RecNeXt(dict(SMALL, base='m0'), frozen_stages=2)
    model = Model(backbone)
    rates = settings(model, optimizer(model, decay_rate=RATE), 'lr')
    assert rates == expected(model, BY_LAYER)
    assert min(rates.values()) == LR / 4


def test_norms_and_biases_may_be_exempt_from_weight_decay():
    model = Model(RecNeXt(dict(SMALL, base='m0')))
    options = dict(norm_decay_mult=0, bias_decay_mult=0)
    made = optimizer(model, decay_rate=RATE, **options)
    assert settings(model, made, 'lr') == expected(model, BY_LAYER)
    decay = settings(model, made, 'weight_decay')
    flat = {name for name, p in model.named_parameters() if p.dim() == 1}
    assert {name for name, value in decay.items() if value == 0} == flat
    assert {value for name, value in decay.items() if name not in flat} == {0.05}


def test_options_of_mmengine_apply_too():
    model = Model(RecNeXt(dict(SMALL, base='m0')))
    keys = {'head': dict(lr_mult=10), 'downsample': dict(lr_mult=3, decay_mult=0)}
    made = optimizer(model, decay_rate=RATE, custom_keys=keys)
    rates = settings(model, made, 'lr')
    assert rates['head.0.weight'] == 10 * LR
    assert rates['backbone.stages.3.downsample.norm.weight'] == 3 * LR / 2
    assert rates['backbone.stages.3.blocks.0.norm.weight'] == LR / 2


CONFIGS = ['mask_rcnn_recnext_m0_shapes.py', 'sem_fpn_recnext_m0_shapes.py']


@pytest.mark.parametrize('name', CONFIGS)
def test_detectors_and_segmentors_need_no_import(name):
    cfg = Config.fromfile(ROOT / 'configs' / name)
    registry = import_module(f'{cfg.default_scope}.registry')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        with torch.device('meta'):
            model = registry.MODELS.build(cfg.model)
        rates = settings(model, optimizer(model, decay_rate=RATE), 'lr')
    assert set(rates) == {name for name, _ in model.named_parameters()}
    layers = 1 + sum(ARCHS['m0'].depths)
    assert rates['backbone.stem.stem.0.conv.weight'] == LR * RATE**layers
    assert {v for k, v in rates.items() if not k.startswith('backbone.')} == {LR}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(), '`decay_rate`.*got None'),
        (dict(decay_rate=1.5), 'got 1.5'),
        (dict(decay_rate=0), 'got 0'),
        (dict(decay_rate=RATE, decay_type='block'), 'layer_wise, stage_wise'),
        (dict(decay_rate=RATE, num_layers=6), 'no option num_layers.*decay_type'),
        (dict(decay_rate=RATE, lr=None), '`lr`.*missing'),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        optimizer(Model(RecNeXt(dict(SMALL, base='m0'))), **options)


def test_a_model_without_recnext_is_refused():
    with pytest.raises(ConfigError, match='finds Conv2d'):
        optimizer(Model(nn.Conv2d(3, 128, 1)), decay_rate=RATE)
