"""Backbone, then the blocks it is made of, one token mixer per series, and a neck."""

from mmrecnext.models.attention import LinearAttn, PartialChannels, RecAttn
from mmrecnext.models.necks import FPNWithStride4
from mmrecnext.models.recconv import (
    RecConv,
    RecConvConcat,
    RecConvGroups,
    RecConvRecurrent,
)
from mmrecnext.models.recnext import RecNeXt

__all__ = [
    'FPNWithStride4',
    'LinearAttn',
    'PartialChannels',
    'RecAttn',
    'RecConv',
    'RecConvConcat',
    'RecConvGroups',
    'RecConvRecurrent',
    'RecNeXt',
]
