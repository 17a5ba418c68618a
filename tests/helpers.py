"""What tests of several rooms share: places, small networks, golden values, tools."""

import copy
import importlib.util
import itertools
import os
import subprocess
import sys
import zlib
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from mmrecnext import stacks
from mmrecnext.benchmark.original import original_of
from mmrecnext.ops import fast_paths
from tests.fork_server import ForkServer

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


def golden_input(shape=(1, 3, 64, 96)) -> torch.Tensor:
    image = np.random.RandomState(20241229).standard_normal(shape)
    return torch.from_numpy(image.astype(np.float32))


def golden_weights(states: dict, arch: str, head: bool = False) -> dict:
    """Golden weights of one model, by key of the published file."""
    return {
        key: golden_tensor(key, shape)
        for key, shape in states[f'recnext_{arch}']['train']
        if head or not key.startswith('head.')
    }


PRELOADED = (
    'torch',
    'torchvision',
    'cv2',
    'matplotlib.pyplot',
    'mmengine.runner',
    'mmengine.visualization',
    'pycocotools.mask',
    'scipy.optimize',
    'timm',
    'tests.metafiles',
)
"""What takes the tools seconds, and neither is of the package nor looks at it."""

FRAMEWORKS = tuple(
    f'{framework}.{part}'
    for framework in ('mmdet', 'mmseg')
    for part in ('apis', 'datasets', 'engine', 'evaluation', 'models')
)
"""What a config has imported, and with it our stand-ins for operators."""

SERVER = ForkServer(*PRELOADED)
RUNNERS = dict.fromkeys(
    (f'tools/{name}.py' for name in ('train', 'test', 'infer')),
    ForkServer(*PRELOADED, *FRAMEWORKS),
)
"""The server of each tool that runs the network of a config."""


ON_FORK = stacks.here('mmengine') != 'mmengine'
"""Whether OneDL's packages are here, in the place of upstream's."""

more_bands = pytest.mark.skipif(
    ON_FORK, reason="the fork's SegDataPreprocessor takes one band or three"
)


def run_tool(*command, cwd=ROOT, **env) -> subprocess.CompletedProcess:
    """Run a tool of the repository (``tools/...``) or a module (``-m ...``).

    A tool in the environment of the tests, but for what it reads as it prints, is
    forked from a server; all else starts Python.
    """
    name, *args = map(str, command)
    if name.startswith('tools/') and env.keys() <= {'COLUMNS'}:
        server = RUNNERS.get(name, SERVER)
        return server.run([ROOT / name, *args], cwd, OMP_NUM_THREADS='1', **env)
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


def run_main(tool, monkeypatch, *args):
    """Run an imported tool in this process, without what tells its errors."""
    monkeypatch.setattr(sys, 'argv', [tool.__name__, *map(str, args)])
    tool.main(tool.parse_args())


@contextmanager
def files_ended():
    """Have no file of this process grow, as where a disk is full."""
    resource = pytest.importorskip('resource')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def check(result):
    """Return what a tool printed, after it succeeded."""
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout + result.stderr


def randomise(model):
    """Give batch norms statistics and weights as if trained, others small weights."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0, 0.3, generator=generator)
    return model.eval()


def compiled_and_graphs(model):
    """Compile a model whole, for any size; return it and the list of its graphs."""
    torch.compiler.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    return torch.compile(model, fullgraph=True, dynamic=True, backend=backend), graphs


# One of each kind of block: as deep as a test needs, and quick.
TINY = dict(base='m0', dims=(8, 16, 32, 64), depths=(1, 1, 1, 1))


SERIES = {
    'm': TINY,
    'a': dict(TINY, base='a0', dims=(16, 32, 64, 128)),
    'b': dict(base='b', dims=(16, 32, 48, 64), depths=(1, 1, 1, 1)),
    't_share_channel': dict(
        base='t_share_channel', dims=(16, 32, 64, 128), depths=(0, 1, 1, 6)
    ),
}


SUBSETS = [
    subset for n in range(1, 5) for subset in itertools.combinations(range(4), n)
]


def gradients(run, x, cotangents, model):
    """Gradients of the input and of all parameters, by name."""
    x = x.clone().requires_grad_()
    torch.autograd.backward(run(x), cotangents)
    return {'input': x.grad} | {k: p.grad for k, p in model.named_parameters()}


def assert_same_gradients(own, reference, tolerance, floor):
    """Compare within a share of each one's spread, but of no less than a floor.

    Where a norm takes back what a parameter does, rounding is all that is left of its
    gradient, a sum of numbers as large as those in the others.

    Args:
        floor: the least spread, as a share of the largest.
    """
    assert own.keys() == reference.keys()
    spreads = {k: g.std() for k, g in reference.items() if g is not None}
    least = floor * max(spreads.values())
    for name, grad in reference.items():
        if grad is None:
            assert own[name] is None
            continue
        bound = tolerance * max(spreads[name], least)
        assert (own[name] - grad).abs().max() <= bound, name


def compare_networks(model, size):
    """Compare a step of ``model``, in double, with one of the original."""
    model.double()
    original = original_of(model)
    modes = {name: module.training for name, module in model.named_modules()}
    for name, module in original.named_modules():
        module.training = modes.get(name, True)
    for own, other in zip(model.parameters(), original.parameters(), strict=True):
        other.requires_grad_(own.requires_grad)
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        cotangents = [torch.randn_like(x) for x in copy.deepcopy(original)(image)]
    steps = [gradients(m, image, cotangents, m) for m in (model, original)]
    assert_same_gradients(*steps, tolerance=1e-9, floor=1e-3)
    for name, buffer in original.named_buffers():
        own = model.get_buffer(name)
        assert torch.allclose(own, buffer, rtol=1e-12, atol=1e-14), name


def compare_with_plain(model, size):
    """Compare a step with one of PyTorch's own layers."""
    plain = copy.deepcopy(model)
    plain.with_cp = False
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    grads = []
    for each in (model, plain):
        torch.manual_seed(1)
        with fast_paths.off() if each is plain else nullcontext():
            sum(x.square().mean() for x in each(image)).backward()
        grads.append({name: p.grad for name, p in each.named_parameters()})
    assert_same_gradients(*grads, tolerance=1e-9, floor=1e-3)
    for own, other in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(own, other, rtol=1e-12, atol=1e-14)
