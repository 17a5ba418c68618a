"""Files of every format and type of weights, equal to the network or told apart."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from mmrecnext import RecNeXt
from mmrecnext.engine.configs import load_config
from mmrecnext.errors import ConfigError, ExportError, OptionError
from mmrecnext.export import FORMATS, backbone_subject, export, network_subject
from mmrecnext.export.calibration import (
    FEWEST,
    Calibration,
    crop_reader,
    pipeline_reader,
)
from mmrecnext.export.enlarging import WholeFactors, by_bilinear, by_nearest
from mmrecnext.export.exported import open_exported
from mmrecnext.export.formats import format_of
from mmrecnext.export.images import Preparation
from mmrecnext.export.proof import LIMIT
from mmrecnext.export.recording import record
from mmrecnext.export.write import prove
from tests.helpers import ROOT, SMALL, files_ended, randomise, run_tool

pytestmark = pytest.mark.filterwarnings('ignore')  # of the exporters' own affairs


def tiny():
    """A backbone that takes little time to export, and has weights of some size."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.GELU(), nn.Conv2d(16, 16, 3, 2, 1)
    )

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            return (self.layers(x),)

    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    return backbone_subject(Tiny().eval(), Preparation(mean=mean, std=std, swap=True))


@pytest.fixture(scope='module')
def subject():
    return tiny()


def installed(name):
    """A format; skips a test where its packages are missing."""
    for package in FORMATS[name].packages:
        pytest.importorskip(package)
    return FORMATS[name]


def about(file, name):
    """What a file tells of itself, by name, without what other programs say."""
    told = FORMATS[name].told(file).items()
    prefix = 'mmrecnext.'
    return {k.removeprefix(prefix): v for k, v in told if k.startswith(prefix)}


def test_formats_are_told_by_names(subject, tmp_path):
    assert [format_of(f'a.b{row.suffix}') for row in FORMATS.values()] == [*FORMATS]
    with pytest.raises(OptionError, match=r'x\.pt: names .* end in \.onnx \(onnx\), '):
        format_of('x.pt')
    export(subject, tmp_path / 'x.ts')
    assert open_exported(tmp_path / 'x.ts').row.name == 'torchscript'


@pytest.fixture(scope='module')
def mixers():
    """A backbone with every kind of mixer, and what was recorded of it at any size."""
    torch.manual_seed(0)
    subject = backbone_subject(randomise(RecNeXt(SMALL['t'])))
    return subject, record(subject, None, 'uint8', torch.uint8)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['openvino', 'pt2', 'torchscript'])
def test_any_size(name, mixers, tmp_path):
    """Of pictures that neither the graph was recorded with nor the proof has taken."""
    subject, recording = mixers
    row = FORMATS[name]
    file = tmp_path / f'backbone{row.suffix}'
    row.write(recording, file)
    trials = prove(subject, lambda: row.read(file), None, torch.uint8)
    assert len(trials) == 3 and all(trial.fits for trial in trials)
    run = row.read(file)
    smallest = (65, 65) if name == 'pt2' else (33, 7)
    for shape in ((1, 3, *smallest), (3, 3, 70, 65)):
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        with torch.no_grad():
            expected = subject.reference(images)
        found = run(images)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key].shape == value.shape
            assert (found[key] - value).abs().max() <= LIMIT * value.std()


@pytest.mark.slow
def test_executorch(mixers, tmp_path):
    """Where it is installed: it brings thirty packages with it."""
    pytest.importorskip('executorch')
    report = export(mixers[0], tmp_path / 'x.pte', 'executorch', (64, 96))
    assert len(report.trials) == 3 and all(trial.fits for trial in report.trials)
    assert {x.name for x in tmp_path.iterdir()} == {'x.pte', 'x.json'}


@pytest.mark.parametrize('name', ['pt2', 'torchscript'])
def test_a_full_disk_is_told(name, subject, tmp_path):
    """PyTorch's own writer would abort the process."""
    file = tmp_path / f'x{FORMATS[name].suffix}'
    with files_ended(), pytest.raises(OSError, match=f"too large: '{file}'"):
        export(subject, file, name, (32, 64))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize('name', FORMATS)
def test_what_files_tell(name, subject, tmp_path):
    row = installed(name)
    file = tmp_path / f'x{row.suffix}'
    report = export(subject, file, name, (32, 64))
    told = about(file, name)
    assert told['task'] == 'features' and told['dtype'] == 'fp32'
    shown = [str(trial) for trial in report.trials]
    assert len(shown) == 3
    if row.elsewhere:
        assert told['verified'].startswith(f'no: {row.elsewhere}')
        assert all(trial in told['verified'] for trial in shown)
    else:
        assert json.loads(told['verified']) == shown
    assert json.loads(told['outputs']) == ['c1']
    assert set(row.packages) <= json.loads(told['versions']).keys()
    files = {file, *map(file.with_suffix, row.companions)}
    assert {*tmp_path.iterdir()} == files
    for each in filter(Path.is_file, tmp_path.rglob('*')):
        content = each.read_bytes()
        for path in (str(ROOT), sys.prefix, str(tmp_path)):
            assert path.encode() not in content


@pytest.mark.slow
@pytest.mark.parametrize('name', ['onnx', 'openvino'])
def test_half_precision(name, subject, tmp_path):
    row = FORMATS[name]
    whole, half = (tmp_path / f'{x}{row.suffix}' for x in ('whole', 'half'))
    export(subject, whole, name)
    report = export(subject, half, name, dtype='fp16')
    assert all(trial.fits for trial in report.trials)
    for trial in report.rounding:
        for difference in trial.differences:
            assert LIMIT < difference.value < 1e-2
    told = about(half, name)
    assert told['dtype'] == 'fp16'
    assert json.loads(told['rounding']) == [str(trial) for trial in report.rounding]
    saved = 0
    for suffix in row.companions or (row.suffix,):
        saved += whole.with_suffix(suffix).stat().st_size
        saved -= half.with_suffix(suffix).stat().st_size
    weights = sum(x.numel() for x in subject.network.parameters())
    assert saved > weights  # of 4 bytes each, but for what tells of the halves


def test_weights_beyond_half_precision_stay_whole(tmp_path):
    subject = tiny()
    layers = subject.network.backbone.layers
    layers[2].weight.data.mul_(1e6)
    file = tmp_path / 'x.onnx'
    export(subject, file, verify=False, dtype='fp16')
    kinds = {x.name: x.data_type for x in onnx.load(file).graph.initializer}
    assert kinds['backbone.layers.2.weight'] == onnx.TensorProto.FLOAT
    assert kinds['backbone.layers.0.weight.half'] == onnx.TensorProto.FLOAT16


def test_what_halves_cannot_explain_is_not_kept(subject, tmp_path, monkeypatch):
    from mmrecnext.export import onnx_file

    def halve(file, *_):
        onnx_file.halve(file)
        model = onnx.load(file)
        weight = model.graph.initializer[0]
        values = onnx.numpy_helper.to_array(weight) * np.float16(1.02)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        onnx.save(model, file)

    row = FORMATS['onnx']
    reduction = replace(row.reductions['fp16'], apply=halve)
    wrong = replace(row, reductions={'fp16': reduction})
    monkeypatch.setitem(FORMATS, 'onnx', wrong)
    with pytest.raises(ExportError, match='other results'):
        export(subject, tmp_path / 'x.onnx', dtype='fp16')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('broken', ['.xml', '.bin'])
def test_of_two_files_neither_is_left(broken, subject, tmp_path, monkeypatch):
    import openvino

    file = tmp_path / 'x.xml'
    file.write_text('before')
    file.with_suffix('.bin').write_text('before')

    def save_model(model, path, **_):
        path.with_suffix('.bin').write_bytes(b'half')
        if broken == '.xml':
            path.write_bytes(b'half')
        raise RuntimeError('basic_ios::clear: iostream error')

    monkeypatch.setattr(openvino, 'save_model', save_model)
    with pytest.raises(OSError, match=r'cannot be written whole.*x\.xml'):
        export(subject, file, 'openvino')
    assert {x.name: x.read_text() for x in tmp_path.iterdir()} == {
        'x.xml': 'before',
        'x.bin': 'before',
    }


def test_maps_are_enlarged_alike_by_convolutions():
    x = torch.randn(2, 3, 5, 7)
    for factor in (2, 3, 4, 8):
        for mode, way in (('nearest', by_nearest), ('bilinear', by_bilinear)):
            expected = F.interpolate(x, scale_factor=factor, mode=mode)
            assert torch.allclose(way(x, factor), expected, rtol=0, atol=1e-5)
    for size in ((10, 14), (9, 14), (10, 13), (9, 13)):
        for convolve in (False, True):
            with WholeFactors(convolve):
                found = F.interpolate(x, size)
            assert torch.equal(found, F.interpolate(x, size))


class Halved(nn.Module):
    """Enlarges maps that it has halved before, as networks do."""

    def forward(self, x):
        coarse = F.avg_pool2d(x, 2, ceil_mode=True)
        sizes = x.shape[2:]
        return (
            F.interpolate(coarse, sizes),
            F.interpolate(coarse, sizes, mode='bilinear'),
        )


@pytest.mark.slow
@pytest.mark.parametrize('name', ['coreml', 'coreml-nn'])
def test_core_ml_for_devices_without_interpolation(name, tmp_path):
    import coremltools

    kinds = {}
    for ios_safe in (False, True):
        file = tmp_path / f'{ios_safe}{FORMATS[name].suffix}'
        export(backbone_subject(Halved()), file, name, (8, 6), ios_safe=ios_safe)
        spec = coremltools.models.MLModel(str(file), skip_model_load=True).get_spec()
        image = spec.description.input[0].type.imageType
        assert (image.height, image.width) == (8, 6)
        if name == 'coreml':
            (block,) = spec.mlProgram.functions['main'].block_specializations.values()
            kinds[ios_safe] = {operator.type for operator in block.operations}
        else:
            layers = spec.neuralNetwork.layers
            kinds[ios_safe] = {layer.WhichOneof('layer') for layer in layers}
    enlarging = {'upsample_nearest_neighbor', 'upsample_bilinear', 'upsample'}
    assert kinds[False] & enlarging and not kinds[True] & enlarging


@pytest.mark.slow
def test_core_ml_of_a_segmentor(segmentor, tmp_path):
    """Whose logits are cut to the size of the picture, even where it is theirs."""
    config, weights = segmentor
    subject = network_subject(load_config(config), weights)
    report = export(subject, tmp_path / 'x.mlpackage', 'coreml', (32, 32))
    assert all(trial.fits for trial in report.trials) and len(report.trials) == 3


def test_core_ml_of_half_precision(subject, tmp_path):
    sizes = {}
    for dtype in ('fp32', 'fp16'):
        file = tmp_path / f'{dtype}.mlpackage'
        report = export(subject, file, 'coreml', (32, 64), dtype=dtype)
        assert len(report.trials) == 3 and not report.rounding
        sizes[dtype] = sum(x.stat().st_size for x in file.rglob('weight.bin'))
    assert sizes['fp16'] < 0.6 * sizes['fp32']
    with pytest.raises(ExportError, match="Core ML runs on Apple's systems alone"):
        FORMATS['coreml'].read(file)


def test_what_core_ml_cannot_do(subject, tmp_path):
    file = tmp_path / 'x.mlpackage'
    with pytest.raises(OptionError, match='of one size: --size HEIGHT WIDTH'):
        export(subject, file, 'coreml')
    with pytest.raises(ExportError, match='of 5 x 4 is enlarged to 9 x 8'):
        export(backbone_subject(Halved()), file, 'coreml', (9, 8), ios_safe=True)
    with pytest.raises(OptionError, match='is for Core ML'):
        export(subject, tmp_path / 'x.onnx', ios_safe=True)
    assert not list(tmp_path.iterdir())


def test_other_operators_without_a_word_are_an_error(tmp_path):
    """The older form of Core ML has no nearest pixels but by whole factors."""

    class Grown(nn.Module):
        def forward(self, x):
            return (F.interpolate(x, (12, 9)),)

    with pytest.raises(ExportError, match=r'something else: .*bilinear'):
        export(backbone_subject(Grown()), tmp_path / 'x.mlmodel', 'coreml-nn', (8, 6))
    assert not list(tmp_path.iterdir())


def test_folders_that_are_no_files(subject, tmp_path):
    (tmp_path / 'x.onnx').mkdir()
    with pytest.raises(OptionError, match='is a folder; name a file'):
        export(subject, tmp_path / 'x.onnx')


def test_types_that_a_format_has_not(subject, tmp_path):
    with pytest.raises(OptionError, match='no weights of fp8: onnx fp32 fp16; openv'):
        export(subject, tmp_path / 'x.onnx', dtype='fp8')


def smooth(count, height=48, width=64):
    """Pictures ``[3, H, W]`` that resemble those of a test."""
    seed = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 5, generator=seed) * 255
    images = F.interpolate(coarse, (height, width), mode='bilinear').byte()
    return list(images)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp('pictures')
    for i, image in enumerate(smooth(FEWEST)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f'{i:03}.png')
    return place


def test_integers(subject, tmp_path, capsys):
    """Measured, not judged: off by what 8 bits leave, of pictures as it knows them."""
    file = tmp_path / 'x.xml'
    pictures = smooth(FEWEST, 32, 40)  # made up on the right
    report = export(
        subject, file, 'openvino', (32, 64), dtype='int8', calibration=pictures
    )
    assert capsys.readouterr().out == ''
    assert all(trial.fits for trial in report.trials)
    assert len(report.times) == 2 and min(report.times) > 0
    images = torch.stack(smooth(4, 32, 64))
    found = FORMATS['openvino'].read(file)(images)['c1']
    expected = subject.reference(images)['c1']
    error = (found - expected).square().mean() / expected.square().mean()
    assert 1e-3 < error.sqrt() < 5e-2
    told = about(file, 'openvino')
    assert (told['dtype'], told['calibration']) == ('int8', str(FEWEST))
    assert json.loads(told['rounding']) == [str(trial) for trial in report.rounding]
    assert 'type="FakeQuantize"' in file.read_text()
    content = file.read_bytes()
    for path in (str(ROOT), sys.prefix, str(tmp_path)):
        assert path.encode() not in content


def test_larger_pictures_than_the_file_takes(subject, tmp_path):
    with pytest.raises(ExportError, match='pictures of 32 x 64, got one of 48 x 64'):
        export(
            subject,
            tmp_path / 'x.xml',
            'openvino',
            (32, 64),
            verify=False,
            dtype='int8',
            calibration=smooth(FEWEST),
        )
    assert not list(tmp_path.iterdir())


def test_pictures_are_read_as_tests_read_them(segmentor, folder):
    read = pipeline_reader(load_config(segmentor[0]))
    by_config = Calibration(folder, read)
    assert len(by_config) == FEWEST
    assert by_config[0].shape == (3, 160, 160)
    by_crop = Calibration(folder, crop_reader((56, 40)))
    assert [x.shape for x in by_crop[:2]] == [(3, 56, 40)] * 2
    # The ones are BGR, the others RGB.
    means = [x[0].float().mean((1, 2)) for x in (by_config, by_crop)]
    assert (means[0].flip(0) - means[1]).abs().max() < 20


def test_folders_that_do_not_do(folder, tmp_path):
    read = crop_reader(None)
    with pytest.raises(OptionError, match='no folder'):
        Calibration(tmp_path / 'none', read)
    for file in [*folder.iterdir()][1:]:
        (tmp_path / file.name).symlink_to(file)
    with pytest.raises(OptionError, match=f'holds {FEWEST - 1} pictures'):
        Calibration(tmp_path, read)
    (tmp_path / 'broken.jpg').write_bytes(b'none')
    told = rf'1 of {FEWEST} pictures cannot be read: broken.jpg \(cannot identify'
    with pytest.raises(ConfigError, match=told):
        Calibration(tmp_path, read)


def test_pictures_for_what_needs_them(subject, tmp_path):
    with pytest.raises(OptionError, match='int8 needs a folder of pictures'):
        export(subject, tmp_path / 'x.xml', 'openvino', dtype='int8')
    with pytest.raises(OptionError, match='fp16 takes no pictures'):
        export(subject, tmp_path / 'x.onnx', dtype='fp16', calibration=smooth(1))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--dtype', 'int4'], 'no weights of int4'),
        (['--dtype', 'int8'], 'no weights of int8: onnx fp32 fp16; openvino fp32'),
        (['--dtype', 'int8', '--out', 'x.xml'], 'int8 needs a folder'),
        (['--calibrate', 'none'], 'there is no folder none'),
    ],
)
def test_mistakes_on_the_command_line(options, message, tmp_path):
    command = ['tools/export.py', 'm0', '--out', 'x.onnx', *options]
    result = run_tool(*command, cwd=tmp_path)
    assert result.returncode == 1 and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not [*tmp_path.iterdir()]
