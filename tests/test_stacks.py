"""Which distributions are asked for, in environments of names alone."""

import re
import subprocess
import sys
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mmrecnext import __main__ as report
from mmrecnext import stacks
from mmrecnext.engine.frameworks import FRAMEWORKS
from tests.helpers import ROOT

tomllib = pytest.importorskip('tomllib' if sys.version_info >= (3, 11) else 'tomli')

UPSTREAM = {part.upstream[0]: part.package for part in stacks.PARTS}
FORK = {stacks.distribution_of(part.fork): part.package for part in stacks.PARTS}
OTHERS = {
    stacks.distribution_of(requirement)
    for job in ('detection', 'segmentation')
    for requirement in report.NEEDS[job]
} - {*UPSTREAM}


LEAST = {
    stacks.distribution_of(requirement): re.findall(r'>=([\d.]+)', requirement)
    for requirement in (
        *(need for needs in report.NEEDS.values() for need in needs),
        *(part.fork for part in stacks.PARTS),
    )
}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Have these distributions installed and no others; of what names no package.

    Each is of the first version that is taken, or of the one that is given.
    """

    def install(packages, *others, **versions):
        for name, package in {**packages, **dict.fromkeys(others)}.items():
            module = name.replace('-', '_')
            least = LEAST.get(re.sub('-cu.*', '', name), [])  # of what is compiled
            number = versions.get(module, [*least, '2.0'][0])
            folder = tmp_path / f'{module}-{number}.dist-info'
            folder.mkdir(exist_ok=True)
            (folder / 'METADATA').write_text(f'Name: {name}\nVersion: {number}\n')
            (folder / 'top_level.txt').write_text(f'{package or name}\n')
        monkeypatch.setattr(sys, 'path', [str(tmp_path)])

    return install


@pytest.fixture
def told(capsys, monkeypatch):
    """Return the report as one text per job."""
    for name in (
        'device',
        'contents',
        'operators',
    ):  # which import what is really there
        monkeypatch.setattr(report, name, dict)

    def tell():
        report.main()
        text = capsys.readouterr().out
        jobs = re.split(r'^(\S.*): (?=ready|not)', text.split('\n\n')[1], flags=re.M)
        return text, dict(zip(jobs[1::2], jobs[2::2], strict=True))

    return tell


def but(packages, *left_out):
    return {name: x for name, x in packages.items() if name not in left_out}


@pytest.mark.parametrize('packages', [UPSTREAM, FORK], ids=['upstream', 'fork'])
def test_each_stack_is_ready(packages, installed, told):
    installed(packages, *OTHERS)
    text, jobs = told()
    assert jobs['detection'] == jobs['segmentation'] == 'ready\n'
    for name in ('mmengine', 'mmdet'):
        own = {v: k for k, v in packages.items()}[name]
        assert re.search(rf'^{own} +{re.escape(*LEAST[own])}$', text, re.M)
    assert "install 'onedl" not in text or packages is FORK


@pytest.mark.parametrize('part', stacks.PARTS[:4], ids=lambda part: part.package)
def test_what_is_missing_is_added_from_the_same_stack(part, installed, told):
    installed(but(FORK, stacks.distribution_of(part.fork)), *OTHERS)
    text, jobs = told()
    assert jobs['segmentation'].startswith('ready') == (part.package == 'mmdet')
    assert f"    pip install '{part.fork}'\n" in text
    for name in (*UPSTREAM, 'mmcv'):
        assert f"'{name}>" not in text


def test_upstream_is_added_where_nothing_is(installed, told):
    installed({})
    text, jobs = told()
    assert "pip install 'mmengine>=" in jobs['detection']
    assert "pip install 'mmcv-lite>=" in jobs['detection']
    assert "install 'onedl" not in text


def test_a_part_of_the_fork_alone_asks_for_its_others(installed, told):
    installed({'onedl-mmdetection': 'mmdet'}, *OTHERS)
    assert "pip install 'onedl-mmengine>=" in told()[1]['detection']


@pytest.mark.parametrize('name', ['mmcv', 'onedl-mmcv-cu128-torch2-8'])
def test_a_compiled_mmcv_is_one(name, installed, told):
    packages = UPSTREAM if name == 'mmcv' else FORK
    installed({**but(packages, 'mmcv-lite', 'onedl-mmcv'), name: 'mmcv'}, *OTHERS)
    assert told()[1]['detection'] == 'ready\n'


def test_one_stack_over_the_other_is_undone(installed, told):
    installed({**UPSTREAM, **FORK}, *OTHERS)
    text, jobs = told()
    lines = jobs['detection'].splitlines()
    removed = 'pip uninstall --yes mmdet onedl-mmdetection'
    at = next(i for i, line in enumerate(lines) if removed in line)
    assert "pip install 'onedl-mmdetection>=" in lines[at + 1]
    assert re.search(r'^mmdet +3\S+\nonedl-mmdetection +3\S+$', text, re.M)


def test_what_does_not_import_on_the_fork_is_told(installed, told):
    installed(FORK)
    yolo = told()[1]['detection by MMYOLO']
    assert yolo.startswith('not ready, as\n    it takes mmcv below 2.1: an environment')
    assert 'pip' not in yolo
    assert "'mmpose>=1.3.0'" in stacks.advice('--no-deps mmpose>=1.3.0')


def test_what_the_fork_alone_has_is_not_put_beside_upstream(installed, told):
    installed(but(UPSTREAM, 'mmrotate'), *OTHERS)
    text, jobs = told()
    rotated = jobs['detection of rotated objects']
    assert rotated.startswith('not ready, as\n    it takes an environment of its own')
    assert 'with onedl-mmrotate' in rotated
    assert len(rotated.splitlines()) == 2 and 'onedl-mmdetection' not in text


MMCV_OF_YOLO = "pip install 'mmcv-lite>=2.0.0,<2.1.0'"


@pytest.mark.parametrize(
    'name, number, steps',
    [
        ('mmcv-lite', '2.0.1', []),
        ('mmcv-lite', '2.1.0rc1', [MMCV_OF_YOLO]),
        ('mmcv', '2.1.0', ['pip uninstall --yes mmcv', MMCV_OF_YOLO]),
    ],
)
def test_a_version_that_a_job_does_not_take(name, number, steps, installed, told):
    packages = {**but(UPSTREAM, 'mmcv-lite'), name: 'mmcv', 'mmyolo': 'mmyolo'}
    installed(packages, 'albumentations', *OTHERS, **{name.replace('-', '_'): number})
    jobs = told()[1]
    assert jobs['detection'] == jobs['segmentation'] == 'ready\n'
    outcome, *lines = jobs['detection by MMYOLO'].splitlines()
    assert outcome == ('not ready; run' if steps else 'ready')
    assert [line.strip() for line in lines] == steps


@pytest.mark.parametrize('number, is_ready', [('3.5.9', True), ('3.6.0', False)])
def test_versions_of_the_fork_are_its_own(number, is_ready, installed, told):
    installed(FORK, *OTHERS, onedl_mmdetection=number)
    detection = told()[1]['detection']
    assert detection.startswith('ready') is is_ready
    assert ("pip install 'onedl-mmdetection>=3.5.1,<3.6'" in detection) is not is_ready
    assert 'uninstall' not in detection


def test_what_is_there_but_belongs_to_the_other_stack_is_not_ready(installed, told):
    installed({**FORK, 'mmyolo': 'mmyolo'}, 'albumentations', *OTHERS)
    assert told()[1]['detection by MMYOLO'].startswith('not ready, as\n    it takes')


def test_versions_are_not_looked_at_without_packaging(installed, told, monkeypatch):
    monkeypatch.setitem(sys.modules, 'packaging.requirements', None)
    installed(UPSTREAM, *{*OTHERS} - {'packaging'}, mmdet='2.0')
    detection = told()[1]['detection']
    assert detection == 'not ready; run\n    pip install packaging\n'


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_a_framework_is_told_by_the_stack_that_is_there(scope, installed):
    installed({'onedl-mmengine': 'mmengine'})
    assert FRAMEWORKS[scope].advice.startswith("pip install 'onedl-mm")


def test_mmengine_learns_what_the_fork_calls_them(installed, monkeypatch):
    from mmengine.config import utils

    names = {'mmseg': 'mmsegmentation', 'mmdet': 'mmdet', 'mmpose': 'mmpose'}
    monkeypatch.setattr(utils, 'MODULE2PACKAGE', dict(names))
    installed({'mmengine': 'mmengine'})
    stacks.teach_mmengine()
    assert names == utils.MODULE2PACKAGE
    installed({'onedl-mmengine': 'mmengine', 'mmdet': 'mmdet'})
    stacks.teach_mmengine()
    assert names | {'mmseg': 'onedl-mmsegmentation'} == utils.MODULE2PACKAGE


def test_what_cannot_be_imported_says_so():
    command = [sys.executable, '-S', '-c', 'from mmrecnext import RecNeXt']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert re.match(r"ImportError: No module named '\w+'; `python -m mmrecnext`", last)


def test_extras_do_not_mix_stacks():
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    extras = project['optional-dependencies']
    both = {*UPSTREAM, *FORK, 'mmcv'}

    def of_stacks(requirements):
        names = {Requirement(x).name for x in requirements}
        for x in map(Requirement, requirements):
            if x.name == 'mmrecnext':
                names |= {y for extra in x.extras for y in of_stacks(extras[extra])}
        return names & both

    assert not of_stacks(project['dependencies'])
    for extra, requirements in extras.items():
        of_fork = extra in ('onedl', 'rotate')
        assert of_stacks(requirements) <= set(FORK if of_fork else UPSTREAM), extra
    forks = {part.fork for part in stacks.PARTS}
    assert {*extras['onedl']} <= forks


def test_pins_are_in_the_ranges():
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    ranges = {}
    for requirements in project['optional-dependencies'].values():
        for x in map(Requirement, requirements):
            ranges[canonicalize_name(x.name)] = x.specifier
    found = set()
    for file in (ROOT / 'requirements').glob('*.txt'):
        for name, pin in re.findall(r'^([\w-]+)==([\w.]+)', file.read_text(), re.M):
            if name in {*UPSTREAM, *FORK}:
                found.add(name)
                assert pin in ranges[canonicalize_name(name)], name
    assert {'mmengine', 'mmcv-lite', 'onedl-mmengine', 'onedl-mmcv'} <= found


def test_the_tests_run_with_a_stack_that_is_named():
    name = 'onedl-mmengine' if stacks.has_fork() else 'mmengine'
    requirement = Requirement(stacks.here('mmengine>=0.10.5,<0.11'))
    assert requirement.name == name and version(name) in requirement.specifier
