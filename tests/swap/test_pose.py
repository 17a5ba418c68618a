"""A RecNeXt below the heads of MMPose: fitted, trained for a step, predicting."""

from importlib.util import find_spec

import pytest

from mmrecnext import swap_backbone
from mmrecnext.errors import ConfigError, OptionError
from tests.swap.helpers import check_trained
from tests.zoo.trial import attempt

pytestmark = [
    pytest.mark.usefixtures('quiet'),
    pytest.mark.skipif(
        not (find_spec('mmpose') and find_spec('xtcocotools')),
        reason='MMPose is not installed',
    ),
    pytest.mark.slow,
]

COCO = 'mmpose::body_2d_keypoint/'
HEATMAP = f'{COCO}topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py'
HRNET = f'{COCO}topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192.py'
SIMCC = f'{COCO}simcc/coco/simcc_res50_8xb64-210e_coco-256x192.py'
WHOLE = 'mmpose::wholebody_2d_keypoint/'
RTMW = f'{WHOLE}rtmpose/cocktail14/rtmw-m_8xb1024-270e_cocktail14-256x192.py'
M0 = dict(base='m0', depths=(1, 1, 1, 1))
T = dict(base='t', depths=(0, 1, 1, 1))


def swapped(name, arch=M0, **options):
    return swap_backbone(name, arch, pretrained=False, **options)


@pytest.mark.parametrize(
    ('name', 'arch', 'stages', 'channels'),
    [
        (HEATMAP, M0, (3,), 320),
        (HEATMAP, T, (2,), 256),
        (f'{COCO}rtmpose/coco/rtmpose-t_8xb256-420e_coco-256x192.py', M0, (3,), 320),
        (SIMCC, M0, (3,), 320),
        (
            f'{COCO}topdown_regression/coco/td-reg_res50_rle-8xb64-210e_coco-256x192.py',
            M0,
            (3,),
            320,
        ),
        (
            f'{COCO}integral_regression/coco/ipr_res50_8xb64-210e_coco-256x256.py',
            M0,
            (3,),
            320,
        ),
        (RTMW, M0, (1, 2, 3), 320),
        (
            'mmpose::face_2d_keypoint/topdown_heatmap/wflw/'
            'td-hm_hrnetv2-w18_8xb64-60e_wflw-256x256.py',
            M0,
            None,
            40 + 80 + 160 + 320,
        ),
    ],
)
def test_heads_take_the_last_map(name, arch, stages, channels):
    cfg = swapped(name, arch)
    assert cfg.model.backbone.get('out_indices') == stages
    assert cfg.model.head.in_channels == channels
    check_trained(cfg)


@pytest.mark.parametrize(('arch', 'groups'), [('m0', 160), ('m3', 32)])
def test_groups_of_deconvolutions_divide_the_channels(arch, groups):
    name = f'{COCO}topdown_heatmap/coco/td-hm_vipnas-mbv3_8xb64-210e_coco-256x192.py'
    cfg = swapped(name, dict(M0, base=arch))
    assert cfg.model.head.deconv_num_groups == (groups, 160, 160)
    check_trained(cfg)


def test_strides_of_heads_in_one_stage_follow():
    name = f'{COCO}yoloxpose/coco/yoloxpose_tiny_4xb64-300e_coco-416.py'
    cfg = swapped(name)
    assert cfg.model.backbone.out_indices == (1, 2, 3)
    assert cfg.model.neck.in_channels == [80, 160, 320]
    assert attempt(cfg).passed


def test_heads_of_hands_are_told_depths():
    folder = 'mmpose::hand_3d_keypoint/internet/interhand3d/'
    cfg = swapped(f'{folder}internet_res50_4xb16-20e_interhand3d-256x256.py')
    head = cfg.model.head
    for part in ('keypoint', 'root', 'hand_type'):
        assert head[f'{part}_head_cfg'].in_channels == 320
    assert attempt(cfg).passed


class TestOneMapOfHighResolution:
    def test_the_first_stage_alone_is_refused(self):
        with pytest.raises(ConfigError, match=r'HRNet keeps one map.*--fpn'):
            swapped(HRNET)

    @pytest.mark.parametrize(
        ('arch', 'neck', 'levels'),
        [(M0, 'FPN', 4), (T, 'mmrecnext.FPNWithStride4', 5)],
    )
    def test_a_pyramid_gives_it(self, arch, neck, levels):
        cfg = swapped(HRNET, arch, fpn=True)
        assert cfg.model.neck.type == 'mmrecnext.FinestMap'
        assert cfg.model.neck.neck.type == neck
        assert cfg.model.neck.neck.num_outs == levels
        assert cfg.model.head.in_channels == cfg.model.neck.neck.out_channels
        check_trained(cfg)

    def test_others_take_none(self):
        with pytest.raises(OptionError, match='fpn is for pose estimators, not for'):
            swapped('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', fpn=True)

    def test_maps_that_are_joined_begin_at_stride_4(self):
        name = (
            'mmpose::face_2d_keypoint/topdown_heatmap/wflw/'
            'td-hm_hrnetv2-w18_8xb64-60e_wflw-256x256.py'
        )
        with pytest.raises(ConfigError, match=r'strides \[8\] in place of \[4\]'):
            swapped(name, T)


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        (
            f'{COCO}topdown_heatmap/coco/td-hm_mspn50_8xb32-210e_coco-256x192.py',
            'MSPN cannot be swapped: each of its stages',
        ),
        (
            'mmpose::body_3d_keypoint/image_pose_lift/h36m/'
            'image-pose-lift_tcn_8xb64-200e_h36m.py',
            'TCN cannot be swapped: it lifts poses',
        ),
        (
            f'{COCO}topdown_heatmap/coco/td-hm_ViTPose-small_8xb64-210e_coco-256x192.py',
            'VisionTransformer cannot be swapped',
        ),
    ],
)
def test_what_is_one_with_its_head_is_refused(name, reason):
    with pytest.raises(ConfigError, match=reason):
        swapped(name)
