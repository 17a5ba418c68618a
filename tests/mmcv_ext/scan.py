#!/usr/bin/env python
"""Find which of mmcv's compiled operators the frameworks' own configs can ask for.

Nothing of a framework is imported: names are followed through its source, from those
that stand in a config and its bases to where mmcv calls its compiled module. What a
config overrides counts as well, so a config may ask for less than is found.

``python -m tests.mmcv_ext.scan [PACKAGE ...]``, folders of packages, prints a table in
Markdown; by default of those that are installed. ``--missing`` lists the configs that
ask for more than mmrecnext has.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmrecnext_autoload.arguments import begin, command_line


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(
        __doc__.partition('\n')[0], 'python -m tests.mmcv_ext.scan --missing'
    )
    parser.add_argument('packages', nargs='*', type=Path, help='their folders')
    parser.add_argument('--missing', action='store_true', help='list configs')
    return parser.parse_args()


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

from mmrecnext.cli import run
from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.mmcv_ext import OPERATORS

MODULE = 'ext_module'
"""What mmcv calls its compiled module."""


class Place(NamedTuple):
    """A name at the top of a module."""

    module: str
    name: str


class Source:
    """What a module defines, imports and registers.

    Args:
        name: dotted.
        file: of it.
    """

    def __init__(self, name: str, file: Path):
        self.name = name
        self.imports: dict[str, Place] = {}
        self.uses: dict[str, set[str]] = defaultdict(set)
        self.texts: dict[str, set[str]] = defaultdict(set)
        self.operators: dict[str, set[str]] = defaultdict(set)
        self.registered: dict[str, str] = {}
        tree = ast.parse(file.read_text())
        package = name if file.name == '__init__.py' else name.rpartition('.')[0]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                self._add_import(node, package)
        for node in tree.body:
            for defined in names_of(node):
                self._add_definition(defined, node)

    def _add_import(self, node: ast.ImportFrom, package: str):
        parts = package.split('.')
        above = parts[: len(parts) + 1 - node.level] if node.level else []
        origin = '.'.join([*above, *filter(None, [node.module])])
        for alias in node.names:
            self.imports[alias.asname or alias.name] = Place(origin, alias.name)

    def _add_definition(self, defined: str, definition: ast.stmt):
        for decorator in getattr(definition, 'decorator_list', ()):
            if 'register_module' in ast.dump(decorator):
                given = [text for text in texts_in(decorator) if text]
                self.registered.update(dict.fromkeys(given or [defined], defined))
        for node in without_types(definition):
            if isinstance(node, ast.Name):
                self.uses[defined].add(node.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.texts[defined].add(node.value)
            elif isinstance(node, ast.Attribute) and calls_compiled(node):
                self.operators[defined].add(node.attr)


@cache
def source_of(name: str, file: Path) -> Source:
    """Return the source of a module, read once."""
    return Source(name, file)


def calls_compiled(node: ast.Attribute) -> bool:
    """Tell whether a name is one of mmcv's compiled module."""
    return isinstance(node.value, ast.Name) and node.value.id == MODULE


def names_of(node: ast.stmt) -> list[str]:
    """Return the names that a statement at the top of a module defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def texts_in(node: ast.AST) -> list[str]:
    """Return the texts in an expression."""
    constants = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return [value for value in constants if isinstance(value, str)]


def without_types(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all below it, but for annotations and decorators."""
    waiting = [node]
    while waiting:
        yield (node := waiting.pop())
        for field, value in ast.iter_fields(node):
            if field not in ('annotation', 'returns', 'decorator_list', 'ctx'):
                children = value if isinstance(value, list) else [value]
                waiting += [child for child in children if isinstance(child, ast.AST)]


class Sources:
    """The source of packages.

    Args:
        packages: their folders.
    """

    def __init__(self, packages: Iterable[Path]):
        self.modules: dict[str, Source] = {}
        self.registry: dict[str, list[Place]] = defaultdict(list)
        for package in packages:
            for file in package.rglob('*.py'):
                if '.mim' in file.parts:
                    continue
                parts = file.relative_to(package.parent).with_suffix('').parts
                name = '.'.join(parts).removesuffix('.__init__')
                source = self.modules[name] = source_of(name, file)
                for registered, defined in source.registered.items():
                    self.registry[registered].append(Place(name, defined))
        for name in self.modules['mmcv.ops'].imports:
            self.registry[name].append(Place('mmcv.ops', name))
        self.layers = {
            name
            for name, places in self.registry.items()
            if any(place.module.startswith('mmcv.ops') for place in places)
        }

    @cache  # noqa: B019  there is one object per run
    def next_of(self, place: Place) -> tuple[Place, ...]:
        """Return what a name stands for or uses."""
        source = self.modules.get(place.module)
        if source is None:
            return ()
        if place.name not in source.uses:
            return tuple(filter(None, [source.imports.get(place.name)]))
        used = source.uses[place.name]
        own = [Place(place.module, name) for name in used if name in source.uses]
        others = [source.imports[name] for name in used if name in source.imports]
        layers = source.texts[place.name] & self.layers
        named = [found for text in layers for found in self.registry[text]]
        return (*own, *others, *named)

    @cache  # noqa: B019
    def operators_of(self, text: str) -> frozenset[str]:
        """Return the operators that a name in a config can lead to."""
        places = list(self.registry.get(text.rpartition('.')[2], ()))
        seen, found = set(places), set()
        while places:
            place = places.pop()
            if source := self.modules.get(place.module):
                found |= source.operators[place.name]
            ahead = set(self.next_of(place)) - seen
            seen |= ahead
            places += ahead
        return frozenset(found)


@cache
def texts_of(file: Path) -> frozenset[str]:
    """Return the texts in a config and its bases."""
    tree = ast.parse(file.read_text())
    found = set(texts_in(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            found |= {alias.name for alias in node.names}
    for node in tree.body:
        if '_base_' in names_of(node):
            bases = (file.parent / text for text in texts_in(node) if '::' not in text)
            for base in filter(Path.is_file, bases):
                found |= texts_of(base.resolve())
    return frozenset(found)


def scan(package: Path, others: Iterable[Path]) -> dict[str, set[str]]:
    """Return the names of the configs that can ask for each operator.

    Args:
        package: folder of the framework, with its configs.
        others: folders of packages that it is built on.
    """
    sources = Sources([package, *others])
    folder = package / '.mim/configs'
    found = defaultdict(set)
    for file in sorted(folder.rglob('*.py')):
        if '_base_' in file.parts:
            continue
        for text in texts_of(file.resolve()):
            for operator in sources.operators_of(text):
                found[operator].add(file.relative_to(folder).as_posix())
    return found


def table(found: dict[str, dict[str, set[str]]]) -> str:
    """Return how many configs of each framework ask for each operator."""
    by_name = defaultdict(lambda: defaultdict(set))
    for scope, operators in found.items():
        for operator, configs in operators.items():
            name = re.sub('_(for|back)ward.*', '', operator)
            by_name[(operator in OPERATORS, name)][scope] |= configs
    lines = [
        '| operator | by | ' + ' | '.join(found) + ' |',
        '|---|---|' + '---|' * len(found),
    ]
    for (ours, name), scopes in sorted(
        by_name.items(), key=lambda item: (not item[0][0], item[0][1])
    ):
        counts = (str(len(scopes[scope]) or '') for scope in found)
        by = 'mmrecnext' if ours else 'mmcv alone'
        lines.append(f'| `{name}` | {by} | ' + ' | '.join(counts) + ' |')
    return '\n'.join(lines)


def folder_of(package: str) -> Path | None:
    """Return the folder of a package, if it is installed."""
    found = find_spec(package)
    return Path(found.origin).parent if found and found.origin else None


def main(args: argparse.Namespace):
    """Scan, and print a table."""
    packages = args.packages or list(filter(None, map(folder_of, FRAMEWORKS)))
    base = list(filter(None, map(folder_of, ('mmcv', 'mmdet'))))
    found = {
        package.name: scan(package, [b for b in base if b.name != package.name])
        for package in packages
    }
    print(table(found))
    for scope, operators in found.items() if args.missing else ():
        for operator in sorted(operators.keys() - OPERATORS):
            print(f'\n{scope} {operator}:', *sorted(operators[operator]))


if __name__ == '__main__':
    run(main, args)
