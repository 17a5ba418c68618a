import gzip
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

torch.set_num_threads(2)


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
        env={**os.environ, 'OMP_NUM_THREADS': '2', **env},
        capture_output=True,
        text=True,
    )
