"""The swap itself: which stages take the place of which maps, and the new backbone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmrecnext.archs import NUM_STAGES, Arch, get_arch
from mmrecnext.checkpoint.sources import check_source
from mmrecnext.cli import FRAMEWORKS, SYNCED_NORMS, nodes
from mmrecnext.errors import ConfigError, OptionError
from mmrecnext.pretrained import get_pretrained
from mmrecnext.swap.consumers import fit_consumers
from mmrecnext.swap.files import read_config
from mmrecnext.swap.measure import (
    IMAGE_CHANNELS,
    STRIDES,
    Map,
    measure_backbone,
    type_of,
)
from mmrecnext.swap.reasons import check_backbone, check_model
from mmrecnext.swap.training import fit_training

KEPT = {'with_cp': False, 'in_channels': IMAGE_CHANNELS}
"""Options of the old backbone that mean the same to RecNeXt, and their defaults."""


def swap_backbone(
    cfg: Config | Mapping | str | Path,
    arch: str | Mapping = 'm3',
    pretrained: bool | str | None = True,
) -> Config:
    """Put a RecNeXt in the place of the backbone of a detector or segmentor.

    What depends on the backbone is rewritten too: channels of necks and heads, strides,
    normalisation of the images, weights to start from, and optimizer settings that name
    it. What trained the old backbone (frozen stages, fixed norms, stochastic depth)
    goes with it, as in the published RecNeXt recipes.

    Args:
        cfg: a config of MMDetection or MMSegmentation: loaded, or a path, or a name
            such as ``mmdet::retinanet/retinanet_r50_fpn_1x_coco.py``.
        arch: the RecNeXt, as its option of that name.
        pretrained: weights to start from: True for the default published ones of
            ``arch``, a path, URL or name for others, False or None for none.

    Returns:
        A new config; the given one stays as it is.

    Raises:
        ConfigError: for a config whose backbone cannot be swapped, or in which
            something cannot be rewritten, naming the field.
        OptionError: for an unknown ``arch``, or one without published weights.
        CheckpointError: for weights that are no file, URL or published name.
    """
    layout = get_arch(arch)
    init_cfg = initialisation(arch, pretrained)
    if isinstance(cfg, str | Path):
        cfg = read_config(cfg)
    cfg = copy.deepcopy(cfg if isinstance(cfg, Config) else Config(dict(cfg)))
    scope = cfg.get('default_scope')
    if scope not in FRAMEWORKS:
        raise ConfigError(
            f'default_scope is {scope}; configs for {" and ".join(FRAMEWORKS)} can be '
            'swapped'
        )
    if not cfg.get('model'):
        raise ConfigError('model: the config has none')
    check_model(cfg.model)
    owners = list(find_owners(cfg.model))
    if not owners:
        raise ConfigError(f'model.backbone: {type_of(cfg.model)} has none')

    synced = any(type_of(node) in SYNCED_NORMS for node in nodes(cfg.model))
    for path, owner in owners:
        check_backbone(owner, path)
        old = owner.backbone
        maps = measure_backbone(owner, path, scope)
        plan = plan_stages(old, maps, layout, path)
        if (
            pretrained is True
            and old.get('in_channels', IMAGE_CHANNELS) != IMAGE_CHANNELS
        ):
            raise OptionError(
                f'{path}.backbone.in_channels is {old.in_channels}: no weights are '
                'published for that; name a checkpoint, or set pretrained=False'
            )
        owner.backbone = ConfigDict(
            type='mmrecnext.RecNeXt',
            arch=copy.deepcopy(arch),
            **plan.options(layout),
            **({'norm_cfg': dict(type='SyncBN')} if synced else {}),
            **{
                k: old[k]
                for k, default in KEPT.items()
                if old.get(k, default) != default
            },
            **({'init_cfg': init_cfg} if init_cfg else {}),
        )
        fit_consumers(owner, path, maps, layout, scope)
    fit_training(cfg, owners)
    return cfg


def initialisation(arch: str | Mapping, pretrained: bool | str | None) -> dict | None:
    """Return the ``init_cfg`` of a RecNeXt, or None for a start from scratch."""
    if not pretrained:
        return None
    if pretrained is True:
        if not isinstance(arch, str):
            raise OptionError(
                'pretrained=True takes a published arch by its name; for a dict of '
                'settings name a checkpoint that fits, or set pretrained=False'
            )
        pretrained = get_pretrained(arch).name
    check_source(str(pretrained))
    return dict(type='Pretrained', checkpoint=str(pretrained))


def find_owners(node: Mapping, path: str = 'model') -> Iterator[tuple[str, ConfigDict]]:
    """Yield the nodes that have a backbone, teachers and re-identification excepted."""
    if isinstance(node.get('backbone'), Mapping):
        yield path, node
    for key, value in node.items():
        if isinstance(value, Mapping) and not key.startswith(('teacher', 'reid')):
            yield from find_owners(value, f'{path}.{key}')


@dataclass(frozen=True)
class Plan:
    """Which stages of a RecNeXt give the maps, and how far they are dilated."""

    stages: tuple[int, ...]
    output_stride: int | None

    def options(self, arch: Arch) -> dict:
        """Return the options of the backbone that differ from its defaults."""
        options: dict = {}
        if self.stages != tuple(range(NUM_STAGES)):
            options['out_indices'] = self.stages
        if self.output_stride:
            options['output_stride'] = max(self.output_stride, arch.strides[0])
        return options


def plan_stages(old: Mapping, maps: Sequence[Map], arch: Arch, path: str) -> Plan:
    """Choose a stage for each map of the old backbone, by its depth.

    A map of stride 8 whose stage is dilated by 4 is as deep as one of stride 32.

    Raises:
        ConfigError: where a RecNeXt cannot give such maps.
    """
    strides = [m.stride for m in maps]
    depths = [m.stride * d for m, d in zip(maps, dilations_of(old, maps), strict=True)]
    if len(maps) > 1 and len(set(depths)) == 1:
        raise ConfigError(
            f'{path}.backbone: all maps of {type_of(old)} have the stride '
            f'{strides[0]}, and what follows is made for those'
        )
    stages: list[int] = []
    for depth in depths:
        nearest = round(log2(depth / STRIDES[0]))
        stages.append(max(nearest, stages[-1] + 1 if stages else 0))
    if stages[-1] >= NUM_STAGES and set(strides) <= set(arch.strides):
        stages = [arch.strides.index(stride) for stride in strides]
    if sorted(depths) != depths or stages[-1] >= NUM_STAGES:
        raise ConfigError(
            f'{path}.backbone: {type_of(old)} gives maps of strides {strides}; those '
            f'of this RecNeXt are {list(arch.strides)}'
        )
    return Plan(tuple(stages), max(strides) if depths != strides else None)


def dilations_of(old: Mapping, maps: Sequence[Map]) -> list[int]:
    """Return by how much the stage of each map forgoes to reduce it, for dilation."""
    dilations = old.get('dilations')
    if not dilations or max(m.stride for m in maps) >= STRIDES[-1]:
        return [1] * len(maps)
    return [dilations[i] for i in old.get('out_indices', range(len(maps)))]
