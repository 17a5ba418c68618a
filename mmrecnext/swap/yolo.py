"""Necks and heads of MMYOLO, whose channels a factor scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.config import ConfigDict

from mmrecnext.archs import Arch, MLLAArch
from mmrecnext.engine.configs import nodes, type_of
from mmrecnext.errors import ConfigError
from mmrecnext.swap.consumers import Heads
from mmrecnext.swap.detection import DetectionFitter
from mmrecnext.swap.measure import Map, default_of

FACTOR = 'widen_factor'

SCALED_FIELDS = ('in_channels', 'out_channels', 'feat_channels', 'proto_channels')
"""What the factor multiplies."""

AS_WIDE_AS_MAPS = ('YOLOv5PAFPN', 'YOLOv8PAFPN')
"""Necks that give maps of the channels that they take."""


class YOLOFitter(DetectionFitter):
    """Fits detectors of MMYOLO.

    The factor belongs to the old backbone, whose channels it scaled as well: those of
    another are no multiples of it. So it becomes 1 where channels are rewritten.
    """

    def fit(
        self, owner: ConfigDict, path: str, old: Sequence[Map], arch: Arch | MLLAArch
    ) -> None:
        """Fit neck and heads."""
        write_out_widths(owner.get('neck'), f'{path}.neck', self.scope)
        super().fit(owner, path, old, arch)

    def fit_neck(
        self, owner: ConfigDict, path: str, old: Sequence[Map], arch: Arch | MLLAArch
    ) -> None:
        """Rewrite the channels of the maps, on both sides where they are one."""
        super().fit_neck(owner, path, old, arch)
        if type_of(owner.get('neck')) in AS_WIDE_AS_MAPS:
            owner.neck.out_channels = owner.neck.in_channels

    def fit_heads(
        self, heads: Heads, path: str, old: Sequence[Map], new: Sequence[Map]
    ) -> None:
        """Rewrite the channels of heads behind such a neck."""
        if [m.channels for m in old] != [m.channels for m in new]:
            for head_path, head in heads:
                write_out_widths(head, head_path, self.scope)
        super().fit_heads(heads, path, old, new)


def write_out_widths(tree: Any, path: str, scope: str) -> None:
    """Write out the channels that a factor scales, and set that to 1, in place.

    Args:
        tree: neck or head.
        path: of it in the config.
        scope: framework of the config.

    Raises:
        ConfigError: for channels that the factor makes no whole number of.
    """
    for node in nodes(tree):
        factor = node.get(FACTOR, 1)
        if factor == 1:
            continue
        for field in SCALED_FIELDS:
            value = node.get(field) or default_of(node, field, scope)
            if value:
                node[field] = multiplied(value, factor, f'{path}.{FACTOR}')
        node[FACTOR] = 1.0


def multiplied(channels: Any, factor: float, path: str) -> Any:
    """Multiply channels, or lists and tuples of them.

    Raises:
        ConfigError: where a product is no whole number.
    """
    if isinstance(channels, list | tuple):
        return type(channels)(multiplied(one, factor, path) for one in channels)
    product = round(channels * factor)
    if abs(product - channels * factor) > 1e-6:
        raise ConfigError(
            f'{path}: {factor} times {channels} channels are {channels * factor:g}; '
            'give the channels themselves, and a factor of 1'
        )
    return product
