"""The Triton kernels compile for GPUs, and models that hold them compile whole."""

import json
from pathlib import Path

import pytest

from tests.helpers import run_tool

pytestmark = pytest.mark.slow

pytest.importorskip('triton')

# What every GPU since 2017 grants a block of threads, in bytes.
SHARED_MEMORY = 64 * 1024


@pytest.fixture(scope='module')
def report() -> dict:
    result = run_tool(
        Path(__file__).with_name('compile_kernels.py'), TRITON_INTERPRET='0'
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    'kernel',
    [
        'halve, bf16, sm80',
        'bilinear, fp16, sm90',
        'bilinear 7x7, fp32, sm80',
        'nearest, bf16, sm90',
        'gather, fp32, sm80',
        'gather, bf16, sm90',
        'distribute, fp32, sm80',
        'distribute, bf16, sm90',
    ],
)
def test_kernel_compiles_and_fits(report, kernel):
    usage = report[kernel]
    assert usage['REG'] > 0
    assert usage['STACK'] == 0, 'registers were spilled'
    assert usage['shared'] <= SHARED_MEMORY


@pytest.mark.parametrize(
    ('operator', 'launches', 'channels'), [('recconv', 5, 64), ('attention', 2, 48)]
)
def test_operator_is_one_graph_for_all_sizes(report, operator, launches, channels):
    traced = report[operator]
    assert traced['graphs'] == 1
    assert traced['launches'] == launches
    assert traced['channels'] == channels
    assert traced['is_channels_last']
    # The compiler sees what is written: it copies no input for fear of a change.
    assert set(traced['written']) == (
        {'out_ptr'} if operator == 'recconv' else {'out_ptr', 'sums_ptr'}
    )
