"""What to say of a part of a config that its framework cannot build."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from mmengine.registry import Registry, build_from_cfg

from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.errors import did_you_mean

LIBRARIES = {*FRAMEWORKS, 'mmengine', 'mmcv', 'mmrecnext', 'torch', 'numpy'}
"""Packages whose refusals are about what they are given."""

UNEXPECTED = re.compile(r"got an unexpected keyword argument '(\w+)'")


def describe_misbuilt(error: Exception) -> str | None:
    """Say which part of a config cannot be built, and why.

    Returns:
        None for an error of anything else: one that comes later, or from modules of
        the user's own, or a fault of this package.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    builds = [
        i for i, frame in enumerate(frames) if frame.f_code is build_from_cfg.__code__
    ]
    if not builds:
        return None
    frame, *inner = frames[builds[-1] :]
    packages = [frame.f_globals['__name__'].split('.')[0] for frame in inner]
    if not LIBRARIES.union(sys.stdlib_module_names).issuperset(packages):
        return None
    if packages and packages[-1] == 'mmrecnext':
        return None
    outer = [frames[i].f_locals.get('obj_type') for i in builds[:-1]]
    place = ' > '.join(getattr(kind, '__name__', str(kind)) for kind in outer)
    return _describe(frame, error) + (f' (in {place})' if place else '')


def _describe(frame: FrameType, error: Exception) -> str:
    local = frame.f_locals
    if 'obj_type' not in local:
        return f'the config has {local["cfg"]!r} in place of settings with a `type`'
    registry, kind = local['registry'], local.get('obj_cls')
    if kind is None:
        return describe_unknown(local['obj_type'], registry)
    part = f'{registry.name} {local["obj_type"]!r}'
    reason = str(error.args[0] if error.args else '').strip().partition('\n')[0]
    reason = ' '.join(reason.split())
    if found := UNEXPECTED.search(reason):
        options = sorted(options_of(kind) - {*(local['default_args'] or ()), 'self'})
        hint = did_you_mean(found[1], options) or f'it has {", ".join(options)}'
        return f'{part} has no option {found[1]}; {hint}'
    return f'{part} cannot be built: {reason or type(error).__name__}'


def is_raised_in(error: Exception, *packages: str) -> bool:
    """Tell whether the code that raised an error is of one of some packages."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals['__name__'].startswith(packages)


def describe_unknown(name: Any, registry: Registry) -> str:
    """Say that a registry has no such name, and which are close."""
    hint = did_you_mean(name, names_in(registry))
    told = f'{registry.scope} has no {registry.name} {name!r}'
    return f'{told}; {hint}' if hint else told


def names_in(registry: Registry) -> list[str]:
    """Return the names that a registry knows, by itself and through its parents."""
    names = list(registry.module_dict)
    return names + (names_in(registry.parent) if registry.parent else [])


def options_of(kind: Any) -> set[str]:
    """Return the names of what a class, its bases included, or a function takes."""
    classes = kind.__mro__ if inspect.isclass(kind) else (kind,)
    return {name for each in classes for name in _parameters(each)}


def _parameters(kind: Any) -> Iterator[str]:
    call = kind.__dict__.get('__init__') if inspect.isclass(kind) else kind
    if inspect.isfunction(call):
        for name, option in inspect.signature(call).parameters.items():
            if option.kind not in (option.VAR_POSITIONAL, option.VAR_KEYWORD):
                yield name
