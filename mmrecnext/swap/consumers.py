"""What takes the maps of a backbone: necks, heads, anchors and RoI extractors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import ConfigDict

from mmrecnext.archs import NUM_STAGES, Arch, MLLAArch
from mmrecnext.engine.configs import nodes, type_of
from mmrecnext.errors import ConfigError
from mmrecnext.swap.measure import (
    Map,
    default_of,
    measure_backbone,
    measure_necks,
)

FPNS = ('FPN', 'FPN_CARAFE', 'FPN_DropBlock', 'NASFPN', 'PAFPN')
"""Necks that take any number of maps, and add coarser ones up to ``num_outs``."""

STRIDE_FIELDS = ('strides', 'featmap_strides', 'feature_strides', 'point_strides')
CHANNEL_FIELDS = ('in_channels', 'out_channels')
NO_HEADS = ('backbone', 'neck', 'data_preprocessor', 'train_cfg', 'test_cfg')


def fit_consumers(
    owner: ConfigDict, path: str, old: Sequence[Map], arch: Arch | MLLAArch, scope: str
):
    """Make what stands behind a new backbone fit it, in place.

    Args:
        owner: the node with the new ``backbone``.
        path: of the node in the config.
        old: maps of the old backbone.
        arch: what the new one is.
        scope: framework of the config.

    Raises:
        ConfigError: naming a field that cannot be rewritten.
    """
    given: Sequence[Map] | None
    try:
        given = measure_necks(old, as_list(owner.get('neck')), path, scope)
    except ConfigError:  # such as for want of an operator
        given = None
    if owner.get('neck'):
        fit_neck(owner, path, old, arch, scope)
    elif 'shared_head' in (owner.get('roi_head') or {}):
        keep_channels(owner, path, old, scope)
    maps = measure_backbone(owner, path, scope)
    if given is None:
        if [m.stride for m in maps] == [m.stride for m in old]:
            return  # the neck makes of the maps what it made of the old ones
        given, new = old, tuple(maps)
    else:
        new = measure_necks(maps, as_list(owner.get('neck')), path, scope)

    heads = list(find_heads(owner, path))
    if scope == 'mmseg':
        for head_path, head in heads:
            fit_segmentation_head(head, head_path, given, new)
    elif [m.channels for m in given] != [m.channels for m in new]:
        fit_detection_heads(heads, path, given, new)
    fit_strides(heads, path, given, new, scope)


def as_list(node: Any) -> list:
    """Return a node that may be one or a list of several, or none, as a list."""
    if not node:
        return []
    return list(node) if isinstance(node, list | tuple) else [node]


def find_heads(owner: Mapping, path: str) -> Iterator[tuple[str, ConfigDict]]:
    """Yield path and node of each head."""
    for key, value in owner.items():
        if key in NO_HEADS or key.startswith('teacher') or 'head' not in key:
            continue
        for i, head in enumerate(as_list(value)):
            if isinstance(head, Mapping):
                index = f'[{i}]' if isinstance(value, list | tuple) else ''
                yield f'{path}.{key}{index}', head


def like(old: Any, new: Sequence[int]) -> Any:
    """Return numbers in the form that others have: a number, a list or a tuple."""
    if isinstance(old, int):
        return new[0]
    return type(old)(new) if isinstance(old, tuple) else list(new)


def translated(value: Any, old: Sequence[Map], new: Sequence[Map]) -> Any:
    """Return the channels of the new maps where ``value`` has those of the old ones.

    Returns:
        In the form of ``value``, of neighbouring maps, the finest first or last; None
        if the old maps have no such channels.
    """
    values = list(value) if isinstance(value, list | tuple) else [value]
    count = len(values)
    for start in range(len(old) - count, -1, -1):
        here = slice(start, start + count)
        before = [m.channels for m in old[here]]
        after = [m.channels for m in new[here]]
        if values == before:
            return like(value, after)
        if values == before[::-1]:
            return like(value, after[::-1])
    return None


def fit_neck(
    owner: ConfigDict, path: str, old: Sequence[Map], arch: Arch | MLLAArch, scope: str
):
    """Rewrite what the first neck knows of the backbone's maps."""
    is_list = isinstance(owner.neck, list | tuple)
    neck = owner.neck[0] if is_list else owner.neck
    new = measure_backbone(owner, path, scope)
    if translated(neck.get('in_channels'), old, old) is None:
        raise ConfigError(
            f'{path}.neck{"[0]" if is_list else ""}.in_channels: '
            f'{neck.get("in_channels")} are not the channels of the maps of the '
            f'backbone, {[m.channels for m in old]}'
        )
    same = [m.stride for m in new] == [m.stride for m in old]
    if is_pyramid(neck) and not same and fit_pyramid(owner.backbone, neck, old, arch):
        return
    channels = translated(neck.in_channels, old, new)
    neck.in_channels = channels
    if type_of(neck) == 'SSDNeck':  # it passes on the backbone's maps
        neck.out_channels = (*channels, *neck.out_channels[len(channels) :])
        if type_of(owner.get('bbox_head')) == 'SSDHead':
            owner.bbox_head.type = 'mmrecnext.SSDHead'


def is_pyramid(neck: Any) -> bool:
    """Tell a neck that takes any number of maps."""
    return type_of(neck[0] if isinstance(neck, list | tuple) else neck) in FPNS


def fit_pyramid(
    backbone: ConfigDict, neck: ConfigDict, old: Sequence[Map], arch: Arch | MLLAArch
) -> bool:
    """Have an FPN keep its strides over a backbone that begins at a coarser one.

    It takes the stages from the finest stride that it used on; or, where that is finer
    than all stages, all of them, and one level more.

    Returns:
        Whether it can.
    """
    finest = old[neck.get('start_level', 0)].stride
    if finest in arch.strides:
        first = arch.strides.index(finest)
        stages = range(NUM_STAGES)[first : first + neck.num_outs]
    elif (
        type_of(neck) == 'FPN'
        and 2 * finest == arch.strides[0]
        and neck.num_outs > NUM_STAGES
    ):
        neck.type = 'mmrecnext.FPNWithStride4'
        stages = range(NUM_STAGES)
    else:
        return False
    backbone.out_indices = tuple(stages)
    neck.in_channels = like(neck.in_channels, [arch.dims[i] for i in stages])
    if 'start_level' in neck:
        neck.start_level = 0
    return True


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


def fit_segmentation_head(
    head: ConfigDict, path: str, old: Sequence[Map], new: Sequence[Map]
):
    """Rewrite the channels of a head of MMSegmentation, of the maps that it selects."""
    if 'kernel_generate_head' in head:
        inner = head.kernel_generate_head
        fit_segmentation_head(inner, f'{path}.kernel_generate_head', old, new)
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


def fit_detection_heads(
    heads: Sequence[tuple[str, ConfigDict]],
    path: str,
    old: Sequence[Map],
    new: Sequence[Map],
):
    """Rewrite the channels of heads of MMDetection that no neck shields.

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


def fit_strides(
    heads: Sequence[tuple[str, ConfigDict]],
    path: str,
    old: Sequence[Map],
    new: Sequence[Map],
    scope: str,
):
    """Scale the strides of anchors, RoI extractors and heads with those of the maps.

    Raises:
        ConfigError: where the maps do not all scale alike.
    """
    if [m.stride for m in old] == [m.stride for m in new]:
        return
    factors = {n.stride / o.stride for o, n in zip(old, new, strict=False)}
    nodes_with = [
        (node, field, strides)
        for node in nodes([head for _, head in heads])
        for field in STRIDE_FIELDS
        if (strides := node.get(field) or default_of(node, field, scope))
    ]
    if nodes_with and (len(factors) > 1 or len(old) != len(new)):
        raise ConfigError(
            f'{path}: heads that know strides would get maps of '
            f'{[m.stride for m in new]} in place of {[m.stride for m in old]}'
        )
    for node, field, strides in nodes_with:
        node[field] = scaled(strides, int(*factors))


def fit_padding(model: Mapping, old: Sequence[Map], new: Sequence[Map]):
    """Have images padded to whole pixels of the coarsest map, as before, in place.

    An FPN adapts to any size; others, as YOLOX's, double a map and lay it on the next.
    """
    before, now = (max(m.stride for m in maps) for maps in (old, new))
    if now <= before:
        return
    for node in nodes(model):
        for field in ('pad_size_divisor', 'size_divisor'):
            value = node.get(field)
            if isinstance(value, int) and value % before == 0 < value % now:
                node[field] = value * now // before


def scaled(strides: Any, factor: int) -> Any:
    """Multiply a stride, or strides in lists and tuples."""
    if isinstance(strides, list | tuple):
        return type(strides)(scaled(stride, factor) for stride in strides)
    return strides * factor
