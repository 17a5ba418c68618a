"""Weights through timm: which are taken, and what is made of them."""

import json

import pytest
import timm
import timm.models._builder
import timm.models._hub
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file
from timm.utils import reparameterize_model
from torch import nn

from mmrecnext.classification import (
    RecNeXtClassifier,
    load_classifier,
    registration,
)
from mmrecnext.classification.loading import make_classifier
from mmrecnext.errors import CheckpointError, OptionError
from mmrecnext.pretrained import FIGURES
from tests.helpers import golden_input, golden_weights

M0 = 'recnext_m0'
INNER = 'stages.2.blocks.3.channel_mixer.0.conv.weight'
STEM = 'stem.stem.0.conv.weight'
CLASSIFIER = 'head.head_dist.linear.weight'
STATISTICS = 'head.head_dist.norm.running_var'


@pytest.fixture(scope='module')
def weights(golden_states):
    return golden_weights(golden_states, 'm0', head=True)


@pytest.fixture(scope='module')
def folder(weights, tmp_path_factory):
    """A repository as the authors' on the hub: its config names no layers."""
    root = tmp_path_factory.mktemp('repository')
    save_file(weights, root / 'model.safetensors')
    source = dict(tag='dist_300e_in1k', num_classes=1000, input_size=[3, 224, 224])
    source |= dict(first_conv=None, classifier=None)
    config = dict(architecture=M0, num_classes=1000, pretrained_cfg=source)
    (root / 'config.json').write_text(json.dumps(config))
    return root


@pytest.fixture(scope='module')
def file(weights, tmp_path_factory):
    """As the authors' scripts save it, with moving averages."""
    averages = {key: 2 * value for key, value in weights.items()}
    path = tmp_path_factory.mktemp('weights') / 'm0.pth'
    torch.save({'model': weights, 'model_ema': averages}, path)
    return path


@pytest.fixture
def hub(folder, monkeypatch):
    """A hub that has one repository."""

    def download(repo_id, filename, **options):
        if not (folder / filename).is_file():
            raise EntryNotFoundError(filename)
        return str(folder / filename)

    monkeypatch.setattr(timm.models._hub, 'hf_hub_download', download)


@pytest.fixture
def asked_for(monkeypatch):
    """What is asked of a hub that is out of reach."""
    asked = []

    def load(repository, **options):
        asked.append(repository)
        raise LocalEntryNotFoundError('out of reach')

    monkeypatch.setattr(timm.models._builder, 'load_state_dict_from_hf', load)
    return asked


class TestDistillation:
    def check(self, asked_for, arch, tag, name, **options):
        found = f'recnext_{arch}.{tag}_300e_in1k'
        recipe = dict(base='without_distill', dist='distill')[tag]
        with (
            torch.device('meta'),
            pytest.raises(CheckpointError, match=rf'{found} .*_{arch}_{recipe}_300e'),
        ):
            timm.create_model(name, pretrained=True, **options)
        assert asked_for.pop() == f'suous/{found}'

    @pytest.mark.parametrize('arch', FIGURES)
    def test_asks_for_weights(self, asked_for, arch):
        for tag, distillation in (('base', False), ('dist', True)):
            options = dict(distillation=distillation)
            self.check(asked_for, arch, tag, f'recnext_{arch}', **options)

    def test_tags(self, asked_for):
        self.check(asked_for, 'm0', 'dist', M0)
        self.check(asked_for, 'm0', 'base', f'{M0}.base_300e_in1k')
        self.check(asked_for, 'm0', 'base', M0, pretrained_cfg='base_300e_in1k')
        options = dict(distillation=False)
        self.check(asked_for, 'm0', 'base', f'{M0}.base_300e_in1k', **options)

    @pytest.mark.parametrize(
        ('name', 'options'),
        [
            ('recnext_m4.dist_300e_in1k', dict(distillation=False)),
            ('recnext_m4.base_300e_in1k', dict(distillation=True)),
            ('recnext_m4', dict(distillation=False, pretrained_cfg='dist_300e_in1k')),
            (
                'recnext_m4',
                dict(
                    distillation=True,
                    pretrained_cfg=dict(hf_hub_id='suous/recnext_m4.base_300e_in1k'),
                ),
            ),
        ],
    )
    def test_contradiction(self, asked_for, name, options):
        wanted = options['distillation']
        tags = ('dist', 'base') if wanted else ('base', 'dist')
        message = rf'distillation={wanted} .*{tags[0]}_300e.*m4\.{tags[1]}_300e'
        with pytest.raises(OptionError, match=message):
            timm.create_model(name, pretrained=True, **options)
        assert not asked_for

    @pytest.mark.usefixtures('hub')
    def test_of_a_repository(self):
        with pytest.raises(OptionError, match='distillation=False'):
            timm.create_model(
                f'hf-hub:suous/{M0}.dist_300e_in1k', pretrained=True, distillation=False
            )

    def test_without_weights_a_tag_contradicts_nothing(self):
        name = 'recnext_t.dist_300e_in1k'
        with torch.device('meta'):
            model = timm.create_model(name, distillation=False)
        assert not model.head.distillation


@pytest.mark.slow
@pytest.mark.parametrize(
    ('archs', 'rate'),
    [
        (('m4', 'a4', 'b', 'b_share_channel'), 0.2),
        (('m5', 'a5'), 0.3),
        (('s', 's_share_channel'), 0.1),
        (('m0', 'm1', 'm2', 'm3', 'a0', 'a1', 'a2', 'a3', 't', 't_share_channel'), 0),
    ],
)
def test_stochastic_depth(archs, rate):
    def of_last_block(arch, **options):
        with torch.device('meta'):
            model = timm.create_model(f'recnext_{arch}', **options)
        drop_path = getattr(model, 'model', model).stages[3].blocks[-1].drop_path
        return getattr(drop_path, 'drop_prob', 0)

    for arch in archs:
        assert of_last_block(arch) == pytest.approx(rate)
        assert of_last_block(arch, distillation=False) == pytest.approx(rate)
        assert of_last_block(arch, distillation=True) == 0
        assert of_last_block(arch, features_only=True) == 0
        assert of_last_block(arch, drop_path_rate=0.05) == pytest.approx(0.05)


class TestAdaptation:
    """Other classes and channels than those of the weights, from every source."""

    @pytest.fixture(params=['hub', 'folder', 'file', 'description of a file'])
    def create(self, request, folder, file):
        name, options = {
            'hub': (f'hf-hub:suous/{M0}.dist_300e_in1k', {}),
            'folder': (f'local-dir:{folder}', {}),
            'file': (M0, dict(pretrained_cfg_overlay=dict(file=str(file)))),
            'description of a file': (M0, dict(pretrained_cfg=dict(file=str(file)))),
        }[request.param]
        if request.param == 'hub':
            request.getfixturevalue('hub')
        return lambda **kwargs: timm.create_model(
            name, pretrained=True, **options, **kwargs
        )

    def test_other_classes_and_channels(self, create, weights):
        state = create(num_classes=10, in_chans=1).state_dict()
        assert state[CLASSIFIER].shape == (10, 320)
        summed = weights[STEM].sum(1, keepdim=True)
        assert torch.allclose(state[STEM], summed, rtol=0, atol=1e-6)
        for key in (INNER, STATISTICS):
            assert torch.equal(state[key], weights[key])

    def test_as_they_are(self, create, weights):
        state = create().state_dict()
        assert all(torch.equal(state[key], weights[key]) for key in weights)


class TestFile:
    def create(self, weights, path, name=M0, **options):
        torch.save({'model': weights}, path)
        overlay = dict(file=str(path))
        return timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, **options
        )

    def test_says_which_weights_it_took(self, file, monkeypatch):
        said = []
        monkeypatch.setattr(
            registration, 'print_log', lambda message, logger: said.append(message)
        )
        overlay = dict(file=str(file))
        timm.create_model(M0, pretrained=True, pretrained_cfg_overlay=overlay)
        load_classifier(M0, str(file), averaged=True)
        assert said == [
            'Took the weights under `model`, not those under `model_ema`',
            'Took the weights under `model_ema`, not those under `model`',
        ]

    def test_own_classes_and_channels(self, weights, tmp_path):
        """The file tells them, not what was published."""
        own = {k: v[:3] if '.linear.' in k else v for k, v in weights.items()}
        own[STEM] = own[STEM][:, :1]
        model = self.create(own, tmp_path / 'own.pth')
        assert (model.num_classes, model.in_chans) == (3, 1)
        assert torch.equal(model.state_dict()[CLASSIFIER], own[CLASSIFIER])
        assert 'state_dict' not in model.pretrained_cfg
        model = self.create(own, tmp_path / 'own.pth', num_classes=3, in_chans=3)
        assert torch.equal(model.state_dict()[CLASSIFIER], own[CLASSIFIER])
        assert model.state_dict()[STEM].shape[1] == 3

    def test_backbone(self, weights, tmp_path):
        backbone = {k: v for k, v in weights.items() if not k.startswith('head.')}
        model = self.create(backbone, tmp_path / 'backbone.pth', num_classes=5)
        assert torch.equal(model.state_dict()[INNER], weights[INNER])
        with pytest.raises(CheckpointError, match=r'missing: head\.head\.linear\.bias'):
            self.create(backbone, tmp_path / 'backbone.pth')

    @pytest.mark.parametrize('options', [{}, dict(num_classes=10)], ids=str)
    def test_of_another_model(self, weights, tmp_path, options):
        """As well where a new head would let timm skip what does not fit."""
        shorter = {k: v for k, v in weights.items() if '.2.blocks.8.' not in k}
        message = r'm0\.pth does not fit m0; missing: stages\.2\.blocks\.8\.'
        with pytest.raises(CheckpointError, match=message):
            self.create(shorter, tmp_path / 'm0.pth', **options)

    def test_fused(self, weights, tmp_path):
        fused = {'stem.stem.0.weight': weights[STEM], 'head.bias': torch.ones(2)}
        for options in ({}, dict(num_classes=0)):
            with pytest.raises(CheckpointError, match='fused weights, for inference'):
                self.create(fused, tmp_path / 'fused.pth', **options)

    def test_nothing_there(self, tmp_path):
        overlay = dict(file=str(tmp_path / 'none.pth'))
        with pytest.raises(
            CheckpointError, match=r'there is no checkpoint .*none\.pth'
        ):
            timm.create_model(M0, pretrained=True, pretrained_cfg_overlay=overlay)
        config = dict(architecture=M0, pretrained_cfg={})
        (tmp_path / 'config.json').write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=r'no weights: none of model\.safe'):
            timm.create_model(f'local-dir:{tmp_path}', pretrained=True)


def replace_batchnorm(net, recurses=True, drops=True):
    """Fuse as RepViT's and LeViT's scripts do: what is no part of a layer goes."""
    for name, child in net.named_children():
        if hasattr(child, 'fuse'):
            fused = child.fuse()
            setattr(net, name, fused)
            if recurses:
                replace_batchnorm(fused, recurses, drops)
        elif drops and isinstance(child, nn.BatchNorm2d):
            setattr(net, name, nn.Identity())
        else:
            replace_batchnorm(child, recurses, drops)
    return net


FUSE = {
    'authors': lambda net: replace_batchnorm(net, drops=False),
    'repvit': replace_batchnorm,
    'levit': lambda net: replace_batchnorm(net, recurses=False),
    'timm': reparameterize_model,
}


@pytest.mark.parametrize('fuse', FUSE.values(), ids=FUSE)
@pytest.mark.parametrize('arch', ['m0', 'a0', 't_share_channel', 'b'])
@torch.no_grad()
def test_fusing_scripts(golden_states, arch, fuse):
    depths = dict(b=(1, 1, 1, 1), t_share_channel=(0, 1, 1, 6))
    settings = dict(base=arch, depths=depths.get(arch, (1, 1, 1, 1)))
    model = RecNeXtClassifier(settings, num_classes=3).double().eval()
    state = model.state_dict()
    known = golden_weights(golden_states, arch, head=True)
    model.load_state_dict(
        {k: known[k][:3] if '.linear.' in k else known[k] for k in state}
    )
    image = golden_input().double()
    logits = model(image)
    fused = fuse(model)
    assert not any('running_mean' in key for key in fused.state_dict())
    error = (fused(image) - logits).abs().max() / logits.std()
    assert error <= 1e-13


@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        ('m7', 'did you mean m5 or m4 or m3? The'),
        ('mlla_nano', 'did you mean mlla_nano_'),
        ('x', 'the'),
    ],
)
def test_a_name_of_no_model_is_answered_by_the_nearest_and_all_archs(name, hint):
    with pytest.raises(OptionError) as caught:
        make_classifier(name)
    assert f"has a model '{name}'; {hint}" in str(caught.value)
    assert 'archs are m0, m1' in str(caught.value)
    assert 'mini_recattn, and timm.list_models() lists' in str(caught.value)
