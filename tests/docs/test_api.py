"""The page of the public names, and the examples in docstrings."""

import doctest
import importlib.util
import sys

import pytest

from tests.helpers import ROOT

WITH_EXAMPLES = [
    '.'.join(file.relative_to(ROOT).with_suffix('').parts)
    for file in sorted((ROOT / 'mmrecnext').rglob('*.py'))
    if '    >>> ' in file.read_text()
]


@pytest.fixture
def make_api(tmp_path, monkeypatch):
    """The script, with a copy of the page to compare or to write."""
    spec = importlib.util.spec_from_file_location('make_api', ROOT / 'docs/make_api.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    copy = tmp_path / 'api.md'
    copy.write_bytes(module.PAGE.read_bytes())
    monkeypatch.setattr(module, 'PAGE', copy)
    return module


def test_the_page_is_that_of_the_docstrings(make_api, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['make_api.py', '--check'])
    make_api.main()
    make_api.PAGE.write_text(make_api.PAGE.read_text().replace('pixel', 'voxel'))
    with pytest.raises(SystemExit, match='is out of date: make api'):
        make_api.main()


@pytest.mark.parametrize('name', WITH_EXAMPLES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where examples write files
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
