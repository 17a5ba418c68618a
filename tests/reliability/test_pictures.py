"""Odd pictures, annotations and label maps are used as they are, or named."""

import pytest

import mmrecnext.engine.data.annotations as checks
from mmrecnext.engine.data.samples import CheckedPipeline
from tests.reliability.pictures import (
    fault_of,
    models,
    predict_pictures,
    try_annotations,
    try_labels,
)


def faults(outcomes):
    return [str((o.item, o.verdict)) for o in outcomes if fault_of(o)]


@pytest.mark.slow
def test_pictures(tmp_path):
    outcomes = predict_pictures(tmp_path, models(tmp_path, 'sem_fpn'))
    assert not faults(outcomes)
    assert {outcome.verdict for outcome in outcomes} == {'used', 'refused'}


@pytest.mark.parametrize('attempt', [try_annotations, try_labels])
def test_annotations_and_label_maps(attempt, tmp_path):
    outcomes = attempt(tmp_path, 40)
    assert not faults(outcomes)
    assert {outcome.verdict for outcome in outcomes} == {'used', 'refused'}


def test_annotations_left_out_silently_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, '_reason_to_leave_out', lambda *_: None)
    told = ''.join(faults(try_annotations(tmp_path, 40)))
    assert 'left out silently' in told


def test_labels_that_are_not_checked_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(CheckedPipeline, '_check_map', lambda *_: None)
    assert 'accepted wrongly' in ''.join(faults(try_labels(tmp_path, 40)))
