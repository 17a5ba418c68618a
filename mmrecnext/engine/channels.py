"""Whether what follows a backbone takes the maps that it gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from mmrecnext.errors import ConfigError
from mmrecnext.models import Backbone


def check_channels(model: nn.Module):
    """Compare feature pyramids and segmentation heads with the backbone before them.

    Args:
        model: detector or segmentor.

    Raises:
        ConfigError: naming the setting that is for maps of other channels, and the
            right one.
    """
    for name, owner in model.named_modules():
        backbone = getattr(owner, 'backbone', None)
        if not isinstance(backbone, Backbone):
            continue
        path = '.'.join(filter(None, ('model', name)))
        for field, taken, given in _taken(owner, backbone.out_channels):
            if taken != given:
                raise ConfigError(
                    f'{path}.{field}={taken}, and the backbone gives maps of {given} '
                    'channels: set these'
                )
        for part, levels, maps in _levels(owner):
            if levels != maps:
                raise ConfigError(
                    f'the anchors of {path}.{part} have {levels} strides, and '
                    f'{path}.neck gives {maps} maps (num_outs): set as many'
                )


def _taken(
    owner: nn.Module, channels: tuple[int, ...]
) -> Iterator[tuple[str, list[int], list[int]]]:
    """Yield fields of the config, their channels, and those of the maps they take."""
    neck: Any = getattr(owner, 'neck', None)
    if hasattr(neck, 'lateral_convs') and hasattr(neck, 'in_channels'):
        yield 'neck.in_channels', list(neck.in_channels), list(channels)
    maps = len(channels) if neck is None else getattr(neck, 'num_outs', None)
    for part in ('decode_head', 'auxiliary_head'):
        head: Any = getattr(owner, part, None)
        index = getattr(head, 'in_index', None)
        if index is None or maps is None:
            continue
        index = [index] if isinstance(index, int) else list(index)
        if max(index) >= maps:
            raise ConfigError(
                f'model.{part}.in_index={head.in_index}, and it is given {maps} maps, '
                'counted from 0'
            )
        if neck is None:
            taken = head.in_channels
            taken = [taken] if isinstance(taken, int) else list(taken)
            given = [channels[i] for i in index]
            if head.input_transform == 'resize_concat':
                taken, given = [sum(taken)], [sum(given)]
            yield f'{part}.in_channels', taken, given


def _levels(owner: nn.Module) -> Iterator[tuple[str, int, int]]:
    """Yield heads with anchors, the levels of these, and how many maps there are."""
    maps = getattr(getattr(owner, 'neck', None), 'num_outs', None)
    for part in ('rpn_head', 'bbox_head'):
        anchors = getattr(getattr(owner, part, None), 'prior_generator', None)
        levels = getattr(anchors, 'num_levels', None)
        if maps is not None and levels is not None:
            yield part, levels, maps
