"""Models without published weights, a changed RecNeXt and an MLLA, in the tools."""

import pytest
import torch
from safetensors.torch import load_file

from mmrecnext.benchmark.cases import grid, kind_of
from mmrecnext.benchmark.workloads import build_backbone
from mmrecnext.checkpoint import load_pretrained
from mmrecnext.checkpoint.convert import model_of
from mmrecnext.classification import load_classifier
from mmrecnext.engine.named import Named, named
from mmrecnext.errors import CheckpointError, ConfigError, OptionError
from mmrecnext.models.classifier import backbone_class, classifier_class
from tests.helpers import TINY, randomise, run_main, tool

MLLA = dict(base='nano_recattn_rope', embed_dim=16, depths=[1, 1, 1, 1])
RECNEXT = {k: list(v) if isinstance(v, tuple) else v for k, v in TINY.items()}
every_arch = pytest.mark.parametrize('arch', [RECNEXT, MLLA], ids=['recnext', 'mlla'])


@pytest.fixture(autouse=True)
def small_trace(monkeypatch):
    monkeypatch.setattr('mmrecnext.checkpoint.convert.INPUT_SIDE', 64)


def saved(arch, folder):
    """A classifier, and a checkpoint of its training."""
    torch.manual_seed(0)
    model = randomise(classifier_class(arch)(arch, num_classes=7))
    weights = {f'backbone.{key}': value for key, value in model.state_dict().items()}
    torch.save({'state_dict': weights}, folder / 'epoch_1.pth')
    return model, folder / 'epoch_1.pth'


def run(name, monkeypatch, *args):
    run_main(tool(name), monkeypatch, *args)


def images(*size):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@every_arch
@torch.no_grad()
def test_publish(arch, tmp_path, monkeypatch):
    model, checkpoint = saved(arch, tmp_path)
    out = tmp_path / 'out'
    (tmp_path / 'mine.py').write_text(
        f'model = dict(arch={arch})\n'
        'transform = dict(input_size=96, crop_pct=0.75)\n'
        'val_dataloader = dict(dataset=dict(transform=transform))'
    )
    assert named(str(tmp_path / 'mine.py')) == Named(arch, 96, 128)
    for told in (arch, tmp_path / 'mine.py'):
        run('publish', monkeypatch, told, checkpoint, out / 'x')
    assert len([*out.iterdir()]) in (3, 4)  # traces may differ in names alone
    (plain,), (safe,) = out.glob('x-*.pth'), out.glob('x-*.safetensors')
    fused = next(out.glob('x_fused-*.pt'))
    for weights in (torch.load(plain)['model'], load_file(safe)):
        assert weights.keys() == model.state_dict().keys()
        for key, value in model.state_dict().items():
            assert torch.equal(weights[key], value), key
    logits = model(images(96, 130))
    assert torch.allclose(torch.jit.load(fused)(images(96, 130)), logits, atol=1e-4)
    for file in (plain, safe, fused):
        again = load_classifier(str(arch), str(file))
        assert torch.allclose(again(images(64, 64)), model(images(64, 64)), atol=1e-4)

    backbone = backbone_class(arch)(arch)
    load_pretrained(backbone, str(plain))
    for key, value in backbone.state_dict().items():
        if not key.startswith('norm'):  # of maps, which no classifier has
            assert torch.equal(value, model.state_dict()[key]), key


@every_arch
def test_convert(arch, tmp_path, monkeypatch, capsys):
    model, checkpoint = saved(arch, tmp_path)
    family = type(model).family
    told = ('--model', arch)
    run('convert_checkpoint', monkeypatch, checkpoint, tmp_path / 'x.bin', *told)
    assert f'a changed {family}, classifier of 7 classes' in capsys.readouterr().out
    assert torch.load(tmp_path / 'x.bin').keys() == model.state_dict().keys()
    to = ('--to', 'backbone')
    run('convert_checkpoint', monkeypatch, checkpoint, tmp_path / 'b.pth', *told, *to)
    assert f'a changed {family}, backbone' in capsys.readouterr().out
    load_pretrained(backbone_class(arch)(arch), str(tmp_path / 'b.pth'))
    with pytest.raises(CheckpointError, match=r'does not fit .*; missing'):
        run('convert_checkpoint', monkeypatch, checkpoint, tmp_path / 'y.bin')


@pytest.mark.slow
def test_an_mlla_is_known_by_its_weights(tmp_path):
    weights = classifier_class('nano_recattn')('nano_recattn', 7).state_dict()
    assert model_of(weights, 'x').archs['nano_recattn'] == model_of(weights, 'x').arch
    with pytest.raises(CheckpointError, match=r'holds no RecNeXt or MLLA.*has conv1\.'):
        model_of({'conv1.weight': torch.ones(1)}, 'x')
    with pytest.raises(CheckpointError, match=r'holds no classifier of .*lacks a head'):
        model_of({k: v for k, v in weights.items() if k != 'head.weight'}, 'x')


def test_evaluation_prepares_pictures_as_the_model_takes_them():
    preparation = tool('eval_imagenet').preparation
    for name, side, short in (
        ('recnext_m3.base_300e_in1k', 224, 256),
        ('mlla_mini_recattn', 256, 292),
        (str(MLLA), 256, 292),
        ('recnext_m1_120e_384x384_3x3.py', 384, 438),
    ):
        options = preparation(name)
        assert (options['input_size'], options['crop_pct']) == (side, side / short)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('arch', 'options', 'told'),
    [
        (dict(MLLA, base='nano_recconv_transposed'), (), 'logits, verified'),
        (RECNEXT, ('--backbone',), 'c1, c2, c3, c4, verified'),
    ],
    ids=['mlla', 'recnext'],
)
def test_export(arch, options, told, tmp_path, monkeypatch, capsys):
    _, checkpoint = saved(arch, tmp_path)
    out = ('--out', tmp_path / 'x.pt2', '--format', 'pt2')
    run('export', monkeypatch, arch, checkpoint, *out, *options)
    assert told in capsys.readouterr().out


def test_benchmark_knows_an_mlla():
    assert kind_of('mlla_nano_recattn') == kind_of('nano_recattn') == 'mlla'
    with pytest.raises(OptionError, match=r'mlla_nano_\w+, .*similar are recnext_m5'):
        kind_of('m7')
    forms = ('original', 'train', 'deploy')
    cases = grid(['mlla_nano_recattn'], forms, works=('forward', 'step'))
    assert [(case.work, case.form) for case in cases] == (
        [('forward', 'train'), ('forward', 'deploy'), ('step', 'train')]
    )
    with torch.device('meta'):
        assert [build_backbone(case).training for case in cases] == [False, False, True]


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('mlla_nano', 'unknown model .*mlla_nano_baseline.* or a dict that changes'),
        ("{'base': 'mlla_nano_rope'}", r'did you mean nano_recattn_rope or .*m0, m1'),
        ("{'base': m3}", 'is no dict of settings, such as'),
        ('mask_rcnn_recnext_m3_coco.py', r'no config of a classifier: no `model\.arch'),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(OptionError, match=message):
        named(name)


def test_what_needs_weights_says_so(tmp_path, monkeypatch):
    for name in ('mlla_nano_recattn', str(RECNEXT)):
        with pytest.raises(OptionError, match='no weights are published as'):
            load_classifier(name)
    out = ('--out', tmp_path / 'x.onnx')
    with pytest.raises(OptionError, match='no weights are published as'):
        run('export', monkeypatch, 'mlla_nano_recattn', *out)
    _, checkpoint = saved(RECNEXT, tmp_path)
    with pytest.raises(ConfigError, match='those of classifiers are for train'):
        run('export', monkeypatch, 'recnext_m3_finetune.py', checkpoint, *out)
