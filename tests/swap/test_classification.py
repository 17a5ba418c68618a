"""A RecNeXt below the heads of MMPretrain: fitted, trained for a step, predicting."""

from importlib.util import find_spec

import pytest

from mmrecnext import swap_backbone
from mmrecnext.errors import ConfigError
from mmrecnext.swap.training import MEAN_OF_255
from tests.swap.helpers import check_trained

pytestmark = [
    pytest.mark.usefixtures('quiet'),
    pytest.mark.skipif(
        not find_spec('mmpretrain'), reason='MMPretrain is not installed'
    ),
    pytest.mark.slow,
]

ARCH = dict(base='m0', depths=(1, 1, 1, 1))
RESNET = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'


def swapped(name):
    return swap_backbone(f'mmpretrain::{name}', ARCH, pretrained=False)


@pytest.mark.parametrize(
    ('name', 'head', 'neck'),
    [
        ('resnet/resnet18_8xb16_cifar10.py', 'LinearClsHead', True),
        ('convnext/convnext-tiny_32xb128_in1k.py', 'LinearClsHead', True),
        ('hrnet/hrnet-w18_4xb32_in1k.py', 'LinearClsHead', True),
        ('mlp_mixer/mlp-mixer-base-p16_64xb64_in1k.py', 'LinearClsHead', True),
        (
            'mobilenet_v3/mobilenet-v3-small_8xb128_in1k.py',
            'StackedLinearClsHead',
            True,
        ),
        (
            'efficientformer/efficientformer-l1_8xb128_in1k.py',
            'EfficientFormerClsHead',
            True,
        ),
        ('levit/deploy/levit-128s_8xb256_in1k.py', 'LeViTClsHead', True),
        ('vgg/vgg11_8xb32_in1k.py', 'LinearClsHead', True),
        ('csra/resnet101-csra_1xb16_voc07-448px.py', 'CSRAClsHead', False),
        (
            'vision_transformer/vit-base-p16_64xb64_in1k-384px.py',
            'VisionTransformerClsHead',
            True,
        ),
    ],
)
def test_heads_take_the_mean_of_the_last_map(name, head, neck):
    cfg = swapped(name)
    assert cfg.model.backbone.out_indices == (3,)
    assert cfg.model.head.type == head
    assert cfg.model.head.in_channels == 320
    wanted = dict(type='GlobalAveragePooling') if neck else None
    assert cfg.model.get('neck') == wanted
    check_trained(cfg)


@pytest.mark.parametrize(
    'name',
    [
        'byol/byol_resnet50_16xb256-coslr-200e_in1k.py',
        'mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k.py',
    ],
)
def test_what_learns_without_labels(name):
    cfg = swapped(name)
    assert cfg.model.neck.in_channels == 320
    check_trained(cfg, predicts=False)


def test_pictures_are_normalised_by_the_names_of_this_framework():
    name = 'efficientnet/efficientnet-b0_8xb32-01norm_in1k.py'
    cfg = swapped(name)
    assert cfg.data_preprocessor.mean == list(MEAN_OF_255)
    assert cfg.data_preprocessor.to_rgb is True
    assert 'bgr_to_rgb' not in cfg.data_preprocessor


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        ('mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py', 'MAE: it learns from'),
        ('deit/deit-small-distilled_4xb256_in1k.py', 'model.head: DeiTClsHead: it'),
        ('lenet/lenet5_mnist.py', 'LeNet5: it sees grey pictures'),
        ('blip/blip-base_8xb32_caption.py', 'BlipCaption has none'),
    ],
)
def test_what_can_have_no_other_backbone_is_refused(name, reason):
    with pytest.raises(ConfigError, match=reason):
        swapped(name)
