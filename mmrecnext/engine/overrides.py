"""Checks of settings that the command line gives in place of a config's."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from mmrecnext.errors import ConfigError, did_you_mean

NUMBERS_OR_WORDS = ('loss_scale',)
"""Settings of a number whose place a word may take, such as ``dynamic``."""

TOOLS = {
    *('auto_scale_lr', 'tta_model', 'tta_pipeline', 'runner_type', 'compile'),
    *('check_data', 'custom_imports', 'find_unused_parameters', 'model_wrapper_cfg'),
}
READ = {*inspect.signature(Runner.__init__).parameters, *TOOLS} - {'self', 'cfg'}
"""Settings that have an effect; all else in a config is a variable of its own."""


def check_overrides(cfg: Config, options: Mapping[str, Any]):
    """Check settings by what the config has.

    Args:
        cfg: the config, without them.
        options: settings by dotted key.

    Raises:
        ConfigError: for a name that is unknown or nearly there, a word in place of a
            number, or a variable that the config has made use of already.
    """
    for option, value in options.items():
        _check_option(cfg, option, value, options)


def _check_option(cfg: Config, option: str, value: Any, options: Mapping):
    valid = sorted({*cfg, *READ})
    place, *below = option.split('.')
    if place not in valid:
        hint = did_you_mean(place, valid) or f'it has {", ".join(valid)}'
        raise ConfigError(f'--cfg-options {option}: no such setting; {hint}')
    if place not in cfg:
        return
    _check_use(cfg, place, options)
    node = cfg[place]
    for name in below:
        if f'{place}._delete_' in options:
            return
        if isinstance(node, list):
            if not (name.isdigit() and int(name) < len(node)):
                raise ConfigError(
                    f'--cfg-options {option}: {place} is a list, whose items are '
                    f'0 to {len(node) - 1}'
                )
            node = node[int(name)]
        elif not isinstance(node, dict):
            raise ConfigError(
                f'--cfg-options {option}: {place} is {node!r} and has no settings; to '
                f'replace it, add {place}._delete_=True'
            )
        elif name in node:
            node = node[name]
        else:
            # A new name may be meant here, but hardly one that is nearly there.
            if hint := did_you_mean(name, node, cutoff=0.85):
                raise ConfigError(f'--cfg-options {option}: {name} is new; {hint}')
            return
        place = f'{place}.{name}'
    is_number = isinstance(node, int | float) and not isinstance(node, bool)
    word = isinstance(value, str) and option.split('.')[-1] not in NUMBERS_OR_WORDS
    if is_number and word:
        raise ConfigError(
            f'--cfg-options {option}={value}: a number is needed, such as {node}'
        )


def _check_use(cfg: Config, variable: str, options: Mapping):
    """Refuse to set what the file has read, and nothing will read again."""
    if variable in READ:
        return
    uses = [
        path
        for place in cfg
        if place in READ
        for path in _uses(cfg[place], variable, cfg[variable], place)
    ]
    if uses and not any(option.startswith(tuple(uses)) for option in options):
        hint = ', or --data-root' if variable == 'data_root' else ''
        raise ConfigError(
            f'--cfg-options {variable} changes nothing: the config is read, and what '
            f'it has made of {variable} is {" and ".join(uses[:3])}; set that{hint}'
        )


def _uses(node: Any, name: str, value: Any, path: str) -> Iterator[str]:
    """Yield where a value stands, by its name or as what is no single word."""
    last = path.rpartition('.')[2]
    is_container = isinstance(value, dict | list | tuple) and len(value) > 0
    if (last == name or is_container) and node == value:
        yield path
    elif isinstance(node, dict | list | tuple):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, item in items:
            yield from _uses(item, name, value, f'{path}.{key}')
