"""What a backbone and a neck give, measured by building them: no numbers by heart.

Modules are run on PyTorch's meta device, which computes shapes alone.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmrecnext.archs import NUM_STAGES
from mmrecnext.errors import ConfigError
from mmrecnext.models import RecNeXt

SIDE, SMALL_SIDE = 512, 128
"""Height and width, in pixels, of the image that is sent through: without numbers in
it, or with."""

IMAGE_CHANNELS = 3

STRIDES = tuple(4 * 2**stage for stage in range(NUM_STAGES))
"""Of the stages of an ordinary backbone."""


@dataclass(frozen=True)
class Map:
    """A feature map: its channels, and the input pixels per pixel along one side."""

    channels: int
    stride: int


def type_of(node: Mapping | None) -> str:
    """Return the ``type`` of a config node, without the scope it may begin with."""
    name = (node or {}).get('type', '')
    return getattr(name, '__name__', str(name)).split('.')[-1]


class WithoutWeights(TorchFunctionMode):
    """Has layers made without memory for their weights.

    ``torch.device('meta')`` would reach further: some backbones compute options of
    theirs, such as rates of stochastic depth, with tensors.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs['device'] = 'meta'
        return func(*args, **kwargs)


def build(node: Mapping, scope: str, weights: bool = False) -> nn.Module:
    """Build a part of a model, or a model.

    Args:
        node: its config.
        scope: framework whose config it is, ``mmdet`` or ``mmseg``.
        weights: whether to make memory for its weights.
    """
    importlib.import_module(f'{scope}.models')
    mode = nullcontext() if weights else WithoutWeights()
    with DefaultScope.overwrite_default_scope(scope), mode:
        return MODELS.build(node)


def measure_backbone(owner: Mapping, path: str, scope: str) -> tuple[Map, ...]:
    """Return the maps that a backbone gives.

    One that is not installed, as those of MMPretrain may be, is taken for a classifier
    whose last maps, of strides up to 32, are those that the neck or the head names.

    Args:
        owner: the config node with the key ``backbone``.
        path: of the node in the config.
        scope: framework whose config it is, ``mmdet`` or ``mmseg``.

    Raises:
        ConfigError: where it cannot be built, nor guessed.
    """
    backbone = owner['backbone']
    channels = named_channels(owner)
    if channels and len(channels) <= NUM_STAGES and not find_type(backbone, scope):
        return tuple(map(Map, channels, STRIDES[-len(channels) :]))
    try:
        return run([backbone], None, scope)
    except Exception as error:
        raise ConfigError(f'{path}.backbone: cannot be built: {error}') from error


def find_type(node: Mapping, scope: str) -> Callable | None:
    """Return what builds a part of a model, or None if it is not registered."""
    kind = node.get('type')
    if not isinstance(kind, str):
        return kind
    importlib.import_module(f'{scope}.models')
    with (
        DefaultScope.overwrite_default_scope(scope),
        MODELS.switch_scope_and_registry(None) as registry,
    ):
        return registry.get(kind)


def named_channels(owner: Mapping) -> Sequence[int] | None:
    """Return the channels of a backbone's maps as the next layer lists them."""
    for key in ('neck', 'decode_head'):
        layer = owner.get(key)
        layer = layer[0] if isinstance(layer, list | tuple) else layer
        channels = (layer or {}).get('in_channels')
        if isinstance(channels, list | tuple):
            return channels
    return None


def measure_necks(
    maps: Sequence[Map], necks: Sequence[Mapping], path: str, scope: str
) -> tuple[Map, ...]:
    """Return the maps that necks, the first behind a backbone, make of its maps.

    Raises:
        ConfigError: where they cannot be built, or do not take the maps.
    """
    if not necks:
        return tuple(maps)
    try:
        return run(necks, maps, scope)
    except Exception as error:
        raise ConfigError(f'{path}.neck: cannot be built: {error}') from error


def run(
    layers: Sequence[Mapping], maps: Sequence[Map] | None, scope: str
) -> tuple[Map, ...]:
    """Build layers, and send maps (None: an image) through one after the other."""
    key = json.dumps([scope, repr(maps), layers], default=repr, sort_keys=True)
    if key not in _MEASURED:
        try:
            _MEASURED[key] = send(layers, maps, scope, SIDE, 'meta')
        except Exception:  # some operators need numbers
            with torch.random.fork_rng(devices=[]):
                _MEASURED[key] = send(layers, maps, scope, SMALL_SIDE, 'cpu')
    return _MEASURED[key]


@torch.no_grad()
def send(
    layers: Sequence[Mapping],
    maps: Sequence[Map] | None,
    scope: str,
    side: int,
    device: str,
) -> tuple[Map, ...]:
    """Build layers, and send maps of an image of ``side`` pixels through them."""
    if maps is None:
        channels = layers[0].get('in_channels', IMAGE_CHANNELS)
        x: Any = torch.zeros(1, channels, side, side, device=device)
    else:
        sides = [-(-side // m.stride) for m in maps]
        x = tuple(
            torch.zeros(1, m.channels, s, s, device=device)
            for m, s in zip(maps, sides, strict=True)
        )
    for layer in layers:
        module = build({**layer, 'init_cfg': None}, scope, weights=device == 'cpu')
        if isinstance(module, RecNeXt):  # which tells
            return tuple(map(Map, module.out_channels, module.out_strides))
        module.to(device)
        module.eval()  # which not all return themselves from
        with torch.device(device):
            x = module(x)
    return tuple(
        Map(m.shape[1], round(side / m.shape[-1]))
        for m in ([x] if isinstance(x, Tensor) else x)
    )


_MEASURED: dict[str, tuple[Map, ...]] = {}
