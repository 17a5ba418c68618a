"""What README and docs say outside of their blocks: tables, links and names."""

import inspect
import re
from pkgutil import resolve_name

import mmdet.evaluation  # noqa: F401
import pytest
from mmdet.registry import (
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
)
from mmengine.runner import Runner

from mmrecnext import ARCHS, RecNeXt
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.optim import layers_of
from mmrecnext.registry import MODELS as OWN
from tests.docs.doc_blocks import PAGES
from tests.helpers import ROOT

README = (ROOT / 'README.md').read_text()
PUBLISHED = ['mask_rcnn_recnext_m3_coco', 'sem_fpn_recnext_m3_ade20k']
# Inline code, per page.
NAMES = [
    (page, name)
    for page in PAGES
    for name in sorted(set(re.findall(r'(?<!`)`([^`\n]+)`(?!`)', page.read_text())))
]


def named(pattern):
    """Parametrize by the inline code that matches."""
    found = [(page, name) for page, name in NAMES if re.fullmatch(pattern, name)]
    ids = [f'{page.name}-{name}' for page, name in found]
    return pytest.mark.parametrize(('page', 'name'), found, ids=ids)


@pytest.mark.slow
def test_table_of_models():
    rows = re.findall(r'\| `(\w+)` \| ([\d ]+) \| ([\d ]+) \| ([\d.]+) \|', README)
    assert [row[0] for row in rows] == list(ARCHS)
    for arch, channels, blocks, size in rows:
        assert tuple(map(int, channels.split())) == ARCHS[arch].dims
        assert tuple(map(int, blocks.split())) == ARCHS[arch].depths
        millions = sum(p.numel() for p in RecNeXt(arch).parameters()) / 1e6
        assert f'{millions:.2f}' == size


@pytest.mark.parametrize(
    'page',
    [*PAGES, ROOT / 'CONTRIBUTING.md', ROOT / 'CHANGELOG.md'],
    ids=lambda page: page.name,
)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r'^ {4}.*', '', page.read_text(), flags=re.M)  # formulas are none
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if '://' in target:
            continue
        path, _, anchor = target.partition('#')
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r'^#+ (.*)', file.read_text(), re.M)
            slugs = [re.sub(r'[^\w -]', '', h.lower()) for h in headings]
            assert anchor in [slug.replace(' ', '-') for slug in slugs], target


@named(r'(configs|docs|mmrecnext|tests|tools|requirements)/[\w/.-]+')
def test_paths_exist(page, name):
    assert (ROOT / name).exists()


@named(r'\w+\.py')
def test_scripts_exist(page, name):
    known = [*ROOT.rglob(f'configs/**/{name}'), *ROOT.glob(f'tools/{name}')]
    assert known or f'# {name}\n' in page.read_text()


@named(r'mmrecnext(\.\w+)+(\(.*\))?')
def test_python_names_resolve(page, name):
    if name.removeprefix('mmrecnext.') not in OWN.module_dict:  # for configs
        assert resolve_name(name.partition('(')[0])


@named(r'make [a-z-]+')
def test_targets_of_make_exist(page, name):
    target = name.split()[1]
    assert f'\n{target}: ' in (ROOT / 'Makefile').read_text()


@named(r'--[a-z-]+')
def test_flags_of_tools_exist(page, name):
    if name in ('--help', '--show', '--wait-time'):
        return  # argparse's own, and those that are said to be missing
    sources = [*ROOT.glob('tools/*.py'), *ROOT.glob('mmrecnext*/**/*.py')]
    assert any(f"'{name}'" in source.read_text() for source in sources)


def test_tree_of_the_readme():
    tree = README[README.index('## Find your way') :]
    for line in re.findall(r'```text\n(.*?)```', tree, re.S)[0].splitlines():
        for path in re.split(r'  +', line)[0].replace(',', '').split():
            assert [*ROOT.glob(path), *ROOT.glob(f'mmrecnext/{path}')], path


def test_table_of_decayed_rates():
    page = (ROOT / 'docs/training.md').read_text()
    rows = re.findall(
        r'\| `(\w+)` \| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|', page
    )
    assert rows
    for arch, layers, *rates in rows:
        backbone = RecNeXt(arch)
        counted = len([*layers_of(backbone, by_stage=False)])
        stages = len([*layers_of(backbone, by_stage=True)])
        assert int(layers) == counted
        expected = [0.9**counted, 0.95**counted, 0.7**stages]
        assert rates == [f'{rate:.3f}' for rate in expected]


def settings_to_migrate_to():
    """List the pieces of config in the right column of the tables of migration."""
    page = (ROOT / 'docs/migrate.md').read_text()
    cells = re.findall(r'^\|.*\| (.*) \|$', page, re.M)
    return [name for cell in cells for name in re.findall(r'`(\w+=[^`]+)`', cell)]


@pytest.fixture(scope='module')
def published():
    return [load_config(f'{name}.py') for name in PUBLISHED]


@pytest.mark.parametrize('setting', settings_to_migrate_to())
def test_settings_to_migrate_to_exist(setting, published):
    new = eval(f'dict({setting})')
    misfits = [[*unknown(new, cfg, Runner)] for cfg in published]
    assert [] in misfits, misfits


def unknown(new, old, owner):
    """Yield the keys of settings that neither a config has nor ``owner`` takes."""
    owner = find_type(new.get('type')) or find_type(old.get('type')) or owner
    for key, value in new.items() if owner or old else ():
        if key not in {'type', *old, *options(owner)}:
            yield key
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                known = old.get(key) if isinstance(old.get(key), dict) else {}
                yield from unknown(each, known, None)


def find_type(name):
    """Look up what a config builds by ``type``."""
    kinds = (MODELS, METRICS, LOOPS, OPTIM_WRAPPERS, OPTIMIZERS, PARAM_SCHEDULERS)
    if name is None:
        return None
    found = [
        kind.module_dict.get(name) or kind.parent.module_dict.get(name)
        for kind in kinds
    ]
    if name.startswith('mmrecnext.'):
        found.append(MODELS.get(name))
    return next(filter(None, found), None)


def options(owner):
    """Return the names of all options of a class, inherited ones included."""
    return {
        name
        for base in getattr(owner, '__mro__', ())
        for name in inspect.signature(base.__init__).parameters
    }
