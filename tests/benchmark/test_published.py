"""Whole classifiers beside their published speeds."""

import pytest
import torch

from mmrecnext.archs import ARCHS
from mmrecnext.benchmark.published import fitting, measure_published, published_rows
from mmrecnext.pretrained import SPEEDS
from tests.helpers import run_tool


def test_every_model_has_speeds():
    assert SPEEDS.keys() == ARCHS.keys()
    with_backbones = [arch for arch, x in SPEEDS.items() if x.coco_ms and x.ade20k_ms]
    assert with_backbones == ['m3', 'm4', 'm5', 'a3', 'a4', 'a5']


def test_rows():
    (found,) = measure_published(['m0'], batch=2, seconds=0.01)
    assert found.batch == 2 and found.images_per_second > 0 and found.seconds > 0
    columns, (row,) = published_rows([found])
    assert len(columns) == len(row)
    assert row[:4] == ('m0', '1.0', '189', '750') and row[5] == '2'


def test_batch_is_halved_until_it_fits():
    seen = []

    def model(images):
        seen.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError

    assert fitting(model, 'cpu', 8) == 2 and seen == [8, 4, 2]

    def greedy(images):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        fitting(greedy, 'cpu', 2)


@pytest.mark.slow
def test_takes_recnexts_alone():
    result = run_tool('tools/benchmark.py', 'resnet18', '--published')
    assert result.returncode == 1
    assert '--published take RecNeXts, got resnet18' in result.stderr
