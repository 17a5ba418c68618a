"""What a backbone and a neck give, measured by building them: no numbers by heart.

Modules are run on PyTorch's meta device, which computes shapes alone.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmrecnext.archs import NUM_STAGES
from mmrecnext.engine.build import build_network, find_type
from mmrecnext.engine.configs import type_of
from mmrecnext.errors import ConfigError
from mmrecnext.models import Backbone

SIDE, SMALL_SIDE = 512, 256
"""Height and width, in pixels, of the image that is sent through: without numbers in
it, or with."""

IMAGE_CHANNELS = 3

STRIDES = tuple(4 * 2**stage for stage in range(NUM_STAGES))
"""Of the stages of an ordinary backbone."""

FOUR_STAGES = {
    'ConvNeXt': 1,
    'HorNet': 1,
    'PoolFormer': 2,
    'RegNet': 1,
    'Res2Net': 1,
    'ResNeSt': 1,
    'ResNeXt': 1,
    'ResNet': 1,
    'SEResNet': 1,
    'SEResNeXt': 1,
    'SwinTransformer': 1,
    'SwinTransformerV2': 1,
    'VAN': 1,
}
"""Backbones of MMPretrain whose stages have those strides, by their papers, and how far
apart the indices of two stages are."""


@dataclass(frozen=True)
class Map:
    """A feature map: its channels, and the input pixels per pixel along one side."""

    channels: int
    stride: int


def measure_backbone(
    owner: Mapping, path: str, scope: str, strides: Sequence[int] | None = None
) -> tuple[Map, ...]:
    """Return the maps that a backbone gives.

    Args:
        owner: the config node with the key ``backbone``.
        path: of the node in the config.
        scope: framework whose config it is, ``mmdet`` or ``mmseg``.
        strides: of its maps, for one that cannot be built here.

    Raises:
        ConfigError: where it cannot be built and its strides are not known, or where
            it gives no maps, or those of other strides.
    """
    backbone = owner['backbone']
    place = f'{path}.backbone: {type_of(backbone)}'
    try:
        maps = run([backbone], None, scope)
    except ConfigError as error:
        raise ConfigError(f'{place} {error}') from error
    except Exception as error:
        strides = strides or published_strides(backbone)
        if strides:
            channels = named_channels(owner, len(strides))
            if channels:
                return tuple(map(Map, channels, strides))
            raise ConfigError(
                f'{place}: no neck and no head lists the channels of its '
                f'{len(strides)} maps'
            ) from error
        known = find_type(backbone, scope)
        raise ConfigError(
            f'{place} cannot be built: '
            + (str(error) if known else 'no module registers it')
            + '. Mend that, or give the strides of its maps: --strides, `strides`'
        ) from error
    measured = [m.stride for m in maps]
    if strides and list(strides) != measured:
        raise ConfigError(f'{place} gives maps of strides {measured}, not {[*strides]}')
    return maps


def default_of(node: Mapping, option: str, scope: str) -> Any:
    """Return the default of an option of a layer, or None where it has none."""
    layer = find_type(node, scope)
    parameter = inspect.signature(layer).parameters.get(option) if layer else None
    return (
        None
        if parameter is None or parameter.default is parameter.empty
        else (parameter.default)
    )


def image_channels(backbone: Mapping, scope: str) -> int:
    """Return how many channels the images have that a backbone takes."""
    for option in ('in_channels', 'in_chans'):  # OpenMMLab's name, and timm's
        channels = backbone.get(option, default_of(backbone, option, scope))
        if isinstance(channels, int):
            return channels
    return IMAGE_CHANNELS


def published_strides(backbone: Mapping) -> list[int] | None:
    """Return the strides of a backbone of MMPretrain as its paper has them.

    Only what changes no stride may be set in it.
    """
    package, _, kind = str(backbone.get('type')).rpartition('.')
    stages = backbone.get('out_indices')
    changed = {'strides', 'dilations', 'output_stride'} & set(backbone)
    if package not in ('mmpretrain', 'mmcls') or changed or not stages:
        return None
    if kind == 'TIMMBackbone':
        return timm_strides(backbone)
    if kind not in FOUR_STAGES:
        return None
    return [STRIDES[stage // FOUR_STAGES[kind]] for stage in stages]


def timm_strides(backbone: Mapping) -> list[int]:
    """Return the strides of a model of timm, which tells them."""
    from timm import create_model

    model: Any = create_model(
        backbone['model_name'], features_only=True, out_indices=backbone['out_indices']
    )
    return model.feature_info.reduction()


def named_channels(owner: Mapping, count: int) -> Sequence[int] | None:
    """Return the channels of a backbone's maps as the next layer lists them."""
    for key in ('neck', 'decode_head'):
        layer = owner.get(key)
        layer = layer[0] if isinstance(layer, list | tuple) else layer
        channels = (layer or {}).get('in_channels')
        if isinstance(channels, list | tuple) and len(channels) == count:
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
        except ConfigError:
            raise
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
    """Build layers, and send maps of an image of ``side`` pixels through them.

    Raises:
        ConfigError: where no maps come out.
    """
    if maps is None:
        channels = image_channels(layers[0], scope)
        x: Any = torch.zeros(1, channels, side, side, device=device)
    else:
        sides = [-(-side // m.stride) for m in maps]
        x = tuple(
            torch.zeros(1, m.channels, s, s, device=device)
            for m, s in zip(maps, sides, strict=True)
        )
    for layer in layers:
        module = build_network(untrained(layer, scope), scope, weights=device == 'cpu')
        if isinstance(module, Backbone):  # which tells
            return tuple(map(Map, module.out_channels, module.out_strides))
        module.to(device)
        module.eval()  # which not all return themselves from
        with torch.device(device):
            x = module(x)
    x = [x] if isinstance(x, Tensor) else x
    if not isinstance(x, list | tuple) or not x or not all(is_map(m, side) for m in x):
        raise ConfigError(
            f'gives {described(x)} for an image of {side} x {side}, not maps '
            '[N, C, H, W]'
        )
    return tuple(Map(m.shape[1], round(side / m.shape[-1])) for m in x)


def is_map(x: Any, side: int) -> bool:
    """Tell a feature map of a square image from vectors and tokens, in any shape."""
    if not isinstance(x, Tensor) or x.dim() != 4:
        return False
    return x.shape[-1] == x.shape[-2] and 1 <= x.shape[-1] <= side


def described(x: Any) -> str:
    """Say what came out in the place of maps."""
    if isinstance(x, Tensor):
        return f'{list(x.shape)}'
    if isinstance(x, list | tuple):
        return f'{type(x).__name__} of {", ".join(map(described, x)) or "nothing"}'
    return f'a {type(x).__name__}'


def untrained(layer: Mapping, scope: str) -> dict:
    """Return the config of a layer that looks for no weights when it is built."""
    options = {k: v for k, v in layer.items() if k != 'init_cfg'}
    for option in ('pretrained', 'checkpoint_path'):
        if value := options.get(option, default_of(layer, option, scope)):
            options[option] = False if value is True else None
    return options


_MEASURED: dict[str, tuple[Map, ...]] = {}
