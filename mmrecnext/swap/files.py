"""Reading a config to swap, and writing the result as a short delta of it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmrecnext.engine.configs import (
    SUFFIXES,
    configs_of,
    is_found,
    locate,
    read_config,
)
from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.errors import ConfigError
from mmrecnext.files import atomic_write
from mmrecnext.swap.plain_python import (
    base_module,
    class_imports,
    is_plain_python,
    python_bases,
)

ABSENT = object()
LINE = 70

NOT_THE_SAME = 'with a base, the differences do not read back the same'
"""Why a config is written entirely."""

WRITABLE = (str, bytes, int, float, complex, set, frozenset, range, type(None))
"""What reads back from its `repr`; containers besides."""


def base_name(file: Path, out: Path) -> str:
    """Return how a config at ``out`` names another as its ``_base_``."""
    for package in filter(is_found, FRAMEWORKS):
        folder = configs_of(package).resolve()
        if file.resolve().is_relative_to(folder):
            return f'{package}::{file.resolve().relative_to(folder).as_posix()}'
    return Path(os.path.relpath(file, out.parent)).as_posix()


def plain(node: Any, scope: str | None = None) -> Any:
    """Return a config's content as dicts and lists.

    MMEngine writes the scope of a file into each dict that is inherited from it; those
    that say what holds anyway are left out.

    Args:
        node: a config, or a part of one.
        scope: what holds; of a config, its ``default_scope``.
    """
    if isinstance(node, Config):
        return plain(node.to_dict(), node.get('default_scope'))
    if isinstance(node, Mapping):
        return {
            k: plain(v, scope) for k, v in node.items() if k != '_scope_' or v != scope
        }
    if isinstance(node, list | tuple):
        return type(node)(plain(item, scope) for item in node)
    return node


def changes(old: Any, new: Any, path: str = '') -> Iterator[tuple[str, Any, Any]]:
    """Yield every field that differs: its path, what it was and what it is.

    What is of another type now is one field.

    Args:
        old: content of a config, as :func:`plain` returns it; ``ABSENT`` for none.
        new: likewise.
        path: of the two.
    """
    both_dicts = isinstance(old, dict) and isinstance(new, dict)
    if both_dicts and old.get('type') == new.get('type'):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f'{path}.{key}' if path else str(key)
            yield from changes(old.get(key, ABSENT), new.get(key, ABSENT), inner)
    elif old is ABSENT or new is ABSENT or old != new:
        if are_lists_of_dicts(old, new):
            for i, pair in enumerate(zip(old, new, strict=True)):
                yield from changes(*pair, f'{path}[{i}]')
        else:
            yield path, old, new


def are_lists_of_dicts(*nodes: Any) -> bool:
    """Tell whether nodes are lists of the same length with dicts in them."""
    return (
        all(isinstance(node, list | tuple) for node in nodes)
        and len({len(node) for node in nodes}) == 1
        and any(isinstance(item, dict) for item in nodes[0])
    )


def delta(old: dict, new: dict) -> dict:
    """Return what turns a config into another when the one is its ``_base_``."""
    if any(key not in new for key in old):
        return {'_delete_': True, **new}
    result = {}
    for key, value in new.items():
        before = old.get(key, ABSENT)
        if isinstance(before, dict) and isinstance(value, dict):
            if inner := delta(before, value):
                result[key] = inner
        elif before is ABSENT or before != value or type(before) is not type(value):
            result[key] = value
    return result


def render(value: Any, names: Mapping[str, str], indent: str = '') -> str:
    """Return a setting as code, in one line where that is short enough.

    Args:
        value: the setting.
        names: by the code of a setting, the name of one that is the same.
        indent: that of the line.
    """
    if value and (name := names.get(repr(value))):
        return name
    if not isinstance(value, dict | list | tuple) or not value:
        return repr(value)
    inner = indent + '    '
    if isinstance(value, dict):
        named = all(isinstance(k, str) and k.isidentifier() for k in value)
        brackets = ('dict(', ')') if named else '{}'
        items = [
            (f'{k}=' if named else f'{k!r}: ') + render(v, names, inner)
            for k, v in value.items()
        ]
    else:
        brackets = '[]' if isinstance(value, list) else '()'
        items = [render(item, names, inner) for item in value]
    comma = ',' if isinstance(value, tuple) and len(items) == 1 else ''
    line = f'{", ".join(items)}{comma}'.join(brackets)
    if len(indent) + len(line) <= LINE and '\n' not in line:
        return line
    return ''.join(f'\n{inner}{item},' for item in items).join(
        (brackets[0], f'\n{indent}{brackets[1]}')
    )


def render_all(
    settings: Mapping[str, Any],
    names: Mapping[str, str] | None = None,
    merged: Collection[str] = (),
) -> str:
    """Return settings as a config file; equal ones are written once.

    Args:
        settings: by name.
        names: by the code of a setting, the name of one that is the same.
        merged: those that change a dict that is there under the name.
    """
    lines: list[str] = []
    names = dict(names or {})
    for name, value in settings.items():
        if name in merged:
            lines.append(f'{name}.merge({render(value, names)})\n')
            continue
        lines.append(f'{name} = {render(value, names)}\n')
        if isinstance(value, list) or name.endswith('_dataloader'):
            names.setdefault(repr(value), name)
    return ''.join(lines)


def as_plain_python(
    settings: Mapping[str, Any], base: str = '', old: Mapping[str, Any] | None = None
) -> str:
    """Return settings as a config of plain Python, with its classes imported.

    Args:
        settings: all of them; or, with a base, what differs from it.
        base: module of the config that it inherits from, if any.
        old: content of that.
    """
    old = old or {}
    merged = [
        name
        for name, value in settings.items()
        if isinstance(value, dict)
        and isinstance(old.get(name), dict)
        and '_delete_' not in value
    ]
    settings = {
        name: {k: v for k, v in value.items() if k != '_delete_'}
        if isinstance(value, dict) and name not in merged
        else value
        for name, value in settings.items()
    }
    names, imports = class_imports(settings, {*settings, *old, 'read_base'})
    head = ['from mmengine.config import read_base\n'] * bool(base)
    head += ['\n'.join(imports) + '\n'] * bool(imports)
    head += [f'with read_base():\n    from {base} import *\n'] * bool(base)
    return '\n'.join((*head, render_all(settings, names, merged)))


def write_config(cfg: Config, out: str | Path, base: str | Path | None = None) -> str:
    """Write a swapped config: a base and a delta where that reads back the same.

    One of plain Python (``with read_base()``) becomes plain Python again, with classes
    imported; any other has a ``_base_``.

    Args:
        cfg: what :func:`~mmrecnext.swap.swap_backbone` returned.
        out: file to write.
        base: file or name of the config that was swapped; if None, the file that
            ``cfg`` was read from.

    Returns:
        An empty string, or why the whole config was written.

    Raises:
        ConfigError: where ``out`` is a config that is read or is not named like one,
            or what would be written cannot be; a file that is there stays as it is.
    """
    out = Path(out)
    if out.suffix not in SUFFIXES:
        raise ConfigError(
            f'out: {out} is no name of a config, which ends in {", ".join(SUFFIXES)}'
        )
    base = base or cfg.filename
    check_content(cfg._cfg_dict)
    if base:
        file = locate(base)
        old = read_config(file)
        check_out(out, old)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as new:
        for text, reason in drafts(cfg, out, file, old) if base else ():
            new.write_text(text, encoding='utf-8')
            if reads_back(new, cfg):
                return reason
        cfg.dump(new)
        read_config(new)
    return NOT_THE_SAME if base else 'the config that was swapped is in no file'


def drafts(
    cfg: Config, out: Path, base: Path, old: Config
) -> Iterator[tuple[str, str]]:
    """Yield texts of a config, short first, and why one is written entirely."""
    before, after = plain(old), plain(cfg)
    changed = delta(before, after)
    if out.suffix != '.py' or not is_plain_python(base):
        yield f'_base_ = {base_name(base, out)!r}\n\n{render_all(changed)}', ''
        return
    reason = NOT_THE_SAME
    if not (module := base_module(base, out)):
        reason = f'{base.name} is nothing that Python can import'
    elif '_delete_' not in changed:
        yield as_plain_python(changed, module, before), ''
    yield as_plain_python(after), reason


def reads_back(file: Path, cfg: Config) -> bool:
    """Tell whether a file holds a config; a text cannot inherit from plain Python."""
    try:
        return plain(read_config(file)) == plain(cfg)
    except ConfigError:
        return False


def check_content(node: Any, path: str = ''):
    """Check that a config has nothing in it that text cannot say.

    Raises:
        ConfigError: naming the first field that has.
    """
    if isinstance(node, dict):
        for key, value in dict.items(node):
            check_content(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, list | tuple):
        for i, item in enumerate(node):
            check_content(item, f'{path}[{i}]')
    elif not isinstance(node, WRITABLE):
        raise ConfigError(f'{path}: {node} cannot be written into a config')


def check_out(out: Path, old: Config):
    """Check that a config may be written in place of what is there.

    Raises:
        ConfigError: where that is the config ``old`` or one that it inherits from.
    """
    # Its text names each file that it was read from in a line before its content,
    # but for a config of plain Python.
    files = [old.filename, *old.text.splitlines(), *python_bases(Path(old.filename))]
    there = filter(os.path.isfile, files)
    if out.exists() and any(map(out.samefile, there)):
        raise ConfigError(
            f'out: {out} is the config to swap, or one that it inherits from: choose '
            'another file'
        )
