"""Heads of MMSegmentation, which select maps by ``in_index``."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.config import ConfigDict

from mmrecnext.errors import ConfigError
from mmrecnext.swap.consumers import Fitter, Heads, like
from mmrecnext.swap.measure import Map


class SegmentationFitter(Fitter):
    """Fits segmentors."""

    def fit_heads(
        self, heads: Heads, path: str, old: Sequence[Map], new: Sequence[Map]
    ) -> None:
        """Rewrite the channels of the maps that each head selects."""
        for head_path, head in heads:
            fit_head(head, head_path, old, new)


def fit_head(head: ConfigDict, path: str, old: Sequence[Map], new: Sequence[Map]):
    """Rewrite the channels of a head, of the maps that it selects."""
    if 'kernel_generate_head' in head:
        inner = head.kernel_generate_head
        fit_head(inner, f'{path}.kernel_generate_head', old, new)
    channels = head.get('in_channels')
    if channels is None:
        return
    is_one = isinstance(channels, int)
    index = head.get('in_index', -1 if is_one else range(len(old)))
    indices = [index] if isinstance(index, int) else list(index)
    expected = [old[i].channels for i in indices]
    if [channels] != expected if is_one else list(channels) != expected:
        raise ConfigError(
            f'{path}.in_channels: {channels}, but the maps that it takes have '
            f'{expected} channels'
        )
    head.in_channels = like(channels, [new[i].channels for i in indices])
    if head.get('c1_in_channels'):  # DeepLabV3+: of the finest map
        head.c1_in_channels = new[0].channels
    if head.get('num_convs') == 0 and head.get('channels') == channels:
        head.channels = head.in_channels
