"""What takes the maps of a backbone: necks, heads, anchors and RoI extractors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from mmengine.config import ConfigDict

from mmrecnext.archs import NUM_STAGES, Arch, MLLAArch
from mmrecnext.engine.configs import nodes, type_of
from mmrecnext.errors import ConfigError, OptionError
from mmrecnext.swap.measure import (
    Map,
    default_of,
    measure_backbone,
    measure_necks,
)
from mmrecnext.swap.plan import Plan, is_pyramid, plan_stages
from mmrecnext.swap.reasons import check_backbone
from mmrecnext.swap.training import is_other_model

Heads: TypeAlias = Sequence[tuple[str, ConfigDict]]
"""Path and node of each head."""

STRIDE_FIELDS = ('strides', 'featmap_strides', 'feature_strides', 'point_strides')

NO_HEADS = ('backbone', 'neck', 'data_preprocessor', 'train_cfg', 'test_cfg')


class Fitter:
    """Makes what stands behind a backbone fit another one, in models of a framework.

    What a framework does otherwise, its own fitter overrides: see ``FITTERS``.

    Args:
        scope: the framework.
        fpn: whether to put a feature pyramid where a head takes the finest map alone.

    Raises:
        OptionError: where nothing takes a pyramid.

    Attributes:
        takes_fpn (bool): whether ``fpn`` is an option.
        keeps_strides (bool): whether maps must have the strides that they had before,
            where stages of the new backbone have them. If not, they are as deep.
    """

    keeps_strides = False
    takes_fpn = False

    def __init__(self, scope: str, fpn: bool = False):
        if fpn and not self.takes_fpn:
            raise OptionError(f'fpn is for pose estimators, not for {scope}')
        self.scope = scope
        self.fpn = fpn

    def check(self, owner: ConfigDict, path: str) -> None:
        """Refuse a backbone that cannot be swapped, before it is measured.

        Args:
            owner: the node with the keys ``backbone`` and perhaps ``neck``.
            path: of the node in the config.

        Raises:
            ConfigError: with the reason.
        """
        check_backbone(owner, path)

    def measure(
        self, owner: ConfigDict, path: str, strides: Sequence[int] | None
    ) -> tuple[Map, ...]:
        """Return the maps of the old backbone; see :func:`measure_backbone`."""
        return measure_backbone(owner, path, self.scope, strides)

    def plan(
        self,
        owner: ConfigDict,
        path: str,
        maps: Sequence[Map],
        arch: Arch | MLLAArch,
    ) -> Plan:
        """Choose a stage of the new backbone for each of those maps.

        Raises:
            ConfigError: where it cannot give such maps.
        """
        return plan_stages(owner, maps, arch, path, self.keeps_strides)

    def fit(
        self, owner: ConfigDict, path: str, old: Sequence[Map], arch: Arch | MLLAArch
    ) -> None:
        """Fit neck and heads to the new backbone, in place.

        Args:
            owner: the node with the new ``backbone``.
            path: of the node in the config.
            old: maps of the old backbone.
            arch: what the new one is.

        Raises:
            ConfigError: naming a field that cannot be rewritten.
        """
        given: Sequence[Map] | None
        try:
            given = self.behind_neck(old, owner, path)
        except ConfigError:  # such as for want of an operator
            given = None
        self.fit_neck(owner, path, old, arch)
        maps = measure_backbone(owner, path, self.scope)
        if given is None:
            if [m.stride for m in maps] == [m.stride for m in old]:
                return  # the neck makes of the maps what it made of the old ones
            given, new = old, tuple(maps)
        else:
            new = self.behind_neck(maps, owner, path)
        heads = list(find_heads(owner, path))
        self.fit_heads(heads, path, given, new)
        self.fit_strides(heads, path, given, new)

    def behind_neck(
        self, maps: Sequence[Map], owner: ConfigDict, path: str
    ) -> tuple[Map, ...]:
        """Return what heads get of those maps of a backbone.

        Raises:
            ConfigError: where the neck cannot be built, or does not take the maps.
        """
        return measure_necks(maps, as_list(owner.get('neck')), path, self.scope)

    def fit_neck(
        self, owner: ConfigDict, path: str, old: Sequence[Map], arch: Arch | MLLAArch
    ) -> None:
        """Rewrite what the first neck knows of the backbone's maps."""
        if owner.get('neck'):
            fit_neck(owner, path, old, arch, self.scope)

    def fit_heads(
        self, heads: Heads, path: str, old: Sequence[Map], new: Sequence[Map]
    ) -> None:
        """Rewrite the channels of heads.

        Args:
            heads: path and node of each.
            path: of the model.
            old: maps that they took.
            new: maps that they take.
        """
        raise NotImplementedError

    def fit_strides(
        self, heads: Heads, path: str, old: Sequence[Map], new: Sequence[Map]
    ) -> None:
        """Rewrite what heads know of strides, likewise."""
        fit_strides(heads, path, old, new, self.scope)

    def fit_model(
        self, model: ConfigDict, owner: ConfigDict, path: str, old: Sequence[Map]
    ) -> None:
        """Rewrite what stands elsewhere in the model, such as how images are padded.

        Args:
            model: the whole model.
            owner: its part with the new backbone.
            path: of that part.
            old: maps of the old backbone.
        """


def as_list(node: Any) -> list:
    """Return a node that may be one or a list of several, or none, as a list."""
    if not node:
        return []
    return list(node) if isinstance(node, list | tuple) else [node]


def find_heads(owner: Mapping, path: str) -> Iterator[tuple[str, ConfigDict]]:
    """Yield path and node of each head."""
    for key, value in owner.items():
        if key in NO_HEADS or is_other_model(key) or 'head' not in key:
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


def fit_strides(
    heads: Heads, path: str, old: Sequence[Map], new: Sequence[Map], scope: str
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


def scaled(strides: Any, factor: int) -> Any:
    """Multiply a stride, or strides in lists and tuples."""
    if isinstance(strides, list | tuple):
        return type(strides)(scaled(stride, factor) for stride in strides)
    return strides * factor
