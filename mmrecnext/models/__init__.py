"""Backbone, then the blocks it is made of, then one token mixer per series."""

from mmrecnext.models.attention import LinearAttn, PartialChannels, RecAttn
from mmrecnext.models.recconv import (
    RecConv,
    RecConvConcat,
    RecConvGroups,
    RecConvRecurrent,
)
from mmrecnext.models.recnext import RecNeXt

__all__ = [
    'LinearAttn',
    'PartialChannels',
    'RecAttn',
    'RecConv',
    'RecConvConcat',
    'RecConvGroups',
    'RecConvRecurrent',
    'RecNeXt',
]
