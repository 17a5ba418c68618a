"""The order of the rooms, read from imports; tools stay thin, tests stay apart.

``python -m tests.test_architecture [CHECKOUT] [FORMER=ROOM ...]`` prints the figures of
a checkout. A room that has no place in ``LEVELS`` counts as ``engine``, unless a pair
says where what it held stands today.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = 'mmrecnext'

LEVELS = (
    ('tools',),
    ('mmrecnext', '__main__'),
    ('cli', 'launch'),
    ('swap', 'export', 'benchmark', 'classification', 'report', 'visualize'),
    ('engine',),
    ('checkpoint',),
    ('models',),
    ('ops', 'archs', 'pretrained'),
    ('plots',),
    ('mmcv_ext', 'files', 'registry', 'errors', 'compat', 'version'),
    ('stacks',),
)
"""The rooms from the top. An import leads from a level to a lower one."""

SIDEWAYS = {
    ('__main__', 'mmrecnext'),
    ('benchmark', 'export'),
}
"""Rooms that use another one of their level."""

PARSING = {'parse_args', 'build_parser', 'add_ways'}
TOOLS = {
    'benchmark': 'compare compare_with beside_published beside_ablations '
    'beside_operators grow combine check check_files show save',
    'convert_checkpoint': 'check_fits',
    'eval_imagenet': 'preparation read_model read_folder evaluate',
    'export': 'read_size choose read_calibration cost',
    'get_flops': '',
    'infer': 'read_config config_with find_boxes describe_failure expand name_outputs',
    'model_zoo': 'image_size read list_configs entry label summary document published '
    'backbone metrics coco_metrics miou peer_metrics sizes training config_rows wrap '
    'replace_section',
    'publish': 'publish',
    'swap_backbone': 'resuming compare show brief',
    'test': 'set_model ways closing',
    'train': '',
    'visualize': 'predictor_of show_maps show_cam show_fields with_weights show_curves',
}
"""What each tool defines beyond ``PARSING`` and ``main``."""

DRAWING = ('make_shapes_data', 'make_stick_figures_data')
"""The tools that are programs of their own: they draw pictures, and use no network."""

LONGEST_OF_TOOLS = 30  # lines of a function that does not parse


def modules(root: Path) -> dict[str, Path]:
    """Find the modules of a checkout, ``tools.train`` among them, by dotted name."""
    files = [*root.glob(f'{PACKAGE}/**/*.py'), *root.glob('tools/*.py')]
    dotted = {'.'.join(f.relative_to(root).with_suffix('').parts): f for f in files}
    return {name.removesuffix('.__init__'): file for name, file in dotted.items()}


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the dotted names that a module in ``package`` imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split('.')
            above = parts[: len(parts) + 1 - node.level] if node.level else []
            origin = '.'.join([*above, *filter(None, [node.module])])
            yield from (f'{origin}.{alias.name}' for alias in node.names)


def arrows(files: dict[str, Path]) -> set[tuple[str, str]]:
    """Return which module imports which, both by name."""
    found = set()
    for name, file in files.items():
        package = name if file.stem == '__init__' else name.rpartition('.')[0]
        for used in imported(ast.parse(file.read_text()), package):
            while used and used not in files:  # a name of a module, or another library
                used = used.rpartition('.')[0]
            if used not in ('', name):
                found.add((name, used))
    return found


def room(name: str) -> str:
    """Return the room of a module: the part of its name below the package."""
    first, _, rest = name.partition('.')
    return rest.partition('.')[0] if first == PACKAGE and rest else first


def circles(pairs: Iterable[tuple[str, str]]) -> list[set[str]]:
    """Return the groups of names that lead from each to each other."""
    nexts: dict[str, set[str]] = {}
    for name, used in pairs:
        nexts.setdefault(name, set()).add(used)

    def reach(start: str) -> set[str]:
        seen, ahead = set(), [start]
        while ahead:
            new = nexts.get(ahead.pop(), set()) - seen
            seen |= new
            ahead += new
        return seen

    reached = {name: reach(name) for name in nexts}
    groups = {
        frozenset(x for x in reached[name] if name in reached.get(x, ()))
        for name in nexts
    }
    return [set(group) for group in groups if group]


def between_rooms(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return which room uses which other one."""
    rooms = {(room(name), room(used)) for name, used in found}
    return {(name, used) for name, used in rooms if name != used}


def leads_up(name: str, used: str, moved: dict[str, str] | None = None) -> bool:
    """Tell whether a room uses one that is not below it."""
    depth = {each: i for i, level in enumerate(LEVELS) for each in level}
    name, used = ((moved or {}).get(each, each) for each in (name, used))
    if name == used or (name, used) in SIDEWAYS:
        return False
    above, below = (depth.get(each, depth['engine']) for each in (name, used))
    both_unplaced = name not in depth and used not in depth
    return above >= below and not (above == below and both_unplaced)


FILES = modules(ROOT)
ARROWS = arrows(FILES)


def path(name: str) -> str:
    return str(FILES[name].relative_to(ROOT))


def test_every_room_has_a_level():
    placed = {name for level in LEVELS for name in level}
    assert {room(name) for name in FILES} <= placed


def test_imports_lead_down():
    up = [
        f'{path(name)} imports {path(used)}'
        for name, used in sorted(ARROWS)
        if room(name) != room(used) and leads_up(room(name), room(used))
    ]
    assert not up, '\n'.join(up)


def test_no_modules_import_each_other():
    found = [' <-> '.join(sorted(map(path, group))) for group in circles(ARROWS)]
    assert not found, '\n'.join(found)


def test_what_is_allowed_is_used():
    assert between_rooms(ARROWS) >= SIDEWAYS


def test_the_order_is_seen(tmp_path):
    """A circle and an arrow up are found where there are some, in any way to import."""
    for name, text in {
        'ops/__init__': '',
        'ops/one': 'def f():\n    from . import two',
        'ops/two': 'if TYPE_CHECKING:\n    from mmrecnext.ops.one import f',
        'models': 'import mmrecnext.ops.one as one, torch',
        'archs': 'from .models import RecNeXt',
    }.items():
        file = tmp_path / PACKAGE / f'{name}.py'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = arrows(modules(tmp_path))
    assert circles(found) == [{'mmrecnext.ops.one', 'mmrecnext.ops.two'}]
    rooms = between_rooms(found)
    assert rooms == {('models', 'ops'), ('archs', 'models')}
    assert [pair for pair in rooms if leads_up(*pair)] == [('archs', 'models')]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node


def length(function: ast.FunctionDef) -> int:
    return function.end_lineno - function.lineno + 1


def test_tools_are_thin():
    tools = {file.stem: ast.parse(file.read_text()) for file in ROOT.glob('tools/*.py')}
    assert tools.keys() == {*TOOLS, *DRAWING}
    for tool, tree in tools.items():
        known = {'main', *PARSING, *TOOLS.get(tool, '').split()}
        defined = {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        if tool in DRAWING:
            continue
        assert defined - PARSING == known - PARSING, tool
        long = [
            f'{tool}.{function.name}: {length(function)} lines'
            for function in functions(tree)
            if function.name not in (PARSING | {'main'})
            and length(function) > LONGEST_OF_TOOLS
        ]
        assert not long, long


def test_tests_import_no_tests():
    for file in ROOT.glob('tests/**/*.py'):
        package = '.'.join(file.relative_to(ROOT).parent.parts)
        for used in imported(ast.parse(file.read_text()), package):
            parts = used.split('.')
            borrowed = parts[0] == 'tests' and any(x.startswith('test_') for x in parts)
            assert not borrowed, f'{file.relative_to(ROOT)} imports {used}'


def figures(root: Path, moved: dict[str, str]) -> Iterator[str]:
    """Yield lines that tell how large and how orderly a checkout is."""
    for folder in (PACKAGE, 'tools', 'tests'):
        texts = [file.read_text() for file in root.glob(f'{folder}/**/*.py')]
        yield f'lines of {folder}: {sum(text.count(chr(10)) for text in texts)}'
    files = modules(root)
    found = arrows(files)
    rooms = between_rooms(found)
    up = sorted(pair for pair in rooms if leads_up(*pair, moved))
    yield f'rooms: {len({room(name) for name in files} - {"tools", PACKAGE})}'
    yield f'arrows between rooms: {len(rooms)}'
    for kind, pairs in (('rooms', rooms), ('modules', found)):
        groups = [' <-> '.join(sorted(group)) for group in circles(pairs)]
        yield f'circles of {kind}: {len(groups)} {sorted(groups) or ""}'
    yield f'arrows up: {len(up)} {[" -> ".join(pair) for pair in up] or ""}'
    longest, where = max(
        (length(function), f'{name}.{function.name}')
        for name, file in files.items()
        for function in functions(ast.parse(file.read_text()))
    )
    yield f'longest function: {longest} lines, {where}'
    blocks = ast.parse(files[f'{PACKAGE}.models.blocks'].read_text())
    block = next(x for x in blocks.body if getattr(x, 'name', '') == 'Block')
    forward = next(x for x in functions(block) if x.name == 'forward')
    statements = [
        node
        for node in ast.walk(forward)
        if isinstance(node, ast.stmt)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    yield f'statements in Block.forward: {len(statements) - 1}'  # but `def` itself


if __name__ == '__main__':
    checkout, *pairs = sys.argv[1:] or [str(ROOT)]
    print(*figures(Path(checkout), dict(p.split('=') for p in pairs)), sep='\n')
