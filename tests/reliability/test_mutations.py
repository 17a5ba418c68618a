"""No spoilt checkpoint is read wrongly, runs code, ends the process or keeps it."""

import mmap
import os
import time

import pytest
import torch

from tests.reliability.mutations import fault_of, spoil
from tests.reliability.oddities import read_oddities


def faults(outcomes):
    found = [(o.item, fault, o.verdict) for o in outcomes if (fault := fault_of(o))]
    return [*map(str, found)]


def take(size):
    """Hold bytes that are new to the process, not those that it has freed."""
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for place in range(0, size, mmap.PAGESIZE):
        memory[place] = 1


def test_spoilt_checkpoints():
    outcomes = spoil(180)
    assert not faults(outcomes)
    verdicts = {outcome.verdict for outcome in outcomes}
    assert verdicts == {'refused', 'as saved', 'as it says'}


def test_what_is_no_checkpoint(tmp_path):
    outcomes = read_oddities(tmp_path)
    assert not faults(outcomes)
    assert {outcome.verdict for outcome in outcomes} == {'refused'}


@pytest.mark.parametrize(
    ('read', 'fault', 'limits'),
    [
        (lambda path: torch.load(path, weights_only=False), 'executed', {}),
        (lambda path: torch.load(path, weights_only=True), 'accepted wrongly', {}),
        (lambda path: torch.load(path, weights_only=True), 'traceback', {}),
        (lambda path: time.sleep(9), 'hangs', dict(seconds=0.1)),
        (lambda path: os.abort(), 'dies', {}),
        (lambda path: take(2**26), 'memory', dict(most=2**25)),
    ],
    ids=['executed', 'accepted wrongly', 'traceback', 'hangs', 'dies', 'memory'],
)
def test_faults_are_seen(read, fault, limits):
    few = fault in ('hangs', 'dies', 'memory')
    most = limits.pop('most', None)
    forms = ('timm, zip',)
    outcomes = spoil(2 if few else 80, forms, read=read, **limits)
    assert fault in {fault_of(o, *([most] if most else [])) for o in outcomes}
