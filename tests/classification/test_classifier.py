import copy
import hashlib
import math
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config
from torch import nn
from torchvision.datasets import ImageFolder

from mmrecnext import ARCHS
from mmrecnext.archs import get_arch
from mmrecnext.benchmark.operations import classifier_cost
from mmrecnext.classification import (
    RecNeXtClassifier,
    checkpoint_filter_fn,
    load_classifier,
    replace_batchnorm,
)
from mmrecnext.errors import CheckpointError, ConfigError, OptionError
from mmrecnext.pretrained import FIGURES, PRETRAINED, TAGS, get_pretrained
from tests.helpers import (
    golden_input,
    golden_tensor,
    golden_weights,
    run_main,
    run_tool,
    tool,
)

TINY = dict(base='m0', dims=(8, 16, 32, 64), depths=(1, 1, 1, 1))

get_flops, eval_imagenet, publish = map(tool, ('get_flops', 'eval_imagenet', 'publish'))


def keys_and_shapes(model):
    return [[key, list(value.shape)] for key, value in model.state_dict().items()]


def size(model):
    return sum(p.numel() for p in model.parameters())


def worst(value, reference):
    """Largest difference over the standard deviation of the reference."""
    return ((value - reference).abs().max() / reference.std()).item()


def three_classes(states, arch='m0'):
    """Golden weights of a published model, its heads cut down to three classes."""
    weights = golden_weights(states, arch, head=True)
    return {
        key: value[:3] if '.linear.' in key else value for key, value in weights.items()
    }


@pytest.fixture(scope='module')
def checkpoint(golden_states, tmp_path_factory):
    file = tmp_path_factory.mktemp('weights') / 'm0.pth'
    torch.save({'model': three_classes(golden_states)}, file)
    return file


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Three classes of eight images each, of several sizes."""
    root = tmp_path_factory.mktemp('imagenet')
    random = np.random.RandomState(0)
    for label in ('n01', 'n02', 'n03'):
        (root / 'val' / label).mkdir(parents=True)
        for i in range(8):
            blocks = random.randint(0, 256, (4, 5, 3)).astype(np.uint8)
            image = Image.fromarray(blocks).resize((60 + 7 * i, 50 + 5 * i))
            image.save(root / 'val' / label / f'{i}.png')
    return root


@pytest.mark.parametrize('arch', FIGURES)
class TestPublishedModel:
    def test_both_forms_and_logits(self, arch, golden_states, golden_features):
        golden = golden_states[f'recnext_{arch}']
        model = timm.create_model(f'recnext_{arch}').eval()
        assert keys_and_shapes(model) == golden['train']
        assert size(model) == golden['params_train']

        model.load_state_dict(golden_weights(golden_states, arch, head=True))
        image = golden_input()
        with torch.no_grad():
            logits = model(image)
            name = f'recnext_{arch}.logits'
            assert logits.shape == tuple(golden_features[name + '.shape'])
            sample = np.linspace(0, logits.numel() - 1, 256).astype(int)
            values = logits.flatten()[torch.from_numpy(sample)].numpy()
            error = np.abs(values - golden_features[name]).max()
            assert error / golden_features[name + '.std'] <= 1e-5

            replace_batchnorm(model)
            assert keys_and_shapes(model) == golden['fused']
            assert size(model) == golden['params_fused']
            assert worst(model(image), logits) <= 1e-5

    def test_maps_alone(self, arch):
        with torch.device('meta'):
            model = timm.create_model(f'recnext_{arch}', features_only=True)
        with torch.no_grad():
            maps = model.to_empty(device='cpu').eval()(torch.zeros(1, 3, 128, 192))
        strides, dims = ARCHS[arch].strides, ARCHS[arch].dims
        assert tuple(model.feature_info.channels()) == dims
        assert tuple(model.feature_info.reduction()) == strides
        assert [tuple(x.shape) for x in maps] == [
            (1, channels, 128 // stride, 192 // stride)
            for channels, stride in zip(dims, strides, strict=True)
        ]
        assert not any('head' in key for key in model.state_dict())

    def test_configs(self, arch):
        model_name = f'recnext_{arch}'
        release = 'v1.0' if arch.startswith('m') else 'v2.0'
        for tag, recipe in TAGS.items():
            cfg = timm.get_pretrained_cfg(f'{model_name}.{tag}')
            assert cfg.hf_hub_id == f'suous/{model_name}.{tag}'
            assert cfg.url == (
                'https://github.com/suous/RecNeXt/releases/download/'
                f'{release}/{model_name}_{recipe}.pth'
            )
            published = get_pretrained(f'{model_name}.{tag}')
            assert published.fused_url == cfg.url.replace('.pth', '_fused.pt')
        assert timm.get_pretrained_cfg(model_name).tag == 'dist_300e_in1k'
        with torch.device('meta'):
            model = timm.create_model(model_name)
        for name in (model.default_cfg['first_conv'], *model.default_cfg['classifier']):
            assert isinstance(model.get_submodule(name), nn.Conv2d | nn.Linear)
        data = resolve_model_data_config(model)
        assert data['input_size'] == (3, 224, 224)
        assert (data['interpolation'], data['crop_pct']) == ('bicubic', 0.875)
        assert (data['mean'], data['std']) == (
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
        )
        side = math.ceil(224 / ARCHS[arch].strides[-1])
        assert model.default_cfg['pool_size'] == (side, side)

    def test_cost_is_the_published_one(self, arch, golden_states):
        cost, figures = classifier_cost(arch), FIGURES[arch]
        assert f'{cost.macs / 1e9:.1f}' == str(figures.macs)
        if arch == 't_share_channel':
            assert cost.params == 12_049_800  # published as 12.1 M
            return
        # The authors' fused files keep some batch norms: either form was counted.
        sizes = (cost.params, golden_states[f'recnext_{arch}']['params_fused'])
        assert str(figures.params) in [f'{size / 1e6:.1f}' for size in sizes]


@pytest.mark.slow
def test_only_this_module_needs_timm():
    code = (
        'import sys, mmrecnext, mmrecnext.pretrained; assert "timm" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


class TestPretrainedTable:
    def test_every_model_has_both_recipes(self):
        assert [*FIGURES] == [arch for arch in ARCHS if arch in FIGURES]
        assert len(PRETRAINED) == 2 * len(FIGURES) == 2 * 18
        assert get_pretrained('m3') is PRETRAINED['recnext_m3.dist_300e_in1k']
        assert get_pretrained('suous/recnext_m3.base_300e_in1k').top1 == 79.6
        assert get_pretrained('recnext_m3').top1 == 80.9

    @pytest.mark.parametrize(
        ('name', 'message'),
        [
            ('recnext_m9', 'recnext_m0, recnext_m1'),
            ('recnext_m3.in1k', 'dist_300e_in1k, base_300e_in1k'),
        ],
    )
    def test_unknown_names(self, name, message):
        with pytest.raises(OptionError, match=message):
            get_pretrained(name)


class TestOptions:
    def pretrained(self, states, arch='m0', **options):
        """Load golden weights as timm loads a download, with no network."""
        weights = {'model': golden_weights(states, arch, head=True)}
        return timm.create_model(
            f'recnext_{arch}',
            pretrained=True,
            pretrained_cfg_overlay=dict(state_dict=weights),
            **options,
        )

    @pytest.mark.parametrize('distillation', [False, True])
    def test_pretrained(self, golden_states, distillation):
        model = self.pretrained(golden_states, distillation=distillation)
        weights = golden_weights(golden_states, 'm0', head=True)
        for key, value in model.state_dict().items():
            assert torch.equal(value, weights[key]), key

    def test_num_classes(self, golden_states):
        model = self.pretrained(golden_states, num_classes=10).eval()
        assert model(golden_input()).shape == (1, 10)
        key = 'head.head_dist.norm.running_var'
        expected = golden_tensor(key, [320])
        assert torch.equal(model.state_dict()[key], expected)

    def test_in_chans(self, golden_states):
        model = self.pretrained(golden_states, in_chans=1).eval()
        image = golden_input()[:, :1]
        whole = self.pretrained(golden_states).eval()
        assert worst(model(image), whole(image.expand(-1, 3, -1, -1))) <= 1e-5

    def test_maps_are_the_backbones(self, golden_states):
        maps = self.pretrained(golden_states, features_only=True, out_indices=(0, 2))
        assert len(maps.model.stages) == 3
        whole = self.pretrained(golden_states).eval()
        last, all_maps = whole.forward_intermediates(golden_input())
        assert torch.equal(last, whole.forward_features(golden_input()))
        for x, i in zip(maps.eval()(golden_input()), (0, 2), strict=True):
            assert torch.equal(x, all_maps[i])

    def test_fused_weights_are_refused(self, golden_states):
        fused = {'stem.stem.0.weight': torch.zeros(1), 'head.weight': torch.zeros(1)}
        with pytest.raises(CheckpointError, match='training checkpoint'):
            checkpoint_filter_fn(fused, RecNeXtClassifier(TINY))

    def test_drop_path_rate(self):
        model = timm.create_model('recnext_t', drop_path_rate=0.3)
        assert model.stages[3].blocks[-1].drop_path.drop_prob == pytest.approx(0.3)

    def test_unknown_option(self):
        with pytest.raises(OptionError, match='norm_eval'):
            timm.create_model('recnext_m0', drop_paths=0.1)

    @pytest.mark.parametrize(
        'options', [dict(global_pool='max'), dict(global_pool='')], ids=str
    )
    def test_impossible_pooling(self, options):
        with pytest.raises(OptionError, match="'avg', or '' where num_classes is 0"):
            timm.create_model('recnext_m0', **options)

    @pytest.mark.parametrize(
        'options',
        [dict(num_classes=-1), dict(distillation='no')],
    )
    def test_impossible_heads(self, options):
        with pytest.raises(OptionError, match=f'^{next(iter(options))} is '):
            RecNeXtClassifier(TINY, **options)


class TestHead:
    def test_distillation_tells_both_results_in_training_alone(self):
        torch.manual_seed(0)
        model = RecNeXtClassifier(TINY, num_classes=7, distillation=True)
        image = torch.randn(4, 3, 64, 64)
        first, second = model.train()(image)
        assert first.shape == second.shape == (4, 7)
        model.eval()
        features = model.forward_head(model.forward_features(image), pre_logits=True)
        expected = (model.head.head(features) + model.head.head_dist(features)) / 2
        assert torch.equal(model(image), expected)

    def test_without_distillation_training_gives_the_mean(self):
        torch.manual_seed(0)
        mean = RecNeXtClassifier(TINY, num_classes=7).train()
        pair = copy.deepcopy(mean)
        pair.reset_classifier(7, distillation=True)
        pair.load_state_dict(mean.state_dict())
        image = torch.randn(4, 3, 64, 64)
        assert torch.equal(mean(image), sum(pair(image)) / 2)
        mean(image).sum().backward()
        assert all(p.grad is not None for p in mean.parameters())

    def test_reset_classifier(self):
        model = RecNeXtClassifier(TINY, distillation=True).eval()
        image = torch.randn(2, 3, 64, 64)
        model.reset_classifier(5)
        assert model(image).shape == (2, 5)
        assert model.get_classifier().distillation
        model.reset_classifier(0)
        assert model(image).shape == (2, model.num_features)
        model.reset_classifier(0, '')
        assert model(image).shape == (2, 64, 2, 2)

    def test_deployed_classifier_has_no_norm(self):
        torch.manual_seed(0)
        model = RecNeXtClassifier(TINY, num_classes=7)
        image = torch.randn(4, 3, 64, 64)
        model.train()(image)  # for statistics other than 0 and 1
        logits = model.eval()(image)
        model.switch_to_deploy()
        assert not any('running_mean' in key for key in model.state_dict())
        assert worst(model(image), logits) <= 1e-5


class TestEvalImagenet:
    @pytest.mark.slow
    @pytest.mark.parametrize('fused', [False, True])
    def test_accuracy_is_that_of_a_plain_loop(
        self, golden_states, folder, checkpoint, fused
    ):
        model = timm.create_model('recnext_m0', num_classes=3).eval()
        model.load_state_dict(three_classes(golden_states))
        transform = create_transform(**resolve_model_data_config(model))
        hits = []
        with torch.no_grad():
            for image, label in ImageFolder(folder / 'val'):
                hits.append(model(transform(image)[None]).argmax().item() == label)
        assert 0 < sum(hits) < 24  # else any figure might be right

        tail = ['--fused'] if fused else []
        options = ['--data', folder, '--checkpoint', checkpoint, '--device', 'cpu']
        done = run_tool(
            *('tools/eval_imagenet.py', 'recnext_m0', *options, *tail),
            *('--batch-size', 10, '--workers', 0),
        )
        assert done.returncode == 0, done.stderr
        figures = f'top-1 {100 * sum(hits) / 24:.2f}  top-5 100.00  (24 images)'
        assert done.stdout == f'recnext_m0: {figures}\n'

    def test_top_five(self):
        logits = torch.eye(8)[:4] + 0.1 * torch.arange(8, 0, -1)
        labels = torch.tensor([0, 4, 1, 7])  # best, among five, among five, last
        assert eval_imagenet.evaluate(lambda x: x, [(logits, labels)]) == (25, 75)

    @pytest.mark.parametrize(
        ('folders', 'message'),
        [
            (None, 'there is no folder'),
            ((), 'data: no pictures'),
            (('n01', 'n02'), 'data: no pictures'),
        ],
    )
    def test_bad_folders(self, tmp_path, folders, message):
        for name in folders or ():
            (tmp_path / 'data' / name).mkdir(parents=True)
        if folders is not None:
            (tmp_path / 'data').mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match=message):
            eval_imagenet.read_folder(str(tmp_path / 'data'), dict(input_size=32))

    def test_other_number_of_classes(
        self, monkeypatch, folder, golden_states, tmp_path
    ):
        file = tmp_path / 'm0.pth'
        torch.save({'model': golden_weights(golden_states, 'm0', head=True)}, file)
        args = ['recnext_m0', '--data', folder, '--checkpoint', file]
        with pytest.raises(ConfigError, match=r'3 classes, but .* tells 1000 apart'):
            run_main(eval_imagenet, monkeypatch, *args)


class TestLoadClassifier:
    @pytest.mark.slow
    def test_wrong_model(self, checkpoint):
        with pytest.raises(
            CheckpointError, match=r'does not fit m1; .*are weights of m0, this is m1'
        ):
            load_classifier('recnext_m1', str(checkpoint))

    def test_backbone_alone(self, golden_states, tmp_path):
        file = tmp_path / 'backbone.pth'
        torch.save({'model': golden_weights(golden_states, 'm0')}, file)
        with pytest.raises(
            CheckpointError, match=r'lacks .*head\.head\.linear\.weight'
        ):
            load_classifier('recnext_m0', str(file))

    def test_renamed_key(self, golden_states, tmp_path):
        weights = three_classes(golden_states)
        weights['head.head_dist.linear.b'] = weights.pop('head.head_dist.linear.bias')
        torch.save({'state_dict': weights}, tmp_path / 'm0.pth')
        with pytest.raises(
            CheckpointError, match=r'missing: head\.head_dist\.linear\.bias; left over'
        ):
            load_classifier('recnext_m0', str(tmp_path / 'm0.pth'))

    @pytest.mark.parametrize('arch', ['m0', 't_share_channel'])
    def test_fused_weights(self, golden_states, tmp_path, arch):
        model = timm.create_model(f'recnext_{arch}', num_classes=3).eval()
        model.load_state_dict(three_classes(golden_states, arch))
        image = golden_input()
        with torch.no_grad():
            logits = model(image)
            replace_batchnorm(model)
            torch.save(model.state_dict(), tmp_path / 'fused.pth')
            fused = load_classifier(f'recnext_{arch}', str(tmp_path / 'fused.pth'))
            assert worst(fused(image), logits) <= 1e-5


@pytest.mark.parametrize('arch', ['m0', 'a0', 't_share_channel'])
@torch.no_grad()
def test_published_forms(golden_states, tmp_path, arch):
    weights = three_classes(golden_states, arch)
    model = timm.create_model(f'recnext_{arch}', num_classes=3).eval()
    model.load_state_dict(weights)
    image = torch.randn(2, 3, 96, 130)  # not what the model is traced with
    logits = model(image)

    files = list(publish.publish(model, tmp_path / 'new' / arch))
    plain, safe, fused = files
    assert plain.name.startswith(f'{arch}-') and plain.suffix == '.pth'
    assert safe.name.startswith(f'{arch}-') and safe.suffix == '.safetensors'
    assert fused.name.startswith(f'{arch}_fused-') and fused.suffix == '.pt'
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert file.stem.rpartition('-')[2] == digest[:8]

    for saved in (torch.load(plain)['model'], load_file(safe)):
        assert saved.keys() == weights.keys()
        assert all(torch.equal(saved[key], weights[key]) for key in weights)
    archive = torch.jit.load(str(fused))
    golden = [
        [key, [3, *shape[1:]] if key.startswith('head.') else shape]
        for key, shape in golden_states[f'recnext_{arch}']['fused']
    ]
    assert keys_and_shapes(archive) == golden
    assert worst(archive(image), logits) <= 1e-5

    with pytest.raises(CheckpointError, match='fused already'):
        next(publish.publish(model, tmp_path / arch))


@pytest.mark.slow
@pytest.mark.parametrize('ema', [False, True])
def test_publish_reads_what_timm_saves(golden_states, tmp_path, ema):
    weights = three_classes(golden_states)
    averaged = {key: value * 2 for key, value in weights.items()}
    saved = {'state_dict': weights, 'state_dict_ema': averaged, 'args': Namespace()}
    torch.save(saved, tmp_path / 'last.pth.tar')
    done = run_tool(
        *('tools/publish.py', 'recnext_m0', tmp_path / 'last.pth.tar'),
        *(tmp_path / 'recnext_m0', *(['--ema'] if ema else [])),
    )
    assert done.returncode == 0, done.stderr
    names = sorted(path.name.partition('-')[0] for path in tmp_path.iterdir())
    assert names == ['last.pth.tar', 'recnext_m0', 'recnext_m0', 'recnext_m0_fused']
    (file,) = tmp_path.glob('recnext_m0-*.pth')
    released = torch.load(file)['model']
    for key, value in (averaged if ema else weights).items():
        assert released[key].equal(value)


def test_get_flops_counts_a_model_that_is_not_published(monkeypatch, capsys):
    monkeypatch.setitem(ARCHS, 'm9', get_arch(dict(base='m0', depths=(1, 1, 1, 1))))
    run_main(get_flops, monkeypatch, 'recnext_m9', '--shape', 64)
    row = capsys.readouterr().out.splitlines()[-1]
    name, params, published, _, macs, published_macs = row.split('│')
    assert name.strip() == 'recnext_m9' and float(params) > 0 and float(macs) > 0
    assert published.strip() == published_macs.strip() == ''


@pytest.mark.slow
def test_get_flops_prints_a_table():
    models = ('recnext_m3', 'mlla_mini_recconv_transposed')
    done = run_tool('tools/get_flops.py', *models, COLUMNS='80')
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.strip().startswith('published at 224 x 224')
    assert done.stdout.count('published') == 3 and '…' not in done.stdout
    row = next(line for line in done.stdout.splitlines() if 'recnext_m3' in line)
    assert [cell.strip() for cell in row.split('│')] == (
        ['recnext_m3', '8.21', '8.2', '8.75', '1.386', '1.4']
    )
    row = next(line for line in done.stdout.splitlines() if 'mlla' in line)
    assert [cell.strip() for cell in row.split('│')] == (
        ['mlla_mini_recconv_transposed', '14.49', '14.5', '14.49', '2.861', '2.9']
    )
    done = run_tool('tools/get_flops.py', 'recnext_m9')
    assert done.returncode == 1
    near = 'did you mean recnext_m5 or recnext_m4 or recnext_m3? The models are'
    assert f"unknown model 'recnext_m9'; {near} recnext_m0, recnext_m1" in done.stderr
