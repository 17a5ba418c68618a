"""Operators beside others of the same task."""

import pytest
import torch

from mmrecnext.benchmark.operators import (
    COLUMNS,
    TASKS,
    measure_operators,
    operator_rows,
)
from tests.helpers import run_tool


@pytest.mark.slow
def test_rows():
    seen = []
    found = measure_operators(
        ['nms'], repeats=2, progress=lambda text, done: seen.append(text)
    )
    assert all(len(task.seconds[0]) == 2 for task in found)
    columns, rows = operator_rows(found)
    assert columns == COLUMNS
    assert [row[0] for row in rows] == ['NMS', 'NMS', 'batched NMS', 'soft NMS']
    assert all(len(row) == len(columns) and float(row[4]) > 0 for row in rows)
    assert rows[-1][2:4] == ('', '')  # there is no other way
    assert seen[0] == 'NMS, 1000 boxes'


@pytest.mark.slow
@pytest.mark.parametrize('name', TASKS)
def test_both_ways_compute_the_same(name):
    """But for pooling, of which torchvision rounds the regions."""
    for task in TASKS[name]('cpu'):
        if not task.other or task.operator.endswith('step'):
            continue
        here, other = task.here(), task.other()
        here = here[1] if isinstance(here, tuple) else here  # kept boxes, and which
        assert here.shape == other.shape
        if here.dtype == torch.bool:  # of which rounding decides a few
            assert (here != other).sum() <= 1e-5 * here.sum()
        elif task.operator != 'RoI pooling':
            tolerance = 1e-2 if here.dtype == torch.bfloat16 else 1e-4
            assert torch.allclose(here.to(other), other, atol=tolerance, rtol=tolerance)


@pytest.mark.slow
def test_takes_no_models():
    result = run_tool('tools/benchmark.py', 'm0', '--operators')
    assert result.returncode == 1
    assert '--operators takes no models, got m0' in result.stderr
