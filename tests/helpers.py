"""What tests of several rooms share: places, small networks, golden values, tools."""

import importlib.util
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / 'data'


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
