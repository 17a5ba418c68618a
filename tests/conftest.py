import gc
import gzip
import json
import logging
import os
import signal
import sys

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

import tests.metafiles  # noqa: F401
from tests.helpers import DATA, ROOT, check, golden_weights, run_tool

torch.set_num_threads(1)  # a process of pytest-xdist has a core of its own
sys.path.append(str(ROOT / 'tools'))  # a tool may import another

# Processes started from here keep the memory of maps for the next ones, but of large
# ones. On a virtual machine, to give it back and be given other, page by page, can take
# several times as long as what is computed.
for name, value in dict(
    MALLOC_ARENA_MAX=1, MALLOC_MMAP_THRESHOLD_=2**25, MALLOC_TRIM_THRESHOLD_=2**40
).items():
    os.environ.setdefault(name, str(value))

if not torch.cuda.is_available():
    # Before anything imports Triton: its kernels then run on the CPU.
    os.environ.setdefault('TRITON_INTERPRET', '1')


DEAREST = (
    'docs/test_commands.py',
    'tools/test_train.py',
    'checkpoint/test_released_forms.py',
    'configs/test_recipes.py',
    'classification/test_classifier.py',
    'models/test_mixed_precision.py',
    'benchmark/test_benchmark.py',
    'swap/test_zoo.py',
    'reliability/test_kills.py',
    'export/test_detectors.py',
    'export/test_export.py',
)
"""Files that take minutes: the first to begin, so that no process ends long after."""


def pytest_collection_modifyitems(items):
    """Begin with what takes longest, and mark all cases of a test but its first slow.

    `make test-fast` runs what is not marked.
    """
    rank = {str(ROOT / 'tests' / name): i for i, name in enumerate(DEAREST)}
    items.sort(key=lambda item: rank.get(str(item.path), len(rank)))
    seen = set()
    for item in items:
        test = item.nodeid.partition('[')[0]
        if test in seen:
            item.add_marker(pytest.mark.slow)
        seen.add(test)


@pytest.fixture(scope='module', autouse=True)
def no_default_scope():
    """Begin each file without the scope that one before it has left."""
    DefaultScope._instance_dict.clear()


def pytest_collection_finish():
    """Search what is imported for garbage no more, half a second each time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Let it be garbage in the end, which extensions report to leak otherwise."""
    gc.unfreeze()


@pytest.fixture(scope='session')
def golden_states() -> dict:
    """Per model: ordered keys and shapes, training and fused form, and sizes."""
    with gzip.open(DATA / 'state_dicts.json.gz') as file:
        return json.load(file)


@pytest.fixture(scope='session')
def golden_features():
    """Per map: 256 values evenly spread over it, its shape and standard deviation."""
    return np.load(DATA / 'features.npz')


@pytest.fixture
def quiet():
    """Keep MMEngine from listing how every parameter is initialised."""
    from mmrecnext.engine.terminal import logged_from  # here: few tests need it

    with logged_from(logging.ERROR):
        yield


@pytest.fixture
def interruptible():
    """Take Ctrl-C, which a shell has its background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope='session')
def coco(tmp_path_factory):
    """80 classes in COCO's format and layout."""
    folder = tmp_path_factory.mktemp('data') / 'coco'
    from mmdet.datasets import CocoDataset  # here: few tests need it, and it is slow

    names = CocoDataset.METAINFO['classes']
    options = ['--train', 4, '--val', 2, '--size', 96]
    check(
        run_tool('tools/make_shapes_data.py', folder, *options, '--class-names', *names)
    )
    return folder


@pytest.fixture(scope='session')
def ade(tmp_path_factory):
    """150 labels in the layout of ADE20K."""
    folder = tmp_path_factory.mktemp('data') / 'ade'
    options = ['--train', 8, '--val', 2, '--size', 96, '--classes', 149]
    check(run_tool('tools/make_shapes_data.py', folder, *options))
    return folder


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """Data of the demo configs, few and small."""
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    options = ['--train', 8, '--val', 2, '--size', 96, '--objects', '2-4']
    check(run_tool('tools/make_shapes_data.py', folder, *options))
    return folder


@pytest.fixture(scope='session')
def pretrained(tmp_path_factory, golden_states):
    """ImageNet weights of m3 in the published form, with made-up values."""
    file = tmp_path_factory.mktemp('weights') / 'recnext_m3_distill_300e.pth'
    torch.save({'model': golden_weights(golden_states, 'm3', head=True)}, file)
    return file
