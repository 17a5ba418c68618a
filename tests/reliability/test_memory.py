import mmap
import os
import sys
from contextlib import ExitStack

import pytest

from tests.reliability.memory import KIB, infer, repeated, train
from tests.reliability.small import draw

pytestmark = pytest.mark.skipif(
    sys.platform != 'linux', reason='no /proc tells what a process holds'
)
STEPS = 40
BOUND = 1024 * KIB
"""By a step of few, in which what is kept for the next ones is still taken."""


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    grown = train(draw(folder / 'data'), folder / 'run', STEPS // 2)
    return grown, folder


@pytest.mark.slow
def test_training_does_not_grow(trained):
    grown, _ = trained
    assert grown.memory < BOUND and grown.files <= 0, grown


@pytest.mark.slow
def test_inference_does_not_grow(trained, tmp_path):
    (checkpoint,) = trained[1].glob('run/epoch_*.pth')
    grown = infer(checkpoint, tmp_path, STEPS)
    assert grown.memory < BOUND and grown.files <= 0, grown


def test_leaks_are_seen():
    kept = []
    with ExitStack() as files:

        def leak(step: int):
            kept.append(mmap.mmap(-1, 64 * KIB))  # not of what was freed before
            kept[-1].write(b'x' * 64 * KIB)
            if step % 10 == 0:
                files.enter_context(open(os.devnull))

        grown = repeated(100, leak)
    assert 48 * KIB < grown.memory < 80 * KIB and grown.files > 0
    grown = repeated(100, lambda step: b'x' * 64 * KIB)
    assert grown.memory < KIB and grown.files == 0
