import subprocess
import sys

import pytest

from tests.helpers import SERVER

pytestmark = pytest.mark.slow

BUILD = """
from {framework}.registry import MODELS
model = MODELS.build(dict(type='{type}', arch='m0', out_indices=(0, 1)))
print(type(model).__module__, model.out_channels)
"""


def python(code):
    """Run code in a Python that has imported nothing."""
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)


@pytest.fixture
def forked(tmp_path):
    """Run code in a Python that has imported PyTorch and MMEngine."""

    def forked(code):
        (tmp_path / 'code.py').write_text(code)
        return SERVER.run(['code.py'], tmp_path)

    return forked


@pytest.mark.parametrize(
    ('framework', 'absent'), [('mmdet', ['mmseg']), ('mmseg', ['mmdet'])]
)
def test_scoped_type_needs_no_import_nor_another_framework(framework, absent, forked):
    code = f'import sys; sys.modules.update(dict.fromkeys({absent}))' + BUILD.format(
        framework=framework, type='mmrecnext.RecNeXt'
    )
    result = forked(code)
    assert result.stdout.endswith('mmrecnext.models.recnext (40, 80)\n'), result.stderr


def test_scoped_type_needs_no_framework():
    code = "import sys; sys.modules.update(dict.fromkeys(['mmdet', 'mmseg']))"
    result = python(code + BUILD.format(framework='mmengine', type='mmrecnext.RecNeXt'))
    assert result.stdout.endswith('mmrecnext.models.recnext (40, 80)\n'), result.stderr


def test_bare_type_after_import(forked):
    frameworks = ('mmengine', 'mmdet', 'mmseg')
    builds = (BUILD.format(framework=x, type='RecNeXt') for x in frameworks)
    result = forked('import mmrecnext' + ''.join(builds))
    built = ['mmrecnext.models.recnext (40, 80)'] * len(frameworks)
    assert result.stdout.splitlines()[-len(built) :] == built, result.stderr


def test_import_brings_no_framework_and_the_backbone_when_asked_for():
    result = python(
        'import sys, mmrecnext\n'
        'print({"mmdet", "mmseg", "timm", "mmcv", "torchvision"} & {*sys.modules})\n'
        'print(mmrecnext.RecNeXt is mmrecnext.models.RecNeXt)\n'
        'print(hasattr(mmrecnext, "RecNext"))'
    )
    told = result.stdout.splitlines()[-3:]
    assert told == ['set()', 'True', 'False'], result.stdout + result.stderr


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


@pytest.mark.parametrize('framework', ['mmdet', 'mmseg'])
def test_builds_in_the_default_scope_of_a_config(framework, forked):
    code = (
        f"from mmengine.registry import init_default_scope as s; s('{framework}')"
        + BUILD.format(framework=framework, type='mmrecnext.RecNeXt')
    )
    result = forked(code)
    assert result.returncode == 0, result.stderr
