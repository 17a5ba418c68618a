"""The operators of recursive convolution, in the forms that tests try."""

from functools import partial

from mmrecnext.models import RecConv, RecConvConcat, RecConvGroups, RecConvRecurrent

OPERATORS = {
    **{f'RecConv-{mode}': partial(RecConv, mode=mode) for mode in RecConv.MODES},
    'RecConvGroups': RecConvGroups,
    'RecConvConcat': RecConvConcat,
    'RecConvConcat-bilinear': partial(RecConvConcat, mode='bilinear'),
    'RecConvConcat-nearest': partial(RecConvConcat, mode='nearest'),
    'RecConvRecurrent-bilinear': RecConvRecurrent,
    'RecConvRecurrent-nearest': partial(RecConvRecurrent, mode='nearest'),
}


LINEAR = [name for name in OPERATORS if name != 'RecConv-unpool']
