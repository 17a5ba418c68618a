"""Finding, reading and checking configs of the OpenMMLab frameworks."""

from __future__ import annotations

import copy
import importlib
import inspect
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.logging import print_log
from mmengine.utils import (
    get_installed_path,
    get_object_from_string,
    is_installed,
    is_seq_of,
)

from mmrecnext.engine.frameworks import FRAMEWORKS, NO_FRAMEWORK, names_of
from mmrecnext.engine.overrides import check_overrides
from mmrecnext.errors import ConfigError, closest

SUFFIXES = ('.py', '.yaml', '.yml', '.json')
"""What names of configs end in."""


def shipped(kind: str) -> Path:
    """Return the folder of the ``configs`` or ``tools`` that come with mmrecnext."""
    package = Path(__file__).resolve().parents[1]
    installed = package / '.mim' / kind
    return installed if installed.is_dir() else package.parent / kind


def load_config(
    path: str, options: Mapping[str, Any] | None = None, classifiers: bool = False
) -> Config:
    """Read a config of an OpenMMLab framework, and import what it asks for.

    Args:
        path: config file, the bare name of one that ships with mmrecnext, or one of a
            framework such as ``mmdet::retinanet/retinanet_r50_fpn_1x_coco.py``.
        options: settings to override, by dotted key.
        classifiers: whether it may be the config of a classifier.

    Raises:
        ConfigError: for a config that is missing, broken or of another framework, a
            framework or a module that is not installed, or an option of unknown name.
    """
    cfg = read_config(path)
    import_modules(cfg)
    _check_framework(cfg, path, classifiers)
    if options:
        check_overrides(cfg, options)
        try:
            cfg.merge_from_dict(dict(options))
        except (AttributeError, KeyError, TypeError) as error:  # such as a=1 a.b=2
            raise ConfigError(f'--cfg-options {" ".join(options)}: {error}') from error
    return cfg


def read_config(name: str | Path) -> Config:
    """Read a config, importing nothing of what it asks for.

    One of plain Python (``with read_base()``) is spelt out, see :func:`spell_out`.

    Raises:
        ConfigError: for a config that is missing or broken.
    """
    file = locate(name)
    if file.suffix not in SUFFIXES:
        raise ConfigError(
            f'{name} is no config, whose name would end in {", ".join(SUFFIXES)}'
        )
    try:
        cfg = spell_out(Config.fromfile(file, import_custom_modules=False))
    except Exception as error:
        reason = str(error) or repr(error)
        if isinstance(error, OSError) and error.filename is None:
            reason += f' in {tempfile.gettempdir()}, where MMEngine copies it to'
        raise ConfigError(f'cannot read {name}: {reason}') from error
    package = str(name).rpartition('::')[0]
    if package and not cfg.get('default_scope'):  # of the model alone
        cfg.default_scope = package
    return cfg


def locate(name: str | Path) -> Path:
    """Return the file of a config.

    Args:
        name: a path, a name such as ``mmdet::FILE``, or that of one in ``configs/`` or
            below.

    Raises:
        ConfigError: where there is none, naming the closest, or where others are.
    """
    package, _, inner = str(name).rpartition('::')
    if package and not is_found(package):
        if package in FRAMEWORKS:
            hint = f'is not installed: {FRAMEWORKS[package].advice}'
        else:
            hint = f'is no framework; those are {names_of()}'
        raise ConfigError(f'there is no config {name}: {package} {hint}')
    folder = configs_of(package) if package else shipped('configs')
    file = folder / inner if package else Path(name)
    if file.is_file():
        return file
    found = sorted(folder.rglob('*.py'))
    if package:
        named = {f'{package}::{x.relative_to(folder).as_posix()}': x for x in found}
    else:
        named = {x.name: x for x in found}
    if str(name) in named:
        return named[str(name)]
    if not package and (elsewhere := _in_frameworks(file.name)):
        raise ConfigError(
            f'there is no config {name} in {folder}; did you mean '
            f'{" or ".join(elsewhere)}?'
        )
    if close := _closest(file.stem, named):
        hint = f'of those in {folder}, the closest are {", ".join(close)}'
    elif package:
        hint = f'those of {package} are in {folder}'
    else:
        hint = (
            f'those of mmrecnext are in {folder}, those of a framework have names such '
            'as mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
        )
    raise ConfigError(f'there is no config {name}; {hint}')


@cache  # MMEngine reads what is installed anew each time, for a fifth of a second
def is_found(package: str) -> bool:
    """Return whether a package is installed."""
    found: bool = is_installed(package)
    return found


@cache
def configs_of(package: str) -> Path:
    """Return the folder of the configs that an installed framework ships."""
    return Path(get_installed_path(package)) / '.mim' / 'configs'


def _in_frameworks(name: str) -> list[str]:
    """Return by which names the frameworks ship configs that end in one."""
    return [
        f'{package}::{file.relative_to(configs_of(package)).as_posix()}'
        for package in filter(is_found, FRAMEWORKS)
        for file in sorted(configs_of(package).rglob('*.py'))
        if file.name == name and not _is_base(file)
    ]


def _closest(stem: str, named: Mapping[str, Path]) -> list[str]:
    """Return the names of configs whose files are called nearly as one that is not."""
    whole = {name: file for name, file in named.items() if not _is_base(file)}
    near = closest(stem, {file.stem for file in whole.values()})
    return [name for x in near for name, file in whole.items() if file.stem == x]


def _is_base(file: Path) -> bool:
    """Tell whether a config is but a part of others."""
    return '_base_' in file.parts


def spell_out(cfg: Config) -> Config:
    """Return a copy with names in the place of classes and functions.

    That is how MMEngine writes a config of plain Python. One form is enough then for
    whatever looks at a ``type``, and a config can be written that is in no file yet.
    """
    own = cfg.to_dict()  # without most of what is imported
    cfg = cfg.copy()
    for key, value in list(dict.items(cfg._cfg_dict)):
        if key not in own or isinstance(value, ModuleType | FunctionType):
            dict.pop(cfg._cfg_dict, key)
    cfg = copy.deepcopy(cfg)  # now: modules, which the fork imports, are not copied
    _spelt_out(cfg._cfg_dict)
    if scope := scope_of(cfg):
        cfg.default_scope = scope
    return cfg


def _spelt_out(value: Any, key: str = '') -> Any:
    if isinstance(value, dict):
        for name, item in list(dict.items(value)):  # its own `items` would import
            dict.__setitem__(value, name, _spelt_out(item, name))
        return value
    if isinstance(value, list | tuple):
        return type(value)([_spelt_out(item, key) for item in value])
    if isinstance(value, LazyObject | LazyAttr):
        return _imported(value, key)
    if inspect.isclass(value) or inspect.isfunction(value):
        name = f'{value.__module__}.{value.__qualname__}'
        return name if get_object_from_string(name) is value else value
    return value


def _imported(value: LazyObject | LazyAttr, key: str) -> Any:
    name = f'{value.module}.{value}'
    if key == 'type':
        return name
    try:
        content = value.build()
    except ImportError:  # told where it is used
        return value
    if content is None or isinstance(content, bool | int | float | str | list | tuple):
        return copy.deepcopy(content)
    if isinstance(content, dict):
        return ConfigDict(copy.deepcopy(content))
    return name if callable(content) else value


def scope_of(cfg: Config) -> str | None:
    """Return the framework of a config: its ``default_scope``, or that of its types.

    Configs of plain Python need no ``default_scope``; the types in them tell.
    """
    scope: str | None = cfg.get('default_scope')
    if scope not in (None, 'mmengine'):
        return scope
    parts = nodes([cfg.get('model'), cfg._cfg_dict])  # those of the model first
    roots = (str(node.get('type')).split('.')[0] for node in parts)
    return next((root for root in roots if root in FRAMEWORKS), scope)


def _check_framework(cfg: Config, name: str | Path, classifiers: bool) -> None:
    scope = cfg.get('default_scope')
    if classifiers and scope == NO_FRAMEWORK:
        return
    if scope not in FRAMEWORKS:
        hint = ''
        if scope == NO_FRAMEWORK:
            hint = '; those of classifiers are for train, eval_imagenet, publish'
        raise ConfigError(
            f'{name} is a config for {scope or "no framework"} (its `default_scope`); '
            f'this tool runs configs for {names_of()}{hint}'
        )
    if not FRAMEWORKS[scope].is_installed:
        raise ConfigError(
            f'{name} needs {scope}, which is not installed: ' + FRAMEWORKS[scope].advice
        )


def import_modules(cfg: Config, dispensable: Collection[str] = ()) -> None:
    """Import the modules that a config names in ``custom_imports``.

    Args:
        cfg: the config.
        dispensable: packages whose modules may be missing.

    Raises:
        ConfigError: for a module that cannot be imported, naming the reason.
    """
    wanted = cfg.get('custom_imports') or {}
    for module in custom_modules(cfg):
        try:
            importlib.import_module(module)
        except Exception as error:
            if module.split('.')[0] in dispensable:
                continue
            reason = f'custom_imports: {module} cannot be imported: {error!r}'
            if wanted.get('allow_failed_imports') and isinstance(error, ImportError):
                print_log(reason, 'current', logging.WARNING)
                continue
            raise ConfigError(
                f'{reason}. A module of your own is found with its folder on PYTHONPATH'
            ) from error


def custom_modules(cfg: Config) -> list[str]:
    """Return the modules that a config asks to import.

    Raises:
        ConfigError: where ``custom_imports`` is not as MMEngine takes it.
    """
    wanted = cfg.get('custom_imports') or {}
    modules = wanted.get('imports') if isinstance(wanted, Mapping) else wanted
    modules = [modules] if isinstance(modules, str) else modules or []
    if not isinstance(wanted, Mapping) or not is_seq_of(modules, str):
        raise ConfigError(
            f"custom_imports: {wanted!r} is not as dict(imports=['my_module'])"
        )
    return list(modules)


def nodes(tree: Any) -> Iterator[ConfigDict]:
    """Yield every dict of a config, outermost first."""
    if isinstance(tree, dict):
        yield tree
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return
    for branch in tree:
        yield from nodes(branch)


def type_of(node: Any) -> str:
    """Return the ``type`` of a config node without its scope; empty for any other."""
    name = node.get('type', '') if isinstance(node, Mapping) else ''
    return getattr(name, '__name__', str(name)).split('.')[-1]
