"""Necks and heads of MMPretrain, which take the mean of the last map."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.config import ConfigDict

from mmrecnext.archs import NUM_STAGES, Arch, MLLAArch
from mmrecnext.engine.configs import nodes, type_of
from mmrecnext.errors import ConfigError
from mmrecnext.swap.consumers import Fitter, as_list
from mmrecnext.swap.measure import Map, default_of
from mmrecnext.swap.plan import Plan

MEAN = dict(type='GlobalAveragePooling')
MEANS = ('GlobalAveragePooling', 'HRFuseScales')
"""Necks in whose place the mean of the last map can be."""

OF_MAPS = ('CSRAClsHead',)
"""Heads that take the last map itself."""

DISTILLED = ('EfficientFormerClsHead', 'LeViTClsHead')
"""Heads that may have a second one, which learns from a teacher."""

TOKENS = 'it takes tokens of a transformer, not the mean of a map'
WELDED = {
    'ClsBatchNormNeck': TOKENS,
    'ConformerHead': TOKENS,
    'DeiTClsHead': TOKENS,
    'LeNet5': 'it sees grey pictures of 28 x 28 pixels, less than one of the last map',
}
"""What can not be swapped, or keeps another backbone out, by type, and why."""

WITH_CLASSES = {
    'ClsHead': 'LinearClsHead',
    'MultiLabelClsHead': 'MultiLabelLinearClsHead',
}
"""Heads behind backbones that tell classes themselves, and what does it for others."""

MASKED = (
    'it learns from masked pictures, and only its own backbone knows what is masked'
)
MODELS_WITHOUT = dict.fromkeys(
    ('BEiT', 'CAE', 'EVA', 'iTPN', 'MAE', 'MaskFeat', 'MFF', 'MILAN', 'MixMIM'), MASKED
) | {'SimMIM': MASKED, 'SparK': MASKED}
"""Models that can have no other backbone, by type, and why."""


class ClassificationFitter(Fitter):
    """Fits classifiers, and what learns without labels, to the last stage alone."""

    def check(self, owner: ConfigDict, path: str) -> None:
        """Refuse what can have no other backbone; see :class:`Fitter`."""
        kind = type_of(owner)
        if kind in MODELS_WITHOUT:
            raise ConfigError(f'{path}.type: {kind}: {MODELS_WITHOUT[kind]}')
        for part in ('backbone', 'neck', 'head'):
            for node in as_list(owner.get(part)):
                if reason := WELDED.get(type_of(node)):
                    raise ConfigError(f'{path}.{part}: {type_of(node)}: {reason}')

    def measure(
        self, owner: ConfigDict, path: str, strides: Sequence[int] | None
    ) -> tuple[Map, ...]:
        """Return nothing: whatever came out, maps, vectors, tokens, is left behind."""
        return ()

    def plan(
        self,
        owner: ConfigDict,
        path: str,
        maps: Sequence[Map],
        arch: Arch | MLLAArch,
    ) -> Plan:
        """Choose the last stage; and a head, where the old backbone told classes."""
        head = owner.get('head') or ConfigDict()
        if type_of(head) in WITH_CLASSES:
            classes = owner.backbone.get('num_classes')
            classes = classes or default_of(owner.backbone, 'num_classes', self.scope)
            head.type = WITH_CLASSES[type_of(head)]
            head.update(num_classes=classes, in_channels=arch.dims[-1])
        return Plan((NUM_STAGES - 1,), None)

    def fit(
        self, owner: ConfigDict, path: str, old: Sequence[Map], arch: Arch | MLLAArch
    ) -> None:
        """Have the neck take the last map, or else the head; see :class:`Fitter`."""
        necks = as_list(owner.get('neck'))
        others = [neck for neck in necks if type_of(neck) not in MEANS]
        averaged = len(others) < len(necks)
        learnt = [neck for neck in others if 'in_channels' in neck]
        taker = learnt[0] if learnt else owner.get('head')
        if not taker:
            return  # its features are all that is wanted
        taker.pop('deploy', None)  # the form of weights that are left behind
        if type_of(taker) in DISTILLED:
            taker.distillation = False  # in which MMPretrain cannot train them
        if not others and type_of(taker) not in OF_MAPS:
            owner.neck = ConfigDict(MEAN)
        elif averaged:
            owner.neck = [ConfigDict(MEAN), *others]
        fields = [n for n in nodes(taker) if isinstance(n.get('in_channels'), int)]
        if not fields:
            raise ConfigError(
                f'{path}: {type_of(taker)} has no `in_channels`, and takes no map and '
                'no mean of one'
            )
        for node in fields:
            node.in_channels = arch.dims[-1]
