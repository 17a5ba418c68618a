"""Whatever the options of the backbone are: a model as promised, or an OptionError."""

import random

import pytest
import torch
from torch import nn

from mmrecnext import RecNeXt
from mmrecnext.errors import OptionError
from tests.helpers import TINY

WRONG = [
    None, True, -1, 0, 1, 2.5, float('nan'), '', 'x', b'x', [], {}, (1, 2), [[1]],
    {1: 2}, {1, 2}, object, nn.Conv2d, [None] * 4, ['a'] * 4, [-1] * 4, torch.zeros(4),
]  # fmt: skip
OPTIONS = dict(
    in_channels=[4, '3', 10**30],
    out_indices=[(3, 1), '0123', 2, (1.0,), (True,), ((0,),)],
    frozen_stages=[4, 5],
    norm_cfg=[
        *(dict(type=kind) for kind in ('GN', 'IN', 'LN', 'BN3d', 'Conv2d', 'None', 3)),
        *(dict(type='GN', num_groups=n) for n in (2, 3, 0, 'a')),
        dict(type='BN', eps='a'),
        dict(type='BN', other=1),
    ],
    norm_eval=[],
    drop_path_rate=[0.1, '0.1', 1.0],
    with_cp=[],
    output_stride=[8, 16, '8'],
    deploy=[],
    init_cfg=['x.pth', [3], dict(type='Kaiming', layer='Conv2d')],
)
SETTINGS = dict(
    base=['t', 't_share_channel', ['m0'], 3],
    dims=[(16, 32, 64, 128), (8, 9, 32, 64), (1, 2, 4, 8), (10**30,) * 4],
    depths=[(0, 0, 0, 0), (1, 1, 1), (10**9,) * 4],
    mixers=[[dict(type='PartialChannels')] * 4, [dict(level=1)] * 4],
    mixer=[
        *(dict(type=kind) for kind in ('RecAttn', 'LinearAttn', 'RecNeXt', 'FPN', 3)),
        *(dict(level=level) for level in (1, 'a', None)),
        *(dict(kernel_size=size) for size in (3, 2, None)),
        *(dict(type='RecAttn', num_heads=n) for n in (1, 3, 0, 'a')),
        *(
            dict(type='PartialChannels', attn=attn, ratio=ratio)
            for attn in (dict(type='RecAttn'), dict(type='RecConv'), {}, None)
            for ratio in (4, 0, 'a')
        ),
        dict(mode=[]),
        dict(channels=3),
    ],
    mlp_ratios=[(0.01,) * 4],
    mixer_norm=[False],
    share_every=[2, 5],
    stem_strides=[(2,), (2, 2, 2), (2,) * 6, (0, 2)],
    downsample_kernel=[1, 3, 4],
    linear_drop_path=[True],
)


def some(generator, table, most):
    """Give a few options of a table a value, right or wrong."""
    names = generator.sample([*table], generator.randint(0, most))
    return {n: generator.choice([*table[n], *table[n], *WRONG]) for n in names}


@pytest.mark.parametrize('seed', range(120))
def test_a_model_or_an_option_error(seed):
    generator = random.Random(seed)
    options = some(generator, OPTIONS, most=2)
    options['arch'] = {**TINY, **some(generator, SETTINGS, most=2)}
    if generator.random() < 0.1:
        options['arch'] = generator.choice(WRONG)
    with torch.device('meta'):
        try:
            model = RecNeXt(**options).eval()
        except OptionError as error:
            assert len(str(error).splitlines()) == 1
            return
        maps = model(torch.zeros(1, model.in_channels, 65, 97))
    for x, channels, stride in zip(
        maps, model.out_channels, model.out_strides, strict=True
    ):
        assert x.shape == (1, channels, -(-65 // stride), -(-97 // stride))


@pytest.mark.parametrize(
    ('images', 'got'),
    [
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), 'torch.uint8'),
        ([torch.zeros(3, 64, 64)], 'list'),
        ('a.jpg', 'str'),
    ],
    ids=['bytes', 'list', 'name'],
)
def test_what_is_no_image_is_told(images, got):
    with pytest.raises(TypeError, match=f'of a floating point type, got {got}'):
        RecNeXt(TINY).eval()(images)
