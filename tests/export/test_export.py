"""Files of every kind of network, equal to it; and none where it is not."""

import json
import sys
from dataclasses import replace
from functools import partial

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from mmrecnext import RecNeXt
from mmrecnext.benchmark.original import Original, original_of
from mmrecnext.engine.configs import load_config
from mmrecnext.errors import ExportError, OptionError
from mmrecnext.export import (
    backbone_subject,
    classifier_subject,
    export,
    formats,
    network_subject,
    published_backbone,
)
from mmrecnext.export.images import Images, Preparation, preparation_of
from mmrecnext.export.layers import for_any_size
from mmrecnext.export.proof import LIMIT, compare_label_maps, compare_values
from mmrecnext.models.classifier import RecNeXtClassifier
from tests.export.helpers import Brightness
from tests.helpers import ROOT, SMALL, check, randomise, run_tool

SEGMENTOR = 'sem_fpn_recnext_m0_shapes.py'

pytestmark = pytest.mark.filterwarnings('ignore')  # of the exporter's own affairs


def told(file):
    """What a file tells of itself, by name."""
    texts = {x.key: x.value for x in onnx.load(file).metadata_props}
    assert all(name.startswith('mmrecnext.') for name in texts)
    return {name.removeprefix('mmrecnext.'): value for name, value in texts.items()}


@pytest.fixture
def quick():
    return backbone_subject(Brightness(), Preparation(mean=(1.0, 2.0, 3.0)))


@pytest.mark.slow
@pytest.mark.parametrize('base', ['t_share_channel', 'm0', 'a0'])
def test_backbones(base, tmp_path):
    torch.manual_seed(0)
    backbone = randomise(RecNeXt(SMALL[base]))
    file = tmp_path / 'backbone.onnx'
    report = export(backbone_subject(backbone), file)
    assert [len(trial.differences) for trial in report.trials] == [4, 4, 4]
    graph = onnx.load(file).graph
    assert [x.name for x in graph.output] == ['c1', 'c2', 'c3', 'c4']
    sides = graph.input[0].type.tensor_type.shape.dim
    assert [x.dim_param or x.dim_value for x in sides] == [
        'batch',
        3,
        'height',
        'width',
    ]
    # Of a picture smaller than any that the proof has taken, and by the library itself.
    images = torch.randint(0, 256, (3, 3, 33, 7), dtype=torch.uint8)
    session = onnxruntime.InferenceSession(file)
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    with torch.no_grad():
        expected = backbone((images - mean) / std)
    for own, other in zip(
        session.run(None, {'images': images.numpy()}), expected, strict=True
    ):
        assert own.shape == other.shape
        assert (torch.from_numpy(own) - other).abs().max() <= 1e-4 * other.std()


@pytest.mark.slow
def test_classifier(tmp_path):
    torch.manual_seed(0)
    model = randomise(RecNeXtClassifier(SMALL['t'], num_classes=5))
    file = tmp_path / 'classifier.onnx'
    subject = classifier_subject(model, checkpoint='weights.pth')
    report = export(subject, file, size=(64, 96), pictures='float32')
    assert all(x.fits for x in report.trials) and len(report.trials) == 3
    graph = onnx.load(file).graph
    sides = graph.input[0].type.tensor_type.shape.dim
    assert [x.dim_param or x.dim_value for x in sides] == ['batch', 3, 64, 96]
    about = told(file)
    assert about['task'] == 'classification' and about['checkpoint'] == 'weights.pth'
    assert json.loads(about['classes']) == [f'class {i}' for i in range(5)]
    assert json.loads(about['verified']) == [str(x) for x in report.trials]
    assert json.loads(about['preparation'])['order'] == 'RGB'
    assert json.loads(about['size']) == [64, 96]
    assert {'torch', 'onnx', 'mmrecnext'} <= json.loads(about['versions']).keys()
    content = file.read_bytes()
    for path in (str(ROOT), sys.prefix, str(tmp_path)):
        assert path.encode() not in content


def test_names_of_imagenet():
    about = classifier_subject(RecNeXtClassifier(SMALL['m0']).eval()).about
    assert len(about['classes']) == 1000 and about['classes'][0].startswith('tench')


@pytest.mark.slow
def test_segmentor(segmentor, tmp_path):
    """Beside ``test_step``; pictures of 129 x 97 are padded within."""
    file = tmp_path / 'segmentor.onnx'
    config, weights = segmentor
    report = export(network_subject(load_config(config), weights, logits=True), file)
    assert all(x.fits for x in report.trials)
    about = told(file)
    assert json.loads(about['classes'])[1] == 'circle'
    assert len(json.loads(about['palette'])) == 6
    assert json.loads(about['resize']) == [dict(type='Resize', scale=[160, 160])]
    assert len(about['checkpoint_sha256']) == 64
    how = json.loads(about['preparation'])
    assert how['order'] == 'BGR' and how['swap'] and how['divisor'] == 32
    images = torch.randint(0, 256, (1, 3, 41, 90), dtype=torch.uint8)
    session = onnxruntime.InferenceSession(file)
    labels, logits = session.run(None, {'images': images.numpy()})
    assert labels.shape == (1, 41, 90) and logits.shape == (1, 6, 41, 90)
    assert len(set(labels.flatten())) > 1


@pytest.mark.slow
def test_tool_exports_the_backbone_of_a_config(segmentor, tmp_path):
    out = tmp_path / 'backbone.onnx'
    command = ['tools/export.py', *segmentor, '--backbone', '--size', 64]
    log = check(run_tool(*command, '--out', out))
    assert 'blank picture of 64 x 64: c1 ' in log
    assert f'{out}: c1, c2, c3, c4, verified' in log


@pytest.mark.slow
def test_original_computation_of_a_published_backbone(pretrained):
    own, original = (
        published_backbone('m3', str(pretrained), original=make)
        for make in (None, partial(original_of, fused=True))
    )
    assert (own.about['form'], original.about['form']) == ('deploy', 'original')
    assert isinstance(original.network.backbone, Original)
    images = torch.randint(0, 256, (1, 3, 64, 32), dtype=torch.uint8)
    found = dict(zip(original.outputs, original.network(images), strict=True))
    assert all(x.fits for x in compare_values(found, own.reference(images)))


@pytest.mark.slow
@pytest.mark.parametrize('scale', [2, 1.5])
def test_sizes_that_freeze_are_mended(scale, tmp_path):
    from mmseg.models.utils import Upsample

    class Enlarged(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = Upsample(scale_factor=scale, mode='bilinear', align_corners=False)

        def forward(self, x):
            return (self.up(x),)

    model = Enlarged()
    subject = backbone_subject(model)
    export(subject, tmp_path / 'mended.onnx')
    assert isinstance(model.up, Upsample)  # the one at hand is as it was
    assert not isinstance(for_any_size(model).up, Upsample)
    subject.network.backbone = model
    with pytest.raises(ExportError, match='try --size HEIGHT WIDTH: '):
        export(subject, tmp_path / 'frozen.onnx')
    assert not (tmp_path / 'frozen.onnx').exists()


def test_what_differs_is_not_kept(quick, tmp_path):
    file = tmp_path / 'x.onnx'
    file.write_bytes(b'before')

    def other(images):
        return {'c1': quick.reference(images)['c1'] * (1 + 2 * LIMIT)}

    with pytest.raises(ExportError, match=r'blank picture of 160 x 192: c1 2\.0e-04'):
        export(replace(quick, reference=other), file)
    assert file.read_bytes() == b'before' and list(tmp_path.iterdir()) == [file]


def test_without_proof_the_file_says_so(quick, tmp_path):
    file = tmp_path / 'x.onnx'
    assert not export(quick, file, verify=False).trials
    assert told(file)['verified'] == 'no: --no-verify'
    assert told(file)['size'] == 'free'


def test_what_cannot_be_recorded_is_told_in_a_line(tmp_path):
    class Moody(nn.Module):
        def forward(self, x):
            return (x if x.sum() > 0 else -x,)

    with pytest.raises(ExportError, match='PyTorch cannot record') as caught:
        export(backbone_subject(Moody()), tmp_path / 'x.onnx')
    assert '\n' not in str(caught.value)


def test_comparisons():
    ones = torch.ones(1, 2, 2, 2)
    values = {'a': ones}
    (same,) = compare_values(values, values)
    assert same.value == 0 and same.fits
    (nan,) = compare_values({'a': ones * torch.nan}, values)
    (short,) = compare_values({'a': ones[..., :1]}, values)
    assert not nan.fits and not short.fits and '[1, 2, 2, 1]' in str(short)
    logits = torch.tensor([1.0, 1.0 + 1e-6, 0.0])[None, :, None, None]
    expected = {'labels': torch.tensor([[[1]]]), 'logits': logits}
    (tie,) = compare_label_maps({'labels': torch.tensor([[[0]]])}, expected)
    (wrong,) = compare_label_maps({'labels': torch.tensor([[[2]]])}, expected)
    assert tie.fits and '1 of 1 differ' in str(tie) and not wrong.fits
    one = {'labels': torch.tensor([[[1]]]), 'logits': torch.tensor([[[[0.31]]]])}
    of_one = partial(compare_label_maps, threshold=0.3)
    assert of_one({'labels': one['labels']}, one)[0].fits
    assert not of_one({'labels': one['labels'] * 0}, one)[0].fits


def test_preparation_is_that_of_mmseg():
    from mmseg.models import SegDataPreProcessor
    from mmseg.structures import SegDataSample

    for pads in (dict(size_divisor=32), dict(size=(40, 20)), None):
        node = dict(
            mean=[1.0, 2, 3], std=[4.0, 5, 6], bgr_to_rgb=True, pad_val=7, test_cfg=pads
        )
        images = torch.randint(0, 256, (2, 3, 33, 47), dtype=torch.uint8)
        samples = [SegDataSample() for _ in images]
        data = dict(inputs=[*images], data_samples=samples)
        expected = SegDataPreProcessor(**node)(data)['inputs']
        assert torch.equal(Images(preparation_of(node))(images), expected)


def test_bad_options(quick, tmp_path, monkeypatch):
    file = tmp_path / 'x.onnx'
    for match, options in {
        'formats are onnx, .* Did you mean onnx': dict(format='onx'),
        'uint8 or float32': dict(pictures='int8'),
        'height and a width': dict(size=(0, 3)),
    }.items():
        with pytest.raises(OptionError, match=match):
            export(quick, file, **options)
    with pytest.raises(OptionError, match=r'end in \.onnx'):
        export(quick, tmp_path / 'x.pt')
    with pytest.raises(OptionError, match='no such folder'):
        export(quick, tmp_path / 'none/x.onnx')
    monkeypatch.setattr(formats, 'find_spec', lambda name: name == 'onnx' or None)
    with pytest.raises(OptionError, match='pip install onnxscript onnxruntime'):
        export(quick, file)
    assert not list(tmp_path.iterdir())


def test_size_that_a_network_does_not_take(tmp_path):
    subject = backbone_subject(nn.Sequential(nn.AvgPool2d(30), Brightness()))
    with pytest.raises(ExportError, match='no pictures of 20 x 40'):
        export(subject, tmp_path / 'x.onnx', size=(20, 40))


def test_heads_without_a_row(segmentor):
    config, weights = segmentor
    cfg = load_config(config)
    cfg.model.decode_head.type = 'LightHamHead'
    del cfg.model.decode_head['feature_strides']
    with pytest.raises(
        ExportError, match=r'LightHamHead.*HEADS.*that have are .*FPNHead'
    ):
        network_subject(cfg, weights)


def test_sliding_windows_are_refused(segmentor):
    config, weights = segmentor
    cfg = load_config(config)
    cfg.model.test_cfg = dict(mode='slide', crop_size=(64, 64), stride=(32, 32))
    with pytest.raises(ExportError, match='slides'):
        network_subject(cfg, weights)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['m0', '--format', 'onx'], 'Did you mean onnx'),
        (['m0', 'none.pth', '--format', 'openvino'], 'openvino end in .xml'),
        (['m0', '--size', 'big'], '--size takes free'),
        (['m0', '--logits'], 'networks of configs'),
        (['m0', '--form', 'original'], 'is for the --backbone of a published'),
        (['m0', 'none.pth'], 'there is no checkpoint none.pth'),
        (['m9'], 'no weights are published as'),
        ([SEGMENTOR], 'needs a CHECKPOINT'),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, tmp_path):
    out = tmp_path / 'x.onnx'
    result = run_tool('tools/export.py', *arguments, '--out', out)
    assert result.returncode == 1 and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not out.exists()
