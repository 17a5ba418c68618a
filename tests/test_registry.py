import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

BUILD = """
from {framework}.registry import MODELS
model = MODELS.build(dict(type='{type}', arch='m0', out_indices=(0, 1)))
print(type(model).__module__, model.out_channels)
"""


def python(code, cwd=None):
    return subprocess.run(
        [sys.executable, '-c', code], cwd=cwd, capture_output=True, text=True
    )


@pytest.mark.parametrize('framework', ['mmdet', 'mmseg', 'mmengine'])
def test_scoped_type_needs_no_import(framework, tmp_path):
    code = BUILD.format(framework=framework, type='mmrecnext.RecNeXt')
    result = python(code, cwd=tmp_path)
    assert result.stdout.endswith('mmrecnext.models.recnext (40, 80)\n'), result.stderr


@pytest.mark.parametrize('framework', ['mmdet', 'mmseg', 'mmengine'])
def test_bare_type_after_import(framework, tmp_path):
    code = 'import mmrecnext' + BUILD.format(framework=framework, type='RecNeXt')
    result = python(code, cwd=tmp_path)
    assert result.stdout.endswith('mmrecnext.models.recnext (40, 80)\n'), result.stderr


def test_import_brings_no_framework():
    result = python(
        'import sys, mmrecnext\n'
        'print(*({"mmdet", "mmseg", "timm", "mmcv", "torchvision"} & {*sys.modules}))'
    )
    assert result.stdout.splitlines()[-1:] in ([], ['']), result.stdout


def test_backbone_comes_when_asked_for():
    result = python(
        'import mmrecnext\n'
        'print(mmrecnext.RecNeXt is mmrecnext.models.RecNeXt)\n'
        'print(hasattr(mmrecnext, "RecNext"))'
    )
    assert result.stdout.splitlines()[-2:] == ['True', 'False'], result.stderr


@pytest.mark.parametrize('first', ['mmrecnext', 'mmengine.runner'])
def test_checkpoints_are_read_safely_in_either_order(first):
    result = python(
        f'import {first}\nimport mmrecnext\n'
        'from mmengine.runner import CheckpointLoader as loader\n'
        'print(*(loader._get_checkpoint_loader(f).__module__ for f in '
        '("a.pth", "https://b/c.pth")))'
    )
    assert result.stdout.split()[-2:] == ['mmrecnext.checkpoint.sources'] * 2, (
        result.stderr
    )


@pytest.mark.parametrize(
    ('absent', 'framework'), [('mmdet', 'mmseg'), ('mmseg', 'mmdet')]
)
def test_one_framework_does_without_the_other(absent, framework):
    code = f'import sys; sys.modules[{absent!r}] = None' + BUILD.format(
        framework=framework, type='mmrecnext.RecNeXt'
    )
    result = python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('framework', ['mmdet', 'mmseg'])
def test_builds_in_the_default_scope_of_a_config(framework):
    code = (
        f"from mmengine.registry import init_default_scope as s; s('{framework}')"
        + BUILD.format(framework=framework, type='mmrecnext.RecNeXt')
    )
    result = python(code)
    assert result.returncode == 0, result.stderr
