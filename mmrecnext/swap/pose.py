"""Necks and heads of MMPose, which take the last map of all, or its mean."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from mmengine.config import ConfigDict

from mmrecnext.archs import NUM_STAGES, Arch, MLLAArch
from mmrecnext.engine.configs import nodes, type_of
from mmrecnext.errors import ConfigError
from mmrecnext.swap.consumers import Fitter, Heads
from mmrecnext.swap.measure import STRIDES, Map, default_of, measure_backbone
from mmrecnext.swap.plan import Plan

OF_ANY_CHANNELS = ('FeatureMapProcessor', 'GlobalAveragePooling')
"""Necks that ask for none."""

FPN_CHANNELS = 128
"""Of the map that a pyramid gives in the place of one of high resolution."""

STAGED = 'each of its stages predicts what the next one refines, and a head takes all'
NO_PICTURES = 'it lifts poses that are found into space, and sees no picture'

WELDED = {
    'CPM': STAGED,
    'HourglassNet': STAGED,
    'MSPN': STAGED,
    'RSN': STAGED,
    'DSTFormer': NO_PICTURES,
    'TCN': NO_PICTURES,
}
"""Backbones that cannot be swapped, by type, and why."""


class PoseFitter(Fitter):
    """Fits pose estimators, whose heatmaps have the size that their codec says."""

    keeps_strides = True
    takes_fpn = True

    def check(self, owner: ConfigDict, path: str) -> None:
        """Refuse backbones that are one with their heads; see :class:`Fitter`."""
        kind = type_of(owner.backbone)
        if kind in WELDED:
            raise ConfigError(
                f'{path}.backbone: {kind} cannot be swapped: {WELDED[kind]}'
            )
        super().check(owner, path)

    def plan(
        self,
        owner: ConfigDict,
        path: str,
        maps: Sequence[Map],
        arch: Arch | MLLAArch,
    ) -> Plan:
        """Choose stages; all of them below a pyramid.

        Raises:
            ConfigError: where they would be the first alone, and no pyramid is wanted.
        """
        if not self._is_alone(owner, maps):
            return super().plan(owner, path, maps, arch)
        if not self.fpn:
            raise ConfigError(
                f'{path}.backbone: {type_of(owner.backbone)} keeps one map of stride '
                f'{maps[0].stride}, in the place of which a head would get the first '
                'stage alone. --fpn (`fpn=True`) puts a feature pyramid in between; '
                'or take a config of ResNet'
            )
        return Plan(tuple(range(NUM_STAGES)), None)

    def _is_alone(self, owner: ConfigDict, maps: Sequence[Map]) -> bool:
        return not owner.get('neck') and [m.stride for m in maps] == [STRIDES[0]]

    def fit_neck(
        self, owner: ConfigDict, path: str, old: Sequence[Map], arch: Arch | MLLAArch
    ) -> None:
        """Rewrite the neck, or put a pyramid in between; see :class:`Fitter`."""
        if self._is_alone(owner, old):
            owner.neck = pyramid(measure_backbone(owner, path, self.scope))
        elif type_of(owner.get('neck')) not in OF_ANY_CHANNELS:
            super().fit_neck(owner, path, old, arch)

    def behind_neck(
        self, maps: Sequence[Map], owner: ConfigDict, path: str
    ) -> tuple[Map, ...]:
        """Return the maps that heads get; the mean of some has their channels."""
        if type_of(owner.get('neck')) == 'GlobalAveragePooling':
            return tuple(maps)
        return super().behind_neck(maps, owner, path)

    def fit_heads(
        self, heads: Heads, path: str, old: Sequence[Map], new: Sequence[Map]
    ) -> None:
        """Rewrite the channels of the last map.

        Raises:
            ConfigError: where a head has other ones.
        """
        before, after = old[-1].channels, new[-1].channels
        for head_path, head in heads:
            fields = [n for n in nodes(head) if n.get('in_channels') == before]
            if not fields and before != after:
                raise ConfigError(
                    f'{head_path}.in_channels: {head.get("in_channels")} are not the '
                    f'{before} channels of the map that it takes'
                )
            for node in fields:
                node.in_channels = after
                self._fit_groups(node)

    def _fit_groups(self, head: ConfigDict) -> None:
        """Have the groups of a head's first deconvolution divide what it takes."""
        field = 'deconv_num_groups'
        groups = head.get(field) or default_of(head, field, self.scope)
        if groups and head.in_channels % groups[0]:
            head[field] = (gcd(groups[0], head.in_channels), *groups[1:])

    def fit_strides(
        self, heads: Heads, path: str, old: Sequence[Map], new: Sequence[Map]
    ) -> None:
        """Refuse maps of another stride.

        Raises:
            ConfigError: naming both.
        """
        before, after = ([m.stride for m in maps] for maps in (old, new))
        if before != after:
            raise ConfigError(
                f'{path}.head: it would get maps of strides {after} in place of '
                f'{before}, and give heatmaps of another size than its codec has: take '
                'an arch that begins at stride 4'
            )


def pyramid(maps: Sequence[Map]) -> ConfigDict:
    """Return a neck that gives one map of stride 4, of all maps of a backbone."""
    options = dict(
        in_channels=[m.channels for m in maps],
        out_channels=FPN_CHANNELS,
        num_outs=len(maps),
    )
    if maps[0].stride == STRIDES[0]:
        fpn = dict(type='FPN', **options)
    else:
        fpn = dict(type='mmrecnext.FPNWithStride4', **options)
        fpn['num_outs'] = len(maps) + 1
    return ConfigDict(type='mmrecnext.FinestMap', neck=fpn)
