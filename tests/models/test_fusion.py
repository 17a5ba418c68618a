import copy
import runpy
import sys

import numpy as np
import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.registry import DefaultScope
from torch import nn

from mmrecnext import RecNeXt
from mmrecnext.engine.build import build_network
from mmrecnext.engine.configs import load_config
from mmrecnext.errors import CheckpointError, OptionError
from mmrecnext.models.fusion import (
    conv_then_norm,
    count_norms,
    fold_conv_modules,
    fold_outer_norms,
    fuse_conv_norms,
    speed_up_convolutions,
    switch_to_deploy,
)
from mmrecnext.ops.winograd import Conv3x3
from mmrecnext.pretrained import FIGURES
from tests.helpers import (
    ROOT,
    SERIES,
    SUBSETS,
    TINY,
    golden_input,
    golden_weights,
    randomise,
)


def assert_equal(maps, expected, tolerance=1e-5):
    for x, y in zip(maps, expected, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        assert (x - y).abs().max() <= tolerance * y.std()


def size(shapes):
    """Number of parameters among keys and shapes."""
    return sum(
        np.prod(shape)
        for key, shape in shapes
        if not key.endswith(('running_mean', 'running_var', 'num_batches_tracked'))
    )


@pytest.mark.parametrize('arch', FIGURES)
class TestPublishedModel:
    @pytest.fixture
    def model(self, arch, golden_states):
        with torch.device('meta'):
            model = RecNeXt(arch)
        model.load_state_dict(golden_weights(golden_states, arch), assign=True)
        return model.eval()

    @torch.no_grad()
    def test_form_and_maps(self, model, arch, golden_states):
        image = golden_input()
        expected = model(image)

        fuse_conv_norms(model)
        golden = golden_states[f'recnext_{arch}']
        own = [[key, list(value.shape)] for key, value in model.state_dict().items()]
        assert own == [kv for kv in golden['fused'] if not kv[0].startswith('head.')]
        head = [kv for kv in golden['fused'] if kv[0].startswith('head.')]
        parameters = sum(p.numel() for p in model.parameters())
        assert parameters + size(head) == golden['params_fused']

        model.switch_to_deploy()
        assert count_norms(model) == 0 and model.deployed
        assert_equal(model(image), expected)


@pytest.mark.parametrize('series', SERIES)
class TestSeries:
    @torch.no_grad()
    def test_each_step_keeps_the_maps(self, series):
        model = randomise(RecNeXt(SERIES[series]).double())
        image = torch.randn(1, 3, 65, 66).double()
        expected = model(image)
        for step in (fuse_conv_norms, fold_outer_norms, RecNeXt.switch_to_deploy):
            step(model)  # in float64, beyond what single precision could keep
            assert_equal(model(image), expected, 1e-11)

    @torch.no_grad()
    def test_half_precision_is_rounded_once(self, series):
        model = randomise(RecNeXt(SERIES[series])).bfloat16()
        exact = copy.deepcopy(model).double()
        fuse_conv_norms(model)
        fuse_conv_norms(exact)
        for key, value in model.state_dict().items():
            assert value.equal(exact.state_dict()[key].to(value.dtype)), key
        model.switch_to_deploy()
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}

    @torch.no_grad()
    def test_twice_is_harmless(self, series):
        model = randomise(RecNeXt(SERIES[series]))
        model.switch_to_deploy()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        model.switch_to_deploy()
        assert before.keys() == model.state_dict().keys()
        assert all(v.equal(before[k]) for k, v in model.state_dict().items())

    @torch.no_grad()
    @pytest.mark.parametrize(
        'norm_cfg', [dict(type='SyncBN'), dict(type='BN', affine=False, eps=0.1)]
    )
    def test_other_batch_norms(self, series, norm_cfg):
        model = randomise(RecNeXt(SERIES[series], norm_cfg=norm_cfg))
        image = torch.randn(1, 3, 64, 96)
        expected = model(image)
        model.switch_to_deploy()
        assert count_norms(model) == 0
        assert_equal(model(image), expected)

    @pytest.mark.parametrize(
        'norm_cfg',
        [dict(type='GN', num_groups=2), dict(type='BN', track_running_stats=False)],
    )
    def test_other_norms_are_refused(self, series, norm_cfg):
        model = RecNeXt(SERIES[series], norm_cfg=norm_cfg)
        modules = dict(model.named_modules())
        for network in (model, nn.Sequential(model)):
            with pytest.raises(OptionError, match='BN and SyncBN, with running stat'):
                switch_to_deploy(network)
        assert dict(model.named_modules()) == modules and not model.deployed
        model.train()

    def test_training_weights_no_longer_load(self, series):
        model = randomise(RecNeXt(SERIES[series]))
        weights = model.state_dict()
        model.switch_to_deploy()
        network = nn.ModuleDict({'backbone': model})
        with pytest.raises(CheckpointError, match='load them before'):
            network.load_state_dict(
                {f'backbone.{k}': v for k, v in weights.items()}, strict=False
            )
        network.load_state_dict(network.state_dict())


@torch.no_grad()
@pytest.mark.parametrize('out_indices', SUBSETS, ids=str)
def test_out_indices(out_indices):
    model = randomise(RecNeXt(TINY, out_indices=out_indices))
    image = torch.randn(1, 3, 64, 96)
    expected = model(image)
    model.switch_to_deploy()
    assert count_norms(model) == 0
    assert_equal(model(image), expected)


@torch.no_grad()
@pytest.mark.parametrize(
    'mixer',
    [
        dict(type='RecConv', mode='unpool'),
        dict(type='RecConvGroups'),
        dict(type='RecConvConcat'),
        dict(type='RecConvRecurrent'),
    ],
    ids=lambda mixer: mixer['type'],
)
def test_norm_behind_any_token_mixer(mixer):
    model = randomise(RecNeXt(dict(TINY, mixers=[mixer] * 4)))
    image = torch.randn(1, 3, 65, 66)
    expected = model(image)
    model.switch_to_deploy()
    assert count_norms(model) == 0
    assert_equal(model(image), expected)


@torch.no_grad()
def test_training_state_does_not_matter():
    image = torch.randn(2, 3, 64, 64)
    model = randomise(
        RecNeXt(TINY, frozen_stages=2, norm_eval=True, drop_path_rate=0.5, with_cp=True)
    )
    expected = model(image)
    model.train().switch_to_deploy()
    assert not any(module.training for module in model.modules())
    assert_equal(model(image), expected)


def test_training_is_refused():
    model = RecNeXt(TINY)
    model.switch_to_deploy()
    with pytest.raises(OptionError, match='switched to deploy'):
        model.train()
    with pytest.raises(OptionError, match='switched to deploy'):
        nn.Sequential(model).train()
    assert model.eval() is model and not model.training


class TestConvModules:
    @torch.no_grad()
    def test_shared_convolution_with_a_norm_per_level(self):
        levels = nn.ModuleList(
            ConvModule(4, 4, 3, padding=1, norm_cfg=dict(type='BN')) for _ in range(3)
        )
        for level in levels:
            level.conv = levels[0].conv
        randomise(levels)
        x = torch.randn(1, 4, 9, 9)
        expected = [level(x) for level in levels]
        fold_conv_modules(levels)
        assert count_norms(levels) == 0
        assert_equal([level(x) for level in levels], expected)

    @torch.no_grad()
    @pytest.mark.parametrize(
        ('options', 'left'),
        [
            (dict(), 0),
            (dict(bias=True, padding_mode='reflect'), 0),
            (dict(efficient_conv_bn_eval=True), 0),
            (dict(order=('act', 'conv', 'norm')), 0),
            (dict(order=('norm', 'conv', 'act')), 1),
            (dict(order=('conv', 'act', 'norm')), 1),
            (dict(with_spectral_norm=True), 1),
            (dict(conv_cfg=dict(type='ConvWS')), 1),
            (dict(norm_cfg=dict(type='BN', track_running_stats=False)), 1),
            (dict(norm_cfg=dict(type='GN', num_groups=2)), 0),
            (dict(norm_cfg=None), 0),
        ],
        ids=str,
    )
    def test_what_cannot_be_merged_stays(self, options, left):
        options = dict(norm_cfg=dict(type='BN')) | options
        model = nn.Sequential(randomise(ConvModule(4, 4, 3, padding=1, **options)))
        x = torch.randn(2, 4, 9, 9)
        expected = model(x)
        for _ in range(2):
            fold_conv_modules(model.eval())
            assert count_norms(model) == left
            assert_equal(model(x), expected)

    def test_other_norms_have_no_affine_form(self):
        with pytest.raises(OptionError, match='not InstanceNorm2d'):
            conv_then_norm(nn.Conv2d(4, 4, 1), nn.InstanceNorm2d(4))


class Pair(nn.Module):
    """A convolution and a batch norm, in some order of use."""

    def __init__(self, use):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.use = use

    def forward(self, x):
        return self.use(self, x)


class TestPairs:
    @torch.no_grad()
    @pytest.mark.parametrize(
        ('use', 'left'),
        {
            'one after the other': (lambda m, x: m.norm(m.conv(x)).relu(), 0),
            'with a layer between': (lambda m, x: m.norm(m.conv(x).relu()), 1),
            'the wrong way round': (lambda m, x: m.conv(m.norm(x)), 1),
            'another use between': (lambda m, x: m.norm(y := m.conv(x)) + y, 1),
            'the one twice': (lambda m, x: m.norm(m.conv(x)) + m.conv(x), 1),
            'the other twice': (lambda m, x: m.norm(m.conv(x)) + m.norm(x), 1),
            'by values': (lambda m, x: m.norm(m.conv(x)) if x.sum() > 0 else x, 1),
        }.values(),
    )
    def test_what_stands_for_another(self, use, left):
        model = randomise(nn.Sequential(Pair(use), nn.Identity())).double()
        x = torch.rand(2, 4, 5, 6, dtype=torch.double)
        expected = model(x)
        for _ in range(2):
            switch_to_deploy(model)
            assert count_norms(model) == left
            assert (model(x) - expected).abs().max() < 1e-12

    @torch.no_grad()
    def test_layers_that_others_use(self):
        """Of which a graph of one part shows nothing."""
        pairs = [Pair(lambda m, x: m.norm(m.conv(x))) for _ in range(2)]
        pairs[1].conv = pairs[0].conv
        model = randomise(nn.ModuleList(pairs))
        x = torch.rand(1, 4, 5, 6)
        expected = [pair(x) for pair in pairs]
        switch_to_deploy(model)
        assert count_norms(model) == 2
        assert_equal([pair(x) for pair in pairs], expected)

    @torch.no_grad()
    @pytest.mark.parametrize(
        'options',
        [
            dict(type='mmdet.ResNet', depth=18, norm_eval=True),
            dict(type='mmdet.ResNeXt', depth=50, groups=32, base_width=4),
            dict(type='mmdet.EfficientNet', arch='b0', out_indices=(3,)),
        ],
        ids=lambda options: options['type'],
    )
    def test_backbones_of_mmdet(self, options):
        model = build_network(options, 'mmdet').double()
        randomise(model)  # whose `eval` returns nothing
        x = torch.rand(1, 3, 64, 96, dtype=torch.double)
        expected = model(x)
        switch_to_deploy(model)
        assert count_norms(model) == 0
        for found, other in zip(model(x), expected, strict=True):
            assert (found - other).abs().max() < 1e-12 * other.abs().max()


@torch.no_grad()
def test_faster_convolutions():
    """Each place of a layer has the same one in its stead, but for what is watched."""
    shared, watched = (nn.Conv2d(128, 128, 3, padding=1) for _ in range(2))
    watched.register_forward_hook(lambda *args: None)
    model = nn.Sequential(
        nn.Sequential(shared, shared), nn.ModuleDict(dict(a=shared)), watched
    )
    x, names = torch.rand(1, 128, 20, 20), model.state_dict().keys()
    expected = model[0](x)
    for _ in range(2):
        speed_up_convolutions(model)
        kinds = [type(layer) for layer in (*model[0], model[1]['a'], model[2])]
        assert kinds == [Conv3x3] * 3 + [nn.Conv2d]
        assert model[0][0] is model[0][1] is model[1]['a']
        assert model.state_dict().keys() == names
        assert_equal([model[0](x)], [expected])


def build(config, framework):
    registry = pytest.importorskip(f'{framework}.registry')
    with DefaultScope.overwrite_default_scope(framework):
        return registry.MODELS.build(load_config(config).model)


class TestNetworks:
    @torch.no_grad()
    def test_detector(self):
        model = randomise(build('mask_rcnn_recnext_m0_shapes.py', 'mmdet'))
        image, regions = torch.randn(1, 3, 64, 96), torch.randn(2, 64, 14, 14)

        def outputs():
            maps = model.extract_feat(image)
            scores, boxes = model.rpn_head(maps)
            return *maps, *scores, *boxes, model.roi_head.mask_head(regions)

        expected = outputs()
        for _ in range(2):
            switch_to_deploy(model)
            assert count_norms(model) == 0 and model.backbone.deployed
            assert_equal(outputs(), expected)
        with pytest.raises(OptionError, match='switched to deploy'):
            model.train()

    @torch.no_grad()
    def test_segmentor(self):
        model = randomise(build('sem_fpn_recnext_m0_shapes.py', 'mmseg'))
        image = torch.randn(1, 3, 64, 96)
        expected = model(image)
        for _ in range(2):
            switch_to_deploy(model)
            assert count_norms(model) == 0 and model.backbone.deployed
            assert_equal([model(image)], [expected])


class TestTools:
    """In this process: what they compute is the same, of fewer layers."""

    @pytest.fixture
    def run(self, monkeypatch, tmp_path, capfd):
        monkeypatch.chdir(tmp_path)

        def run(tool, *args):
            argv = [str(ROOT / f'tools/{tool}.py'), *map(str, args)]
            monkeypatch.setattr(sys, 'argv', argv)
            runpy.run_path(argv[0], run_name='__main__')
            return ''.join(capfd.readouterr())

        return run

    @pytest.mark.slow
    def test_deploy(self, run, tmp_path):
        config = 'sem_fpn_recnext_m0_shapes.py'
        run('make_shapes_data', 'shapes', '--train', 1, '--val', 2, '--size', 64)
        model = randomise(build(config, 'mmseg'))
        norms = count_norms(model)
        cfg = load_config(config)
        meta = dict(classes=cfg.classes, palette=cfg.palette)
        checkpoint = {'state_dict': model.state_dict(), 'meta': {'dataset_meta': meta}}
        torch.save(checkpoint, 'w.pth')

        averaging = tmp_path / 'averaging.py'
        averaging.write_text(
            f"_base_ = '{ROOT / 'configs' / config}'\n"
            "custom_hooks = [dict(type='EMAHook')]"
        )
        options = ('--data-root', 'shapes', '--work-dir', 'test')
        log = run('test', averaging, 'w.pth', '--deploy', *options)
        assert f'Merged {norms} of {norms} batch norms' in log
        assert 'mIoU' in log

        folder = 'shapes/images/validation'
        found = []
        for extra in ((), ('--deploy',)):
            log = run('infer', config, 'w.pth', folder, '--out-dir', 'out', *extra)
            assert ('batch norms' in log) == bool(extra)
            found.append((tmp_path / 'out/predictions.json').read_text())
        assert found[0] == found[1]
