import gzip
import importlib.util
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / 'data'

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


SMALL = {
    base: dict(base=base, dims=(16, 32, 64, 128), depths=depths)
    for base, depths in {
        'm0': (1, 1, 1, 1),
        'a0': (1, 1, 1, 1),
        't': (0, 1, 1, 1),
        'b': (1, 1, 1, 1),
        't_share_channel': (0, 1, 1, 6),
    }.items()
}
"""Small networks, one of each kind of block, as settings of `arch`."""


def golden_tensor(key: str, shape) -> torch.Tensor:
    """The weight that the golden maps were made with, a function of its key alone."""
    kind = key.split('.')[-1]
    if kind == 'num_batches_tracked':
        return torch.zeros(shape, dtype=torch.long)
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if kind == 'running_var' or (kind == 'weight' and len(shape) == 1):
        value = random.uniform(0.5, 1.5, shape)
    elif kind in ('running_mean', 'bias'):
        value = 0.1 * random.standard_normal(shape)
    else:
        fan_in = np.prod(shape[1:])
        value = 0.4 * random.standard_normal(shape) / np.sqrt(fan_in)
    return torch.from_numpy(value.astype(np.float32))


def golden_input() -> torch.Tensor:
    image = np.random.RandomState(20241229).standard_normal((1, 3, 64, 96))
    return torch.from_numpy(image.astype(np.float32))


@pytest.fixture(scope='session')
def golden_states() -> dict:
    """Per model: ordered keys and shapes, training and fused form, and sizes."""
    with gzip.open(DATA / 'state_dicts.json.gz') as file:
        return json.load(file)


@pytest.fixture(scope='session')
def golden_features():
    """Per map: 256 values evenly spread over it, its shape and standard deviation."""
    return np.load(DATA / 'features.npz')


def golden_weights(states: dict, arch: str, head: bool = False) -> dict:
    """Golden weights of one model, by key of the published file."""
    return {
        key: golden_tensor(key, shape)
        for key, shape in states[f'recnext_{arch}']['train']
        if head or not key.startswith('head.')
    }


def run_tool(*command, cwd=ROOT, **env) -> subprocess.CompletedProcess:
    """Run a tool of the repository (``tools/...``) or a module (``-m ...``)."""
    name, *args = map(str, command)
    target = [str(ROOT / name)] if name.startswith('tools/') else [name]
    return subprocess.run(
        [sys.executable, *target, *args],
        cwd=cwd,
        env={**os.environ, 'OMP_NUM_THREADS': '1', **env},
        capture_output=True,
        text=True,
    )


def tool(name: str):
    """Import a tool of the repository."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f'tools/{name}.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def check(result):
    """Return what a tool printed, after it succeeded."""
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout + result.stderr


@pytest.fixture
def quiet():
    """Keep MMEngine from listing how every parameter is initialised."""
    from mmengine.logging import MMLogger  # here: few tests need it

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    yield
    logger.setLevel(level)


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
