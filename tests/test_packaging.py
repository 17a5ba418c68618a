import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mmrecnext.engine.frameworks import FRAMEWORKS, distribution_of
from tests.helpers import ROOT, run_tool

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """A wheel of the project, built from a copy so that the tree stays clean."""
    copy = tmp_path_factory.mktemp('source') / 'mmrecnext'
    ignore = shutil.ignore_patterns('.*', 'build', 'work_dirs', '*.egg-info')
    for name in ('mmrecnext', 'mmrecnext_autoload', 'configs', 'tools'):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for file in filter(Path.is_file, ROOT.iterdir()):
        shutil.copy(file, copy)
    out = tmp_path_factory.mktemp('wheel')
    pip = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation']
    result = subprocess.run(
        [*pip, '--quiet', '--wheel-dir', out, copy], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return next(out.glob('*.whl'))


def test_wheel_ships_configs_and_tools(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ('configs', 'tools'):
        for file in (ROOT / folder).rglob('*.*'):
            if '__pycache__' not in file.parts:
                assert f'mmrecnext/.mim/{file.relative_to(ROOT)}' in names
    index = zipfile.ZipFile(wheel).read('mmrecnext/.mim/model-index.yml').decode()
    for metafile in re.findall(r'- (\S+)', index):
        assert f'mmrecnext/.mim/{metafile}' in names
    assert 'mmrecnext_autoload/arguments.py' in names
    assert 'mmrecnext/py.typed' in names
    assert not any(name.startswith(('tests/', 'configs/')) for name in names)


def test_versions_agree(wheel):
    cited = re.search(r'^version: (.*)', (ROOT / 'CITATION.cff').read_text(), re.M)
    assert wheel.name.split('-')[1] == cited[1]


def test_installed_package_finds_them(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    environment = {'PYTHONPATH': str(tmp_path), 'COLUMNS': '200'}
    report = run_tool('-m', 'mmrecnext', cwd=tmp_path, **environment)
    assert str(tmp_path / 'mmrecnext/.mim/configs') in report.stdout, report.stderr

    train = str(tmp_path / 'mmrecnext/.mim/tools/train.py')
    result = run_tool(
        train, 'mask_rcnn_recnext_m3_coco.py', cwd=tmp_path, **environment
    )
    assert 'data/coco/annotations/instances_train2017.json is missing' in result.stderr


def test_extras_ask_for_what_the_table_of_frameworks_does():
    text = (ROOT / 'pyproject.toml').read_text()
    for framework in FRAMEWORKS.values():
        wanted = {distribution_of(r): r.split() for r in framework.requirements}
        extra = re.search(rf'^{framework.extra} = \[(.*?)\]$', text, re.M | re.S)[1]
        asked = {distribution_of(r): r for r in re.findall(r'"([^"]+)"', extra)}
        for name in wanted.keys() & asked.keys():
            assert asked[name] == wanted[name][-1], framework.scope
        for name in wanted.keys() - asked.keys():  # by pip's own options alone, or base
            by_options = len(wanted[name]) > 1
            has_base = re.search(r'mmrecnext\[(det|onedl)\]', extra)
            assert by_options or has_base, (framework.scope, name)
