"""Checkpoints turned from one form into another."""

import runpy
import sys

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope

from mmrecnext.checkpoint.convert import convert, upgrade_network
from mmrecnext.checkpoint.files import read_file
from mmrecnext.engine.configs import load_config
from mmrecnext.errors import CheckpointError
from tests.checkpoint.helpers import RunsCode, load
from tests.helpers import ROOT, golden_input, golden_weights

TRAINING = ('published', 'safetensors', 'bare', 'backbone')
PREFIX = 'backbone.'
CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')


@pytest.fixture(scope='module')
def weights(golden_states):
    return golden_weights(golden_states, 'm0', head=True)


@pytest.fixture(autouse=True)
def small_trace(monkeypatch):
    monkeypatch.setattr('mmrecnext.checkpoint.convert.INPUT_SIDE', 64)


class TestForms:
    @pytest.mark.parametrize('old', TRAINING)
    @pytest.mark.parametrize('new', TRAINING)
    def test_any_into_any(self, old, new, weights, tmp_path):
        convert(weights, old, tmp_path / 'old', 'golden')
        said = convert(read_file(tmp_path / 'old'), new, tmp_path / 'new', 'old')
        has_head = 'backbone' not in (old, new)
        kind = 'classifier of 1000 classes' if has_head else 'backbone'
        assert said.startswith(f'recnext_m0, {kind}, ')

        found = read_file(tmp_path / 'new')
        top = dict(published='model', backbone='state_dict').get(new)
        found = found[top] if top else found
        prefix = PREFIX if new == 'backbone' else ''
        assert found.keys() == {
            prefix + key for key in weights if has_head or not key.startswith('head.')
        }
        for key, value in found.items():
            assert value.equal(weights[key.removeprefix(prefix)])

    @pytest.mark.parametrize('old', ['published', 'backbone', 'fused'])
    @torch.no_grad()
    def test_any_into_fused(self, old, weights, tmp_path):
        convert(weights, old, tmp_path / 'old', 'golden')
        convert(read_file(tmp_path / 'old'), 'fused', tmp_path / 'new.pt', 'old')
        own = {k: v for k, v in weights.items() if not k.startswith('head.')}
        torch.save(own, tmp_path / 'own.pth')
        expected = load(str(tmp_path / 'own.pth')).eval()(golden_input())
        deployed = load(str(tmp_path / 'new.pt'), deploy=True)
        for x, y in zip(deployed(golden_input()), expected, strict=True):
            assert (x - y).abs().max() <= 1e-5 * y.std()
        archive = torch.jit.load(tmp_path / 'new.pt')
        result = archive(golden_input())
        if old == 'backbone':
            for x, y in zip(result, expected, strict=True):
                assert (x - y).abs().max() <= 1e-5 * y.std()
        else:
            assert result.shape == (1, 1000)

    @pytest.mark.parametrize('new', TRAINING)
    def test_fused_cannot_be_undone(self, new, weights, tmp_path):
        convert(weights, 'fused', tmp_path / 'fused.pt', 'golden')
        with pytest.raises(CheckpointError, match='statistics are gone, so that no'):
            convert(read_file(tmp_path / 'fused.pt'), new, tmp_path / 'new', 'fused.pt')
        assert not (tmp_path / 'new').exists()

    def test_averages(self, weights, tmp_path):
        own = {k: v for k, v in weights.items() if not k.startswith('head.')}
        averages = {f'module.{k}': v + 1 for k, v in own.items()}
        saved = {'state_dict': own, 'state_dict_ema': averages}
        told = []
        for averaged in (False, True):
            convert(
                saved,
                'bare',
                tmp_path / 'new',
                'timm',
                averaged,
                progress=lambda text, done: told.append((text, done)),
            )
            for key, value in read_file(tmp_path / 'new').items():
                assert value.equal(own[key] + averaged)
        assert told == 2 * [('build', 0.1), ('write bare', 0.4)]

    def test_other_weights(self, weights, tmp_path):
        with pytest.raises(CheckpointError, match=r'no RecNeXt.*it has conv1\.weight'):
            convert({'conv1.weight': torch.ones(1)}, 'bare', tmp_path / 'new', 'resnet')
        partial = {k: v for k, v in weights.items() if 'stages.3.' not in k}
        with pytest.raises(
            CheckpointError, match=r'does not fit m0; missing: stages\.3'
        ):
            convert(partial, 'bare', tmp_path / 'new', 'partial')


def mask_rcnn(width=64, hidden=256, classes=5, anchors=3):
    """Weights that Mask R-CNN has in mmdet 2 beside its backbone, by name."""
    convs = {
        'rpn_head.rpn_conv': (width, width, 3, 3),
        'rpn_head.rpn_cls': (anchors, width, 1, 1),
        'rpn_head.rpn_reg': (4 * anchors, width, 1, 1),
        'roi_head.bbox_head.fc_cls': (classes + 1, hidden),
        'roi_head.bbox_head.fc_reg': (4 * classes, hidden),
        'roi_head.bbox_head.shared_fcs.0': (hidden, width * 7 * 7),
        'roi_head.bbox_head.shared_fcs.1': (hidden, hidden),
        'roi_head.mask_head.convs.0.conv': (width // 2, width, 3, 3),
        'roi_head.mask_head.convs.1.conv': (width // 2, width // 2, 3, 3),
        'roi_head.mask_head.upsample': (width // 2, width // 2, 2, 2),
        'roi_head.mask_head.conv_logits': (classes, width // 2, 1, 1),
        **fpn(width),
    }
    return {
        f'{name}.{kind}': torch.ones(shape if kind == 'weight' else shape[:1])
        for name, shape in convs.items()
        for kind in ('weight', 'bias')
    }


def fpn(width, dims=(40, 80, 160, 320)):
    sides = {'lateral_convs': (1, 1), 'fpn_convs': (3, 3)}
    return {
        f'neck.{name}.{i}.conv': (width, dim if side == (1, 1) else width, *side)
        for name, side in sides.items()
        for i, dim in enumerate(dims)
    }


def semantic_fpn(width=64, classes=6):
    """Weights that Semantic FPN has in mmseg 0 beside its backbone, by name."""
    weights = {
        f'{name}.{kind}': torch.ones(shape if kind == 'weight' else shape[:1])
        for name, shape in {
            **fpn(width),
            'decode_head.conv_seg': (classes, width, 1, 1),
        }.items()
        for kind in ('weight', 'bias')
    }
    for i, places in enumerate([(0,), (0,), (0, 2), (0, 2, 4)]):
        for place in places:
            name = f'decode_head.scale_heads.{i}.{place}'
            weights[f'{name}.conv.weight'] = torch.ones(width, width, 3, 3)
            for kind in ('weight', 'bias', 'running_mean', 'running_var'):
                weights[f'{name}.bn.{kind}'] = torch.ones(width)
            weights[f'{name}.bn.num_batches_tracked'] = torch.tensor(9)
    return weights


HEADS = {'mmdet': mask_rcnn, 'mmseg': semantic_fpn}
CONFIGS = {
    'mmdet': 'mask_rcnn_recnext_m0_shapes.py',
    'mmseg': 'sem_fpn_recnext_m0_shapes.py',
}
PLAIN_NECK = dict(
    mmdet='model = dict(neck=dict(norm_cfg=None),'
    ' roi_head=dict(mask_head=dict(norm_cfg=None)))',
    mmseg='model = dict(neck=dict(norm_cfg=None))',
)


@pytest.fixture(params=HEADS)
def framework(request):
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture
def config(framework, tmp_path):
    """The demo's network with no norm in its neck, as those that were released."""
    file = tmp_path / 'config.py'
    base = ROOT / 'configs' / CONFIGS[framework]
    file.write_text(f"_base_ = '{base}'\n{PLAIN_NECK[framework]}")
    return file


@pytest.fixture
def released(framework, weights, tmp_path):
    """A checkpoint as mmcv 1 saves it, for the old versions of the frameworks."""
    backbone = {
        f'backbone.{key}': value
        for key, value in weights.items()
        if not key.startswith('head.head_dist')
    }
    copies = {
        f'ema_{key.replace(".", "_")}': value + 1 for key, value in backbone.items()
    }
    network = {**backbone, **HEADS[framework]()}
    state = dict(step=7, exp_avg=torch.zeros(3), exp_avg_sq=torch.zeros(3))
    group = dict(lr=2e-4, betas=(0.9, 0.999), eps=1e-8, params=[0], initial_lr=2e-4)
    content = {
        'meta': {
            'env_info': 'sys.platform: linux\nPython: 3.8.18\nPyTorch: 1.12.1',
            'config': 'raise SystemExit("the config was executed")',
            'mmcv_version': '1.7.2',
            f'{framework}_version': '2.28.2',
            'time': 'Mon Jan  6 01:02:03 2025',
            'exp_name': 'recnext_m0.py',
            'seed': 0,
            'epoch': np.int64(12),
            'iter': 87960,
            'CLASSES': CLASSES,
            'PALETTE': [[230, 97, 76]] * 5 if framework == 'mmseg' else None,
            'hook_msgs': {'best_score': np.float64(0.4), 'best_ckpt': 'best.pth'},
        },
        'state_dict': {f'module.{k}': v for k, v in (network | copies).items()},
        'optimizer': {'state': {0: state}, 'param_groups': [group]},
    }
    torch.save(content, tmp_path / 'released.pth')
    return tmp_path / 'released.pth'


class TestNetworks:
    def test_old_network_fits_entirely(self, framework, released, config, weights):
        new = upgrade_network(read_file(released), 'released.pth')
        with DefaultScope.overwrite_default_scope(framework):
            model = MODELS.build(load_config(str(config)).model)
        model.load_state_dict(new['state_dict'])  # nothing missing, nothing left over
        for key, value in model.backbone.state_dict().items():
            assert value.equal(weights[key])

        assert new.keys() == {'meta', 'state_dict'}
        expected = {'classes': CLASSES}
        if framework == 'mmseg':
            expected['palette'] = [[230, 97, 76]] * 5
        meta = new['meta']
        assert meta['dataset_meta'] == expected
        assert meta['epoch'] == 12 and meta['mmcv_version'] == '1.7.2'
        assert not {'CLASSES', 'PALETTE', 'config', 'hook_msgs'} & meta.keys()

    def test_new_network_stays(self, released):
        new = upgrade_network(read_file(released), 'released.pth')
        again = upgrade_network(new, 'new.pth')
        assert again['meta'] == new['meta']
        assert again['state_dict'].keys() == new['state_dict'].keys()

    def test_optimizer(self, released):
        old = read_file(released)
        with pytest.raises(CheckpointError, match='counts dropped weights'):
            upgrade_network(old, 'released.pth', keep_optimizer=True)
        for key in list(old['state_dict']):
            if '.head.' in key:
                del old['state_dict'][key]
        new = upgrade_network(old, 'released.pth', keep_optimizer=True)
        adam = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
        OptimWrapper(adam).load_state_dict(new['optimizer'])
        assert adam.state_dict()['state'][0]['step'] == 7
        MessageHub.get_instance('resumed').load_state_dict(new['message_hub'])
        del old['optimizer']
        with pytest.raises(CheckpointError, match='cannot be kept: it has none'):
            upgrade_network(old, 'released.pth', keep_optimizer=True)

    def test_other_backbone(self, released):
        old = read_file(released)
        del old['state_dict']['module.backbone.stem.stem.0.norm.bias']
        with pytest.raises(
            CheckpointError, match=r'missing: stem\.stem\.0\.norm\.bias'
        ):
            upgrade_network(old, 'released.pth')


def run_here(*args):
    argv = [str(ROOT / 'tools/convert_checkpoint.py'), *map(str, args)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', argv)
        runpy.run_path(argv[0], run_name='__main__')


class TestTool:
    @pytest.fixture
    def fails(self):
        def fails(*args):
            with pytest.raises(SystemExit) as exit:
                run_here(*args)
            return str(exit.value.code)

        return fails

    def test_network_with_its_config(self, released, config, tmp_path, capsys):
        out = tmp_path / 'new/network.pth'
        run_here(released, out, '--config', config)
        assert capsys.readouterr().out.strip().endswith('5 class names')
        assert tuple(read_file(out)['meta']['dataset_meta']['classes']) == CLASSES

    def test_misfit_writes_nothing(self, fails, released, framework, tmp_path):
        out = tmp_path / 'network.pth'
        message = fails(released, out, '--config', CONFIGS[framework])
        assert 'does not fit the model of this config' in message
        assert 'missing: ' in message and not out.exists()

    def test_forms_by_suffix(self, weights, tmp_path, fails, capsys):
        torch.save({'model': weights}, tmp_path / 'old.pth')
        for name, form in (
            ('new.safetensors', 'safetensors'),
            ('new.pth', 'published'),
            ('new.bin', 'bare'),
        ):
            run_here(tmp_path / 'old.pth', tmp_path / name)
            said = capsys.readouterr().out
            assert f'{name}: {form}, recnext_m0, classifier of 1000 classes' in said
        assert read_file(tmp_path / 'new.bin').keys() == weights.keys()
        for name in ('new.onnx', 'new'):
            assert f'{name} tells no form; names end in .pth, ' in fails(
                tmp_path / 'old.pth', tmp_path / name
            )
            assert not (tmp_path / name).exists()
        assert 'names end in .safetensors of that form, and alone' in fails(
            tmp_path / 'old.pth', tmp_path / 'x.safetensors', '--to', 'published'
        )

    def test_options_without_effect_are_refused(self, released, tmp_path, fails):
        new = tmp_path / 'new.pth'
        message = fails(released, new, '--drop', 'auxiliary.')
        assert 'begins with auxiliary.; they begin with backbone., ' in message
        assert '--ema is for classifiers' in fails(released, new, '--ema')
        assert not new.exists()

    def test_backbone_of_a_network(self, released, weights, tmp_path, capsys):
        run_here(released, tmp_path / 'new.pth', '--to', 'published')
        assert 'recnext_m0, backbone, ' in capsys.readouterr().out
        assert not any('head' in k for k in read_file(tmp_path / 'new.pth')['model'])

    def test_bad_requests(self, fails, weights, tmp_path):
        torch.save({'model': weights}, tmp_path / 'old.pth')
        old, new = tmp_path / 'old.pth', tmp_path / 'new.pth'
        assert 'is the input: choose another OUT' in fails(old, old)
        assert 'are for networks, not for published' in fails(
            old, new, '--drop', 'auxiliary_head.'
        )
        assert "no key of the checkpoint begins with 'backbone.'" in fails(
            old, new, '--to', 'network'
        )
        torch.save({'state_dict': weights, 'args': RunsCode()}, old)
        assert 'would execute code' in fails(old, new)
        assert not new.exists()
