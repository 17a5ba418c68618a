"""Configs of plain Python: ``with read_base()``, and classes in the place of names."""

from __future__ import annotations

import ast
import inspect
import os
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from keyword import iskeyword
from pathlib import Path
from textwrap import fill
from typing import Any

from mmengine.utils import get_object_from_string

from mmrecnext.engine.configs import configs_of, is_found
from mmrecnext.engine.frameworks import FRAMEWORKS

WIDTH = 88


def is_plain_python(file: Path) -> bool:
    """Tell a config that MMEngine reads as plain Python.

    Such a one has ``with read_base()``, or imports more than Python's own modules.
    """
    if file.suffix != '.py':
        return False
    for statement in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(statement, ast.Assign):
            target = statement.targets[0]
            if isinstance(target, ast.Name) and target.id == '_base_':
                return False
        elif isinstance(statement, ast.With) or any(
            map(_is_foreign, imported(statement))
        ):
            return True
    return False


def imported(statement: ast.AST) -> list[str]:
    """Return the modules that a statement imports from; relative ones as a dot."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if isinstance(statement, ast.ImportFrom):
        return ['.' if statement.level else statement.module or '']
    return []


def _is_foreign(module: str) -> bool:
    if module == 'mmengine' or module.startswith('mmengine.config'):
        return False
    return module.split('.')[0] not in sys.stdlib_module_names


def python_bases(file: Path) -> Iterator[Path]:
    """Yield the files of one's own that a config of plain Python inherits from."""
    if file.suffix != '.py':
        return
    statements = ast.walk(ast.parse(file.read_text(encoding='utf-8')))
    for block in (node for node in statements if isinstance(node, ast.With)):
        for base in (node for node in block.body if isinstance(node, ast.ImportFrom)):
            if base.level and base.module:
                folder = file.parents[base.level - 1]
                found = folder / f'{base.module.replace(".", "/")}.py'
                yield from (found, *python_bases(found))


def base_module(file: Path, out: Path) -> str | None:
    """Return by which module a config at ``out`` inherits from another.

    Returns:
        Of an installed framework its whole name, otherwise one relative to ``out``;
        None where a part of it is no name of Python's, such as one with a dash.
    """
    file = file.resolve()
    for package in filter(is_found, FRAMEWORKS):
        folder = configs_of(package).parents[1].resolve()
        if file.is_relative_to(folder):
            prefix, path = f'{package}.', file.relative_to(folder)
            break
    else:
        path = Path(os.path.relpath(file, out.resolve().parent))
        ups = path.parts.count(os.pardir)
        prefix, path = '.' * (ups + 1), Path(*path.parts[ups:])
    parts = path.with_suffix('').parts
    named = all(part.isidentifier() and not iskeyword(part) for part in parts)
    return prefix + '.'.join(parts) if named else None


def class_imports(
    content: Any, taken: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """Return how the classes and functions that settings name are imported.

    Args:
        content: the settings.
        taken: names that stand for something else.

    Returns:
        By the code of each string that names one, what it is called; and the
        statements. One that cannot be imported here stays a string.
    """
    codes: dict[str, str] = {}
    modules = defaultdict(list)
    given: dict[tuple[str, str], str] = {}
    for text in dict.fromkeys(named_types(content)):
        if not (place := located(text)):
            continue
        module, name, inner = place
        if (module, name) not in given:
            unused = numbered(name, {*taken, *given.values()})
            given[module, name] = unused
            modules[module].append(name if unused == name else f'{name} as {unused}')
        codes[repr(text)] = '.'.join((given[module, name], *inner))
    return codes, [
        import_statement(module, names) for module, names in sorted(modules.items())
    ]


def named_types(content: Any, key: str = '') -> Iterator[str]:
    """Yield strings that may name classes: types, and what is in imported packages."""
    if isinstance(content, Mapping):
        for inner, value in content.items():
            yield from named_types(value, str(inner))
    elif isinstance(content, list | tuple):
        for value in content:
            yield from named_types(value, key)
    elif isinstance(content, str) and '.' in content:
        parts = content.split('.')
        named = all(part.isidentifier() and not iskeyword(part) for part in parts)
        # Of others, a file name such as `setup.py` would be run.
        if named and (key.endswith('type') or parts[0] in sys.modules):
            yield content


def located(text: str) -> tuple[str, str, list[str]] | None:
    """Return the module of a class or function, its name, and names inside it."""
    try:
        found = get_object_from_string(text)
    except Exception:  # of a module that does not import here
        return None
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        return None
    parts = text.split('.')
    for count in range(len(parts) - 1, 0, -1):
        module = '.'.join(parts[:count])
        if module in sys.modules:
            name, *inner = parts[count:]
            return module, name, inner
    return None


def numbered(name: str, taken: Collection[str]) -> str:
    """Return a name that is not taken, with a number if need be."""
    unused, number = name, 2
    while unused in taken:
        unused, number = f'{name}{number}', number + 1
    return unused


def import_statement(module: str, names: Collection[str]) -> str:
    """Return the code that imports from a module, in lines of their width."""
    head, inner = f'from {module} import ', ', '.join(sorted(names))
    if len(head + inner) <= WIDTH:
        return head + inner
    indent = ' ' * 4
    body = fill(f'{inner},', WIDTH, initial_indent=indent, subsequent_indent=indent)
    return f'{head}(\n{body}\n)'
