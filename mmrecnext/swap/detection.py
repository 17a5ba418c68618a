"""Heads of detectors, which know channels, strides and how images are padded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmengine.config import ConfigDict

from mmrecnext.archs import Arch, MLLAArch
from mmrecnext.engine.configs import nodes
from mmrecnext.errors import ConfigError
from mmrecnext.swap.consumers import Fitter, Heads, as_list, is_pyramid, like
from mmrecnext.swap.measure import Map, measure_backbone
from mmrecnext.swap.training import swapped_nodes

CHANNEL_FIELDS = ('in_channels', 'out_channels')


class DetectionFitter(Fitter):
    """Fits detectors."""

    def fit_neck(
        self, owner: ConfigDict, path: str, old: Sequence[Map], arch: Arch | MLLAArch
    ) -> None:
        """Rewrite the neck, or put one before a head that is a stage of its own."""
        super().fit_neck(owner, path, old, arch)
        if not owner.get('neck') and 'shared_head' in (owner.get('roi_head') or {}):
            keep_channels(owner, path, old, self.scope)

    def fit_heads(
        self, heads: Heads, path: str, old: Sequence[Map], new: Sequence[Map]
    ) -> None:
        """Rewrite the channels of heads that no neck shields.

        Raises:
            ConfigError: where no field has the channels of the old maps.
        """
        if [m.channels for m in old] != [m.channels for m in new]:
            fit_channels(heads, path, old, new)

    def fit_model(
        self, model: ConfigDict, owner: ConfigDict, path: str, old: Sequence[Map]
    ) -> None:
        """Have images padded to whole pixels of the coarsest map."""
        if not is_pyramid(owner.get('neck')):
            fit_padding(model, old, measure_backbone(owner, path, self.scope))


def keep_channels(owner: ConfigDict, path: str, old: Sequence[Map], scope: str):
    """Feed a shared head, a stage of the old backbone, with as many channels as before.

    A 1x1 convolution stands in between.
    """
    owner.neck = ConfigDict(
        type='ChannelMapper',
        in_channels=[m.channels for m in measure_backbone(owner, path, scope)],
        kernel_size=1,
        out_channels=old[-1].channels,
        act_cfg=None,
        num_outs=len(old),
    )


def fit_channels(heads: Heads, path: str, old: Sequence[Map], new: Sequence[Map]):
    """Rewrite the channels of heads wherever they are those of all maps.

    Raises:
        ConfigError: where no field has the channels of the old maps.
    """
    before = [m.channels for m in old]
    found = False
    for node in nodes([head for _, head in heads]):
        for field in CHANNEL_FIELDS:
            value = node.get(field)
            if value is None or as_list(value) != before:
                continue
            node[field] = like(value, [m.channels for m in new])
            found = True
    if not found:
        raise ConfigError(
            f'{path}: no head has `in_channels` of {before}, the channels of the maps '
            'that it takes'
        )


def fit_padding(model: Mapping, old: Sequence[Map], new: Sequence[Map]):
    """Have images padded to whole pixels of the coarsest map, as before, in place.

    An FPN adapts to any size; others, as YOLOX's, double a map and lay it on the next.
    """
    before, now = (max(m.stride for m in maps) for maps in (old, new))
    if now <= before:
        return
    for node in swapped_nodes(model):
        for field in ('pad_size_divisor', 'size_divisor'):
            value = node.get(field)
            if isinstance(value, int) and value % before == 0 < value % now:
                node[field] = value * now // before
