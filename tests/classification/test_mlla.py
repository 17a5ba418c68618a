"""What timm asks of every model that it lists, of MLLA."""

import pytest
import timm
import torch
from timm.models import group_parameters
from torch import nn

from mmrecnext import MLLA_ARCHS
from mmrecnext.archs import MLLA_MIXERS
from mmrecnext.checkpoint.convert import model_of
from mmrecnext.classification.loading import load_classifier, load_with_new_heads
from mmrecnext.errors import CheckpointError, OptionError
from mmrecnext.models import MLLAClassifier
from tests.helpers import randomise

SMALL = dict(embed_dim=16, depths=(1, 2, 1, 1))
every_mixer = pytest.mark.parametrize('mixer', MLLA_MIXERS)


def small(mixer, **options):
    torch.manual_seed(0)
    return MLLAClassifier(dict(SMALL, mixer=mixer), num_classes=7, **options).eval()


def image(*size, n=1):
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
def test_every_model_is_listed():
    assert timm.list_models('mlla_*') == sorted(f'mlla_{name}' for name in MLLA_ARCHS)
    for name in MLLA_ARCHS:
        with torch.device('meta'):
            model = timm.create_model(f'mlla_{name}', num_classes=7)
        assert model.arch == MLLA_ARCHS[name]
        last = model.layers[3].blocks[-1].drop_path
        rate = getattr(last, 'drop_prob', 0.0)
        assert rate == pytest.approx(0.2 if name.startswith('mini') else 0.0)
        cfg = model.default_cfg
        assert cfg['input_size'] == (3, 256, 256)
        assert round(256 / cfg['crop_pct']) == 292
        assert isinstance(model.get_submodule(cfg['first_conv']), nn.Conv2d)
        assert model.get_submodule(cfg['classifier']).out_features == 7
        x = model.eval().forward_features(torch.empty(1, 3, 256, 256, device='meta'))
        assert x.shape == (1, model.num_features, *cfg['pool_size'])


@every_mixer
@torch.no_grad()
def test_maps_and_logits(mixer):
    model = small(mixer)
    last, maps = model.forward_intermediates(image(33, 97))
    assert torch.equal(last, maps[-1])
    for x, info in zip(maps, model.feature_info, strict=True):
        size = [-(-side // info['reduction']) for side in (33, 97)]
        assert x.shape == (1, info['num_chs'], *size)
    pooled = model.forward_head(last, pre_logits=True)
    assert pooled.shape == (1, model.head_hidden_size)
    assert torch.equal(model.get_classifier()(pooled), model(image(33, 97)))


@torch.no_grad()
def test_pruning():
    model = small('recattn')
    _, maps = model.forward_intermediates(image(40, 72))
    assert model.prune_intermediate_layers([0, 1]) == [0, 1]
    assert torch.equal(model(image(40, 72)), maps[1])
    left = {key.split('.')[1] for key in model.state_dict() if 'layers' in key}
    assert left == {'0', '1'} and not hasattr(model.layers[1].downsample, 'cpe1')


@pytest.mark.parametrize('kind', ['getter', 'hook', 'fx'])
@torch.no_grad()
def test_maps_alone(kind):
    model = timm.create_model(
        'mlla_nano_recattn_rope', features_only=True, feature_cls=kind
    )
    maps = model.eval()(image(64, 96))
    assert [x.shape[1] for x in maps] == model.feature_info.channels()
    assert [64 // x.shape[2] for x in maps] == model.feature_info.reduction()


@pytest.mark.parametrize('coarse', [False, True])
def test_each_parameter_is_in_one_group(coarse):
    model = small('recattn')
    groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=False)
    names = [name for group in groups.values() for name in group]
    order = [name for name, _ in model.named_parameters()]
    assert sorted(names) == sorted(order)
    # The stem; stages, or five blocks and what leads to the next stage; norm and head.
    assert len(groups) == 1 + (4 if coarse else 5 + 3) + 1


def test_no_weights_are_published():
    with pytest.raises(CheckpointError, match='no weights are published of mlla_nano'):
        timm.create_model('mlla_nano_recattn', pretrained=True)


class TestFile:
    @pytest.fixture
    def weights(self):
        torch.manual_seed(0)
        return randomise(MLLAClassifier('nano_recattn_rope', 5)).state_dict()

    def create(self, weights, folder, name='mlla_nano_recattn_rope', **options):
        torch.save({'model': weights}, folder / 'x.pth')
        overlay = dict(file=str(folder / 'x.pth'))
        return timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, **options
        )

    def test_is_loaded_whole(self, weights, tmp_path):
        turns = [key for key in weights if key.endswith('rotations')]
        model = self.create(
            {k: v for k, v in weights.items() if k not in turns},
            tmp_path,
            num_classes=5,
        )
        for key, value in model.state_dict().items():
            assert torch.equal(value, weights[key]), key

    @pytest.mark.parametrize('size', [None, 3])
    def test_turns_of_any_size_or_none_are_accepted(self, weights, tmp_path, size):
        """As of a model that was trained on pictures of another size."""
        for key in [key for key in weights if key.endswith('rotations')]:
            weights[key] = torch.zeros(size or 1, size or 1, 16, 2)
            if size is None:
                weights.pop(key)
        file = tmp_path / 'x.pth'
        torch.save({'model': weights}, file)
        name = 'mlla_nano_recattn_rope'
        converted = model_of(weights, 'x.pth')
        begun = MLLAClassifier('nano_recattn_rope', 5)
        load_with_new_heads(begun, str(file))
        for model in (load_classifier(name, str(file)), converted, begun):
            assert torch.equal(model.head.weight, weights['head.weight'])

    def test_other_classes_get_a_new_head(self, weights, tmp_path):
        model = self.create(weights, tmp_path, num_classes=3)
        assert model.head.out_features == 3
        assert torch.equal(model.norm.weight, weights['norm.weight'])

    @pytest.mark.slow
    def test_of_another_model_is_refused(self, weights, tmp_path):
        with pytest.raises(CheckpointError, match='does not fit nano_recattn; missing'):
            self.create(weights, tmp_path, 'mlla_nano_recattn', num_classes=5)


def test_bad_options():
    with pytest.raises(OptionError, match='MLLA has no option distillation'):
        small('recattn', distillation=True)
    with pytest.raises(OptionError, match="global_pool is 'avg'"):
        small('recattn', global_pool='max')
