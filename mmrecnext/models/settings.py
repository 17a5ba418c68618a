"""What the options of the backbone may be; an error names the choices."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from mmrecnext.archs import MOST_CHANNELS, NUM_STAGES, Arch
from mmrecnext.errors import (
    OptionError,
    check_option,
    is_integer,
    is_number,
    is_settings,
)

INIT_CFG = (
    'None, a dict with the `type` of an initialiser, or a list of them; of the type '
    'Pretrained with the `checkpoint`, a string, perhaps `prefix` and `map_location`'
)
OWN_PRETRAINED = 'mmrecnext.Pretrained'
PRETRAINED_NAMES = ('Pretrained', 'PretrainedInit')
"""Initialisers that load weights: as MMEngine knows them, and by name of the class."""

PRETRAINED = {'type', 'checkpoint', 'prefix', 'map_location'}
NORM_CFG = (
    'a dict with the `type` of a norm layer of maps, such as BN, SyncBN, GN or IN, '
    'and its options'
)


def check_options(
    arch: Arch, in_channels: Any, out_indices: Any, frozen_stages: Any, stride: Any
) -> None:
    """Check what counts channels, stages or pixels, for a model of ``arch``."""
    is_valid = is_integer(in_channels, 1, MOST_CHANNELS)
    choices = f'an integer from 1 to {MOST_CHANNELS}'
    check_option('in_channels', in_channels, is_valid, choices)
    indices = [*out_indices] if isinstance(out_indices, Iterable) else []
    check_option(
        'out_indices',
        out_indices,
        len(indices) > 0
        and all(is_integer(i, 0) and i < NUM_STAGES for i in indices)
        and len(set(indices)) == len(indices),
        f'one or more of {(*range(NUM_STAGES),)}, each once',
    )
    last = max(indices) + 1
    check_option(
        'frozen_stages',
        frozen_stages,
        is_integer(frozen_stages, -1) and frozen_stages <= last,
        f'-1 (none), 0 (the stem) or up to {last} (the number of stages that '
        'out_indices asks for)',
    )
    check_option(
        'output_stride',
        stride,
        stride is None or (is_integer(stride) and stride in arch.strides),
        f'one of the strides {arch.strides} of the model, or None',
    )


def check_rate(name: str, value: Any) -> None:
    """Check the probability that something is left out."""
    check_option(name, value, is_number(value) and 0 <= value < 1, 'in [0, 1)')


def check_init_cfg(init_cfg: Any) -> None:
    """Check that an initialisation is one or several, each with a type."""
    if init_cfg is None:
        return
    for cfg in init_cfg if isinstance(init_cfg, list) else [init_cfg]:
        is_valid = is_settings(cfg) and 'type' in cfg
        if is_valid and loads_weights(cfg):
            is_valid = isinstance(cfg.get('checkpoint'), str) and {*cfg} <= PRETRAINED
        check_option('init_cfg', init_cfg, is_valid, INIT_CFG)


def strictly_pretrained(
    init_cfg: dict[str, Any] | list[dict[str, Any]] | None,
) -> list[dict[str, Any]] | None:
    """Have pretrained weights loaded by an initialiser that refuses unfit ones.

    MMEngine's own only logs those that do not fit.

    Returns:
        Initialisations in the order in which they are done, weights last.
    """
    if init_cfg is None:
        return None
    cfgs = init_cfg if isinstance(init_cfg, list) else [init_cfg]
    own = [c for c in cfgs if loads_weights(c)]
    others = [c for c in cfgs if not loads_weights(c)]
    return [*others, *({**c, 'type': OWN_PRETRAINED} for c in own)]


def loads_weights(cfg: Mapping[str, Any]) -> bool:
    """Tell an initialiser that loads weights, by name, also with modules, or class."""
    name = getattr(cfg['type'], '__name__', str(cfg['type']))
    return name.rpartition('.')[2] in PRETRAINED_NAMES


def build_norm(norm_cfg: Mapping[str, Any], channels: int) -> nn.Module:
    """Return the norm layer that ``norm_cfg`` describes.

    Raises:
        OptionError: for settings of no norm layer.
    """
    from mmcv.cnn import build_norm_layer  # here: it takes as long as all of mmrecnext

    try:
        norm: nn.Module = build_norm_layer(norm_cfg, channels)[1]
    except Exception as error:  # whatever its type makes of its options
        raise not_a_norm(norm_cfg, error) from error
    return norm


def check_norm_cfg(norm_cfg: Any, channels: int) -> None:
    """Check that a norm layer can be built, and takes maps of ``channels``."""
    norm = build_norm(norm_cfg, channels).eval().to('meta')  # where shapes are enough
    try:
        norm(torch.zeros(1, channels, 2, 2, device='meta'))
    except Exception as error:
        raise not_a_norm(norm_cfg, error) from error


def not_a_norm(norm_cfg: Any, error: Exception) -> OptionError:
    """Return what to tell of settings that failed."""
    reason = textwrap.shorten(f'{type(error).__name__}: {error}', 200)
    return OptionError(f'norm_cfg is {NORM_CFG}, got {norm_cfg!r}; {reason}')
