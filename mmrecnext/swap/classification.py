"""Heads of MMPretrain, which take a vector: the mean of the last map."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.config import ConfigDict

from mmrecnext.archs import NUM_STAGES, Arch, MLLAArch
from mmrecnext.errors import ConfigError
from mmrecnext.swap.consumers import Fitter
from mmrecnext.swap.measure import Map, measure_backbone
from mmrecnext.swap.plan import Plan


class ClassificationFitter(Fitter):
    """Fits classifiers, to the last stage alone."""

    def check(self, owner: ConfigDict, path: str) -> None:
        """Refuse heads that take no vector."""
        if 'in_channels' not in (owner.get('head') or {}):
            raise ConfigError(f'{path}.head: it takes no vector of known length')

    def measure(
        self, owner: ConfigDict, path: str, strides: Sequence[int] | None
    ) -> tuple[Map, ...]:
        """Return the map that the head takes the mean of; nothing is built."""
        return (Map(owner.head.in_channels, 32),)

    def plan(
        self,
        owner: ConfigDict,
        path: str,
        maps: Sequence[Map],
        arch: Arch | MLLAArch,
    ) -> Plan:
        """Choose the last stage."""
        return Plan((NUM_STAGES - 1,), None)

    def fit(
        self, owner: ConfigDict, path: str, old: Sequence[Map], arch: Arch | MLLAArch
    ) -> None:
        """Have the head take the mean of the last map."""
        owner.neck = ConfigDict(type='GlobalAveragePooling')
        maps = measure_backbone(owner, path, self.scope)
        owner.head.in_channels = maps[-1].channels
