"""Heads of MMPose, which take the last map of all."""

from __future__ import annotations

from collections.abc import Sequence

from mmrecnext.engine.configs import nodes
from mmrecnext.errors import ConfigError
from mmrecnext.swap.consumers import Fitter, Heads
from mmrecnext.swap.measure import Map


class PoseFitter(Fitter):
    """Fits pose estimators, whose heatmaps have the size that their codec says."""

    keeps_strides = True

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
