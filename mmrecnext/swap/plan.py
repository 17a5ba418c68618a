"""Which stages of a new backbone take the place of which maps of the old one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

from mmrecnext.archs import NUM_STAGES, Arch, MLLAArch
from mmrecnext.engine.configs import type_of
from mmrecnext.errors import ConfigError
from mmrecnext.swap.measure import STRIDES, Map

FPNS = ('FPN', 'FPN_CARAFE', 'FPN_DropBlock', 'NASFPN', 'PAFPN')
"""Necks that take any number of maps, and add coarser ones up to ``num_outs``."""


@dataclass(frozen=True)
class Plan:
    """Which stages of the backbone give the maps, and how far they are dilated."""

    stages: tuple[int, ...]
    output_stride: int | None

    def options(self, arch: Arch | MLLAArch) -> dict[str, Any]:
        """Return the options of the backbone that differ from its defaults."""
        options: dict[str, Any] = {}
        if self.stages != tuple(range(NUM_STAGES)):
            options['out_indices'] = self.stages
        if self.output_stride:
            options['output_stride'] = max(self.output_stride, arch.strides[0])
        return options


def plan_stages(
    owner: Mapping[str, Any],
    maps: Sequence[Map],
    arch: Arch | MLLAArch,
    path: str,
    exact: bool = False,
) -> Plan:
    """Choose a stage for each map of the old backbone, by its depth.

    A map of stride 8 whose stage is dilated by 4 is as deep as one of stride 32. Below
    a feature pyramid, which adds coarser maps, those that no stage gives are left out.

    Args:
        owner: the node with the old ``backbone``.
        maps: of that.
        arch: what the new one is.
        path: of the node in the config.
        exact: whether to go by strides where the new stages have them.

    Raises:
        ConfigError: where the model cannot give such maps.
    """
    old = owner['backbone']
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
    # SSD's anchors go with the size of its images: the strides cannot double.
    exact = exact or stages[-1] >= NUM_STAGES or type_of(owner.get('neck')) == 'SSDNeck'
    if exact and set(strides) <= set(arch.strides):
        stages = [arch.strides.index(stride) for stride in strides]
    if stages[-1] >= NUM_STAGES and is_pyramid(owner.get('neck')):
        stages = [i for i, stride in enumerate(arch.strides) if stride in strides]
        depths = strides = [arch.strides[i] for i in stages]
    if not stages or sorted(depths) != depths or stages[-1] >= NUM_STAGES:
        raise ConfigError(
            f'{path}.backbone: {type_of(old)} gives maps of strides {strides}; those '
            f'of this {family_of(arch)} are {list(arch.strides)}'
        )
    if depths != strides and isinstance(arch, MLLAArch):
        raise ConfigError(
            f'{path}.backbone: {type_of(old)} is dilated, to strides {strides}, which '
            'an MLLA cannot be: take a RecNeXt'
        )
    return Plan(tuple(stages), max(strides) if depths != strides else None)


def dilations_of(old: Mapping[str, Any], maps: Sequence[Map]) -> list[int]:
    """Return by how much the stage of each map forgoes to reduce it, for dilation."""
    dilations = old.get('dilations')
    if not dilations or max(m.stride for m in maps) >= STRIDES[-1]:
        return [1] * len(maps)
    return [dilations[i] for i in old.get('out_indices', range(len(maps)))]


def family_of(arch: Arch | MLLAArch) -> str:
    """Return the name of the class of backbones that an arch describes."""
    return 'MLLA' if isinstance(arch, MLLAArch) else 'RecNeXt'


def is_pyramid(neck: Any) -> bool:
    """Tell a neck that takes any number of maps."""
    return type_of(neck[0] if isinstance(neck, list | tuple) else neck) in FPNS
