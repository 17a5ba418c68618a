"""Detectors of MMDetection3D that see images."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from mmengine.config import ConfigDict

from mmrecnext.archs import Arch, MLLAArch
from mmrecnext.engine.configs import nodes, type_of
from mmrecnext.swap.consumers import Heads
from mmrecnext.swap.detection import DetectionFitter
from mmrecnext.swap.measure import Map, default_of


class Detection3DFitter(DetectionFitter):
    """Fits detectors of MMDetection3D, SMOKE with its neck of DLA among them."""

    def measure(
        self, owner: ConfigDict, path: str, strides: Sequence[int] | None
    ) -> tuple[Map, ...]:
        """Return the maps of the old backbone that the neck looks at."""
        maps = super().measure(owner, path, strides)
        return skip_fine_maps(owner, maps, self.scope)

    def fit_neck(
        self, owner: ConfigDict, path: str, old: Sequence[Map], arch: Arch | MLLAArch
    ) -> None:
        """Rewrite the channels of the maps, and groups of norms that divide them."""
        super().fit_neck(owner, path, old, arch)
        neck = owner.get('neck')
        if type_of(neck) == 'DLANeck' and type_of(neck.get('norm_cfg')) == 'GN':
            groups = neck.norm_cfg.num_groups
            neck.norm_cfg.num_groups = gcd(groups, *neck.in_channels)

    def fit_heads(
        self, heads: Heads, path: str, old: Sequence[Map], new: Sequence[Map]
    ) -> None:
        """Rewrite the channels of heads."""
        super().fit_heads(heads, path, old, new)
        for node in nodes([head for _, head in heads]):
            if node.get('stacked_convs') == 0:  # nothing in between that changes them
                node.feat_channels = node.in_channels


def skip_fine_maps(
    owner: ConfigDict, maps: Sequence[Map], scope: str
) -> tuple[Map, ...]:
    """Have a neck of DLA count from the first map that it looks at, in place.

    Its backbone gives maps of strides 1 and 2 besides, which no RecNeXt has.

    Returns:
        The maps that are looked at.
    """
    neck = owner.get('neck')
    if type_of(neck) != 'DLANeck':
        return tuple(maps)
    first, last = (
        neck.get(level, default_of(neck, level, scope))
        for level in ('start_level', 'end_level')
    )
    neck.in_channels = neck.in_channels[first:]
    neck.update(start_level=0, end_level=last - first)
    return tuple(maps[first:])
