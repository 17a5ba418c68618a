"""What is private to other libraries does what we take it to do."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP
from torch import fx, nn

from mmrecnext import compat
from tests.helpers import ROOT


def test_symbols_are_told_from_maps():
    seen = []

    def look(x):
        seen.append(compat.is_symbolic())
        return x + 1

    look(torch.zeros(1))
    fx.symbolic_trace(look)
    torch.func.vmap(look)(torch.zeros(2))
    assert seen == [False, True, True]


def test_every_kind_of_hook_is_seen():
    def hook(*_):
        return None

    kinds = [
        name
        for name in dir(nn.Module)
        if name.startswith('register_') and 'hook' in name
    ]
    of_calls = [name for name in kinds if 'state_dict' not in name]
    assert len(of_calls) == len(compat.HOOKS) + 1  # one of them is a former name
    for name in of_calls:
        model = nn.Sequential(nn.Sequential(nn.ReLU()))
        assert not compat.has_hooks(model)
        handle = getattr(model[0][0], name)(hook)
        assert compat.has_hooks(model), name
        handle.remove()
        assert not compat.has_hooks(model)
    handle = nn.modules.module.register_module_forward_hook(hook)
    assert compat.has_hooks(nn.ReLU())
    handle.remove()
    assert all(hasattr(nn.ReLU(), name) for name in compat.HOOKS)


def test_a_part_that_is_left_out_has_no_hooks():
    model = nn.Sequential(nn.ReLU())
    model.register_module('left_out', None)
    assert not compat.has_hooks(model)
    model[0].register_forward_hook(lambda *_: None)
    assert compat.has_hooks(model)


def test_all_batch_norms_have_one_base():
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    assert all(issubclass(kind, compat.BatchNorm) for kind in kinds)
    assert not issubclass(nn.GroupNorm, compat.BatchNorm)


def test_the_fused_convolution_takes_the_types_that_it_is_said_to():
    x, weight = torch.randn(1, 4, 5, 5), torch.randn(3, 4, 1, 1)
    for dtype in compat.onednn_dtypes():
        y = compat.ONEDNN._convolution_pointwise(
            *(x.to(dtype), weight.to(dtype), None),
            *([0, 0], [1, 1], [1, 1], 1, 'gelu', [], 'none'),
        )
        expected = F.gelu(F.conv2d(x, weight))
        tolerance = 1e-5 if dtype == torch.float32 else 0.1
        assert torch.allclose(y.float(), expected, atol=tolerance, rtol=tolerance)


def test_compiled_for_the_answer():
    calls = []

    @compat.constant_when_compiled
    def answer():
        calls.append('called')
        return len(calls) == 1

    @torch.compile(backend='eager', fullgraph=True)
    def double(x):
        return x * 2 if answer() else x

    assert double(torch.ones(1)) == double(torch.ones(1)) == 2
    assert calls == ['called']


def test_limits_of_compiling_are_those_that_are_set():
    config = torch._dynamo.config
    before = config.recompile_limit, config.accumulated_recompile_limit
    compat.allow_many_compilations(123)
    assert (config.recompile_limit, config.accumulated_recompile_limit) == (123, 123)
    config.recompile_limit, config.accumulated_recompile_limit = before


def test_backbones_of_mmclassification_lose_their_prefix():
    checkpoint = {'state_dict': {'backbone.a': 1, 'head.b': 2}}
    assert compat.without_mmcls_prefix(checkpoint) == {'state_dict': {'a': 1}}


@pytest.mark.parametrize(
    ('indices', 'expected'),
    [(2, ([2, 3], 3)), ([0, -2], ([0, 2], 2)), (None, ([0, 1, 2, 3], 3))],
    ids=str,
)
def test_indices_of_maps_are_timms(indices, expected):
    assert compat.timm_feature_indices(4, indices) == expected


KEPT = """
import os
from pathlib import Path

import torch

from mmrecnext.compat import keep_memory


def resident():
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE')


kept = keep_memory()
tensor = torch.ones(2**27, dtype=torch.uint8)
held = resident()
del tensor
print(kept, 1 - (held - resident()) / 2**27)
"""
"""Tells whether memory is kept, and what share of a tensor's is when it is gone."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='of glibc')
@pytest.mark.parametrize('environment', [{}, {'MALLOC_ARENA_MAX': '1'}], ids=str)
def test_memory_is_kept_unless_the_environment_says_how(environment):
    """In a process of its own: this one's may hold free memory already."""
    others = {k: v for k, v in os.environ.items() if not k.startswith('MALLOC_')}
    told = subprocess.run(
        [sys.executable, '-c', KEPT],
        env=others | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, share = told.stdout.split()
    assert kept == str(not environment)
    assert float(share) < 0.1 if environment else float(share) > 0.9


def test_posterizing_to_no_bit_is_black():
    compat.let_timm_posterize_to_black()
    picture = Image.fromarray(np.full((4, 4, 3), 200, np.uint8))
    for name in ('Posterize', 'PosterizeOriginal', 'PosterizeIncreasing'):
        assert np.asarray(NAME_TO_OP[name](picture, 0)).max() == 0
        assert np.asarray(NAME_TO_OP[name](picture, 2)).max() == 192
