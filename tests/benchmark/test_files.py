"""Exported files, measured beside models."""

import pytest

from mmrecnext.benchmark.cases import grid
from mmrecnext.benchmark.measure import measure
from mmrecnext.benchmark.report import rows
from mmrecnext.errors import OptionError
from mmrecnext.export import backbone_subject, engines, export
from mmrecnext.export.engines import ENGINES, engines_for
from tests.export.helpers import Brightness
from tests.helpers import run_tool

pytestmark = pytest.mark.filterwarnings('ignore')  # of the exporter's own affairs


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp('files') / 'brightness.onnx'
    export(backbone_subject(Brightness()), file, size=(32, 64))
    return str(file)


@pytest.mark.slow
def test_measured_by_each_engine(file):
    cases = grid([file], dtypes=['fp32', 'bf16'], shape=(32, 64), batches=[1, 2])
    engines = {case.mode for case in cases}
    assert engines == {row.name for row in ENGINES.values() if row.is_installed}
    assert all(case.dtype in ENGINES[case.mode].dtypes for case in cases)
    assert not grid([file], works=['step'])
    cases = [case for case in cases if case.mode == 'onnxruntime']
    report = measure(cases, repeats=2)
    (row,) = rows(report, 'forward')
    assert row[:5] == ('brightness', 'exported', 'nchw', 'onnxruntime', 'fp32')
    assert float(row[5]) > 0 and row[-3:] == ('', '', '')


def test_engines_of_files(file, monkeypatch):
    assert engines_for(file, ['onnxruntime']) == ['onnxruntime']
    with pytest.raises(OptionError, match='by openvino, not by onnxruntime'):
        engines_for('x.xml', ['onnxruntime'])
    with pytest.raises(OptionError, match=r'end in \.onnx, \.xml'):
        engines_for('x.pte')
    monkeypatch.setattr(
        engines, 'find_spec', lambda name: name == 'onnxruntime' or None
    )
    assert engines_for(file) == ['onnxruntime']
    with pytest.raises(OptionError, match='run by openvino: pip install it'):
        engines_for(file, ['onnxruntime', 'openvino'])


@pytest.mark.slow
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--shape', 64], 'takes images of 32 x 64: --shape 32 64'),
        (['--shape', 32, 64, '--work', 'step'], 'nothing to measure'),
    ],
)
def test_mistakes(options, message, file):
    result = run_tool('tools/benchmark.py', file, *options)
    assert result.returncode == 1 and message in result.stderr
    assert 'Traceback' not in result.stderr
