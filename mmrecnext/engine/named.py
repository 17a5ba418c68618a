"""Classifiers as command lines name them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmrecnext.archs import ARCHS, MLLA_ARCHS, is_mlla, nearest_archs, timm_name
from mmrecnext.engine.configs import SUFFIXES, read_config
from mmrecnext.errors import OptionError, is_settings
from mmrecnext.pretrained import (
    INPUT_SIDE,
    MLLA_INPUT_SIDE,
    MLLA_SHORT_SIDE,
    SHORT_SIDE,
    get_pretrained,
)


@dataclass(frozen=True)
class Named:
    """A classifier, and the pictures that it is made for.

    Args:
        arch: a name in ``ARCHS`` or ``MLLA_ARCHS``, or a dict that changes a model.
        side: of the squares that it takes, in pixels.
        short_side: of the pictures that these are cut out of, in pixels.
    """

    arch: str | Mapping[str, Any]
    side: int
    short_side: int


def named(name: str) -> Named:
    """Look up a classifier.

    Args:
        name: such as ``recnext_m3``, ``m3``, ``recnext_m3.base_300e_in1k`` or
            ``mlla_nano_recattn``; a dict of settings, written as in Python; or the
            config of a classifier's training.

    Raises:
        OptionError: for an unknown model, or the config of another network.

    Examples:
        >>> from mmrecnext.engine.named import named
        >>> named('mlla_nano_recattn')
        Named(arch='nano_recattn', side=256, short_side=292)
        >>> named("{'base': 'm3', 'mixer': {'kernel_size': 7}}").arch['base']
        'm3'
    """
    if name.endswith(SUFFIXES):
        cfg = read_config(name)
        if 'arch' not in cfg.get('model', {}):
            raise OptionError(f'{name} is no config of a classifier: no `model.arch`')
        arch, how = cfg.model.arch, cfg.val_dataloader.dataset.transform
        side = how.input_size
        arch = arch_of(arch) if isinstance(arch, str) else arch.to_dict()
        return Named(arch, side, int(side / how.crop_pct))  # as timm has it
    arch = settings_in(name) if name.lstrip().startswith('{') else arch_of(name)
    if is_mlla(arch):
        return Named(arch, MLLA_INPUT_SIDE, MLLA_SHORT_SIDE)
    return Named(arch, INPUT_SIDE, SHORT_SIDE)


def settings_in(text: str) -> dict[str, Any]:
    """Read the settings of an arch.

    Raises:
        OptionError: for what is no dict of them.
    """
    try:
        settings = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        settings = None
    if not is_settings(settings):
        raise OptionError(
            f"{text} is no dict of settings, such as {{'base': 'm3', 'mixer': "
            "{'kernel_size': 7}}"
        )
    return dict(settings)


def arch_of(name: str) -> str:
    """Return the arch of a model, whose name may be that of its weights.

    Raises:
        OptionError: for an unknown model.
    """
    arch = name.removeprefix('recnext_').removeprefix('mlla_')
    if arch in ARCHS or arch in MLLA_ARCHS:
        return arch
    try:
        return get_pretrained(name).arch
    except OptionError as error:
        known = ', '.join(map(timm_name, (*ARCHS, *MLLA_ARCHS)))
        near = ' or '.join(map(timm_name, nearest_archs(name)))
        hint = f'did you mean {near}? The' if near else 'the'
        raise OptionError(
            f'unknown model {name!r}; {hint} models are {known}, or a dict that '
            "changes one, such as {'base': 'm3', 'mixer': {'kernel_size': 7}}"
        ) from error
