"""Backbone and classifier, the blocks and token mixers in them, a neck and a head."""

from mmrecnext.models.attention import LinearAttn, PartialChannels, RecAttn
from mmrecnext.models.backbone import Backbone
from mmrecnext.models.classifier import MLLAClassifier, RecNeXtClassifier
from mmrecnext.models.heads import ssd_head
from mmrecnext.models.mlla import MLLA
from mmrecnext.models.necks import FinestMap, FPNWithStride4
from mmrecnext.models.recconv import (
    RecConv,
    RecConvConcat,
    RecConvGroups,
    RecConvRecurrent,
)
from mmrecnext.models.recnext import RecNeXt

__all__ = [
    'MLLA',
    'Backbone',
    'FPNWithStride4',
    'FinestMap',
    'LinearAttn',
    'MLLAClassifier',
    'PartialChannels',
    'RecAttn',
    'RecConv',
    'RecConvConcat',
    'RecConvGroups',
    'RecConvRecurrent',
    'RecNeXt',
    'RecNeXtClassifier',
    'ssd_head',
]
