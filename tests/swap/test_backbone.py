"""What the swap rewrites, config by config."""

import copy
from math import prod
from pathlib import Path

import pytest
from mmengine.config import Config
from torch import nn

import mmrecnext
from mmrecnext import ARCHS, swap_backbone
from mmrecnext.compat import BatchNorm
from mmrecnext.engine.build import fit_cpu
from mmrecnext.engine.configs import nodes, type_of
from mmrecnext.errors import CheckpointError, ConfigError, OptionError
from mmrecnext.swap import plain, read_config
from mmrecnext.swap.measure import measure_backbone, measure_necks
from mmrecnext.swap.training import build, norm_keys

R50, VIS = 'faster-rcnn_r50-caffe_fpn', 'youtubevis2019'
MOT = 'mot17halftrain_test-mot17halfval'
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def swapped(name, arch='m3', pretrained=False):
    return swap_backbone(name, arch, pretrained)


def is_norm(module):
    return isinstance(module, BatchNorm | nn.LayerNorm)


def strides_of(owner, scope='mmdet'):
    """Strides of the maps that reach the heads."""
    maps = measure_backbone(owner, 'model', scope)
    necks = owner.get('neck') or []
    necks = necks if isinstance(necks, list) else [necks]
    return [m.stride for m in measure_necks(maps, necks, 'model', scope)]


def test_the_given_config_stays_as_it_is():
    cfg = read_config('mmdet::mask_rcnn/mask-rcnn_r50-caffe_fpn_1x_coco.py')
    before = copy.deepcopy(plain(cfg))
    new = mmrecnext.swap_backbone(cfg, 'm0')
    assert plain(cfg) == before
    assert new.model.neck.in_channels == list(ARCHS['m0'].dims)
    assert cfg.model.backbone.type == 'ResNet'


def test_a_config_may_be_a_dict():
    cfg = read_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    assert plain(swapped(plain(cfg))) == plain(swapped(cfg))


def test_caffe_weights_leave_no_trace():
    cfg = swapped('mmdet::mask_rcnn/mask-rcnn_r50-caffe_fpn_1x_coco.py', 'm3', True)
    weights = 'recnext_m3.dist_300e_in1k'
    assert plain(cfg.model.backbone) == dict(
        type='mmrecnext.RecNeXt',
        arch='m3',
        init_cfg=dict(type='Pretrained', checkpoint=weights),
    )
    preprocessor = cfg.model.data_preprocessor
    assert (preprocessor.mean, preprocessor.std) == (MEAN, STD)
    assert preprocessor.bgr_to_rgb is True
    assert preprocessor.pad_mask is True


@pytest.mark.parametrize(
    ('name', 'stages', 'output_stride'),
    [
        ('mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py', None, 8),
        ('mmseg::fcn/fcn-d6_r50-d16_4xb2-40k_cityscapes-512x1024.py', None, 16),
        (
            'mmseg::fastfcn/fastfcn_r50-d32_jpu_psp_4xb2-80k_cityscapes-512x1024.py',
            (1, 2, 3),
            None,
        ),
        (
            'mmseg::mobilenet_v2/mobilenet-v2-d8_pspnet_4xb2-80k_cityscapes-512x1024.py',
            None,
            8,
        ),
        ('mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py', (2,), None),
        ('mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py', (3,), 16),
        ('mmdet::detr/detr_r50_8xb2-150e_coco.py', (3,), None),
        ('mmdet::yolox/yolox_s_8xb8-300e_coco.py', (1, 2, 3), None),
        ('mmdet::hrnet/fcos_hrnetv2p-w18-gn-head_4xb4-1x_coco.py', None, None),
    ],
)
def test_stages_are_as_deep_as_those_before(name, stages, output_stride):
    backbone = swapped(name).model.backbone
    assert backbone.get('out_indices') == stages
    assert backbone.get('output_stride') == output_stride


def test_segmentation_heads_get_the_channels_of_their_maps():
    cfg = swapped(
        'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py'
    )
    assert cfg.model.decode_head.in_channels == 512
    assert cfg.model.decode_head.c1_in_channels == 64
    assert cfg.model.auxiliary_head.in_channels == 256
    assert cfg.model.pretrained is None
    assert cfg.model.backbone.norm_cfg == dict(type='SyncBN')
    assert cfg.data_preprocessor.mean == MEAN
    cascade = swapped('mmseg::ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024.py', 'm5')
    for head in cascade.model.decode_head:
        assert head.in_channels == [80, 160, 320, 640]
    ocr = swapped('mmseg::ocrnet/ocrnet_r101-d8_8xb2-40k_cityscapes-512x1024.py')
    assert [head.in_channels for head in ocr.model.decode_head] == [256, 512]
    update = swapped('mmseg::knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py')
    assert update.model.decode_head.kernel_generate_head.in_channels == 512


def test_detection_heads_without_a_neck():
    cfg = swapped('mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py')
    assert cfg.model.rpn_head.in_channels == 512
    assert cfg.model.roi_head.bbox_roi_extractor.out_channels == 512
    assert cfg.model.roi_head.bbox_head.in_channels == 512
    assert cfg.model.rpn_head.anchor_generator.strides == [16]
    panoptic = swapped(
        'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py'
    )
    assert panoptic.model.panoptic_head.in_channels == [64, 128, 256, 512]


def test_a_shared_head_keeps_its_channels():
    cfg = swapped('mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py')
    assert cfg.model.neck.in_channels == [256]
    assert cfg.model.neck.out_channels == cfg.model.rpn_head.in_channels == 1024
    assert cfg.model.roi_head.shared_head.type == 'ResLayer'


def test_necks_of_every_order():
    darknet = swapped('mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py')
    assert darknet.model.neck.in_channels == [512, 256, 128]
    ssd = swapped('mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py')
    assert ssd.model.neck.in_channels == (256, 512)
    assert ssd.model.neck.out_channels == (256, 512, 512, 256, 256, 128)
    assert ssd.model.bbox_head.in_channels == (256, 512, 512, 256, 256, 128)
    bfp = swapped('mmdet::libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py')
    assert bfp.model.neck[0].in_channels == [64, 128, 256, 512]


class TestStridesFrom8:
    """T, S and B give maps of strides 8 to 64."""

    def test_a_pyramid_keeps_its_strides(self):
        cfg = swapped('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'b')
        assert cfg.model.neck.in_channels == [128, 256, 384, 512]
        assert cfg.model.neck.start_level == 0
        anchors = cfg.model.bbox_head.anchor_generator
        assert strides_of(cfg.model) == anchors.strides == [8, 16, 32, 64, 128]

    def test_a_pyramid_gets_the_level_that_is_finer_than_all_stages(self):
        cfg = swapped('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 's')
        assert cfg.model.neck.type == 'mmrecnext.FPNWithStride4'
        assert strides_of(cfg.model) == [4, 8, 16, 32, 64]
        assert cfg.model.rpn_head.anchor_generator.strides == [4, 8, 16, 32, 64]
        extractor = cfg.model.roi_head.bbox_roi_extractor
        assert extractor.featmap_strides == [4, 8, 16, 32]

    def test_a_pyramid_of_fewer_levels_takes_fewer_stages(self):
        name = 'mmdet::nas_fpn/retinanet_r50_fpn_crop640-50e_coco.py'
        cfg = swapped(name, 't')
        assert strides_of(cfg.model) == [8, 16, 32, 64, 128]

    def test_a_searched_pyramid_keeps_its_strides(self):
        name = 'mmdet::nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py'
        cfg = swapped(name, 't')
        assert cfg.model.neck.in_channels == [64, 128, 256, 512]
        assert cfg.model.neck.start_level == 0
        assert strides_of(cfg.model) == [8, 16, 32, 64, 128]

    def test_anchors_of_ssd_stay_where_they_fit_its_images(self):
        name = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'
        cfg = swapped(name, 's')
        assert cfg.model.backbone.out_indices == (1, 2)
        assert cfg.model.neck.in_channels == (256, 384)
        anchors = cfg.model.bbox_head.anchor_generator
        assert anchors == read_config(name).model.bbox_head.anchor_generator

    def test_the_coarsest_map_of_a_small_image_still_has_a_stride(self):
        name = 'nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco.py'
        cfg = swapped(f'mmdet::nas_fcos/{name}', 't')
        assert cfg.model.bbox_head.strides == [16, 32, 64, 128, 256]

    def test_others_scale_everything(self):
        cfg = swapped('mmdet::yolox/yolox_s_8xb8-300e_coco.py', 't')
        assert cfg.model.neck.in_channels == [128, 256, 512]
        assert strides_of(cfg.model) == [16, 32, 64]
        cfg = swapped('mmdet::rtmdet/rtmdet-ins_s_8xb32-300e_coco.py', 't')
        assert cfg.model.bbox_head.anchor_generator.strides == [16, 32, 64]
        name = 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py'
        assert swapped(name, 's').model.panoptic_head.strides == [8, 16, 32, 64]
        name = 'mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py'
        cfg = swapped(name, 'b')
        assert cfg.model.decode_head.feature_strides == [8, 16, 32, 64]
        assert strides_of(cfg.model, 'mmseg') == [8, 16, 32, 64]

    def test_images_are_padded_to_whole_pixels_of_the_coarsest_map(self):
        cfg = swapped('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', 't')
        preprocessor = cfg.model.data_preprocessor
        assert preprocessor.pad_size_divisor == 64
        assert preprocessor.batch_augments[0].size_divisor == 64
        pyramid = swapped('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 't')
        assert pyramid.model.data_preprocessor.pad_size_divisor == 32

    def test_dilation_ends_at_their_finest_stride(self):
        name = 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'
        assert swapped(name, 'b').model.backbone.output_stride == 8

    def test_they_have_the_stride_64_that_others_lack(self):
        name = 'mmdet::rtmdet/rtmdet_x_p6_4xb8-300e_coco.py'
        assert strides_of(swapped(name, 'b').model) == [8, 16, 32, 64]
        with pytest.raises(ConfigError, match=r'strides \[8, 16, 32, 64\].*\[4, 8, 16'):
            swapped(name, 'm3')


class TestTraining:
    def test_norms_stay_exempt_from_weight_decay(self):
        name = 'mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py'
        cfg = swapped(name, 'm0')
        keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
        names = [
            f'backbone.{n}' for n, _ in build(cfg.model.backbone).named_parameters()
        ]
        for key in keys:
            matches = [n for n in names if key in n]
            if key.endswith('norm'):
                assert matches and all('.norm.' in n for n in matches), key
        norms = [n for n in names if '.norm.' in n]
        exempt = [
            k for k, v in keys.items() if v.decay_mult == 0 and k.endswith('norm')
        ]
        assert all(any(key in n for key in exempt) for n in norms)
        assert keys.backbone == dict(lr_mult=0.1, decay_mult=1.0)
        assert keys.query_embed.decay_mult == 0
        assert not any('position' in key or 'absolute' in key for key in keys)

    @pytest.mark.parametrize(
        ('setting', 'message'),
        [
            (
                dict(paramwise_cfg=dict(custom_keys={'backbone.layer4': {}})),
                "custom_keys: 'backbone.layer4' names a part of the old backbone",
            ),
            (
                dict(constructor='LayerDecayOptimizerConstructor'),
                'optim_wrapper.constructor: LayerDecay.* plain transformers',
            ),
        ],
    )
    def test_multipliers_that_cannot_be_kept(self, setting, message):
        cfg = read_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
        cfg.optim_wrapper.update(setting)
        with pytest.raises(ConfigError, match=message):
            swapped(cfg)

    def test_layer_decay_reaches_as_low(self):
        name = 'mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'
        cfg = swapped(name)
        wrapper = cfg.optim_wrapper
        assert wrapper.constructor == 'mmrecnext.RecNeXtLayerDecay'
        assert set(wrapper.paramwise_cfg) == {'decay_rate', 'decay_type'}
        layers = 1 + sum(ARCHS['m3'].depths)
        rate = wrapper.paramwise_cfg.decay_rate
        assert rate**layers == pytest.approx(0.95 ** (6 + 1), rel=1e-2)
        assert cfg.custom_imports is None

    def test_learning_rates_by_part_stay(self):
        cfg = swapped('mmdet::detr/detr_r50_8xb2-150e_coco.py')
        keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
        assert keys == dict(backbone=dict(lr_mult=0.1, decay_mult=1.0))

    def test_images_are_normalised_once(self):
        cfg = swapped('mmdet::scnet/scnet_r50_fpn_1x_coco.py')
        assert not any(type_of(n) == 'Normalize' for n in nodes(plain(cfg)))
        cfg = swapped('mmdet::yolox/yolox_s_8xb8-300e_coco.py')
        assert cfg.model.data_preprocessor.std == STD
        cfg = swapped('mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py')
        fills = [n for n in nodes(plain(cfg)) if type_of(n) == 'Expand']
        assert fills and all(n['mean'] == MEAN and n['to_rgb'] for n in fills)

    def test_weights_of_the_old_model_go(self):
        cfg = swapped('mmdet::cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py')
        assert cfg.load_from is None
        name = (
            f'mmdet::masktrack_rcnn/masktrack-rcnn_mask-rcnn_r50_fpn_8xb1-12e_{VIS}.py'
        )
        assert swapped(name).model.detector.init_cfg is None


def test_nested_models():
    name = f'mmdet::soft_teacher/soft-teacher_{R50}_180k_semi-0.1-coco.py'
    model = swapped(name).model
    assert model.detector.backbone.type == 'mmrecnext.RecNeXt'
    for node in (
        model.data_preprocessor.data_preprocessor,
        model.detector.data_preprocessor,
    ):
        assert (node.mean, node.bgr_to_rgb) == (MEAN, True)
    name = f'mmdet::deepsort/deepsort_faster-rcnn_r50_fpn_8xb2-4e_{MOT}.py'
    model = swapped(name).model
    assert model.detector.neck.in_channels == [64, 128, 256, 512]
    assert model.reid.backbone.type == 'mmpretrain.ResNet'
    model = swapped('mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py').model
    assert model.teacher_config.endswith('gfl_r101_fpn_ms-2x_coco.py')
    assert model.neck.in_channels == [64, 128, 256, 512]


def test_a_recnext_takes_the_place_of_another():
    cfg = swapped('mask_rcnn_recnext_m3_coco.py', 'a5')
    assert cfg.model.backbone.arch == 'a5'
    assert cfg.model.backbone.norm_cfg.type == 'SyncBN'
    assert cfg.model.neck.in_channels == [80, 160, 320, 640]


def test_two_images_side_by_side():
    name = 'mmseg::swin/swin-tiny-patch4-window7_upernet_1xb8-20k_levir-256x256.py'
    cfg = swapped(name)
    assert cfg.model.backbone.in_channels == 6
    assert cfg.model.data_preprocessor.mean == MEAN * 2
    with pytest.raises(
        OptionError, match=r'backbone.in_channels is 6.*pretrained=False'
    ):
        swapped(name, 'm3', True)


def test_norms_that_count_across_gpus():
    name = 'mmdet::simple_copy_paste/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_'
    cfg = swapped(f'{name}syncbn-all_32xb2-ssj-90k_coco.py')
    assert cfg.model.backbone.norm_cfg.type == 'SyncBN'
    assert cfg.model.roi_head.mask_head.norm_cfg.type == 'MMSyncBN'
    fit_cpu(cfg)
    assert cfg.model.roi_head.mask_head.norm_cfg.type == 'BN'


def test_the_weights_to_start_from(tmp_path):
    name = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'

    def init_cfg(arch, pretrained):
        return swapped(name, arch, pretrained).model.backbone.get('init_cfg')

    assert init_cfg('a3', True).checkpoint == 'recnext_a3.dist_300e_in1k'
    mine = str(tmp_path / 'mine.pth')
    Path(mine).touch()
    hub, url = 'hf-hub:someone/recnext', 'https://somewhere/a3.pth'
    for weights in (mine, 'a3', 'suous/recnext_a3.base_300e_in1k', hub, url):
        expected = dict(type='Pretrained', checkpoint=weights)
        assert init_cfg('a3', weights) == expected
    assert init_cfg('a3', False) is init_cfg('a3', None) is None
    tiny = dict(base='a3', depths=(1, 1, 1, 1))
    assert swapped(name, tiny).model.backbone.arch == tiny
    assert init_cfg(tiny, mine).checkpoint == mine
    with pytest.raises(OptionError, match='pretrained=False'):
        init_cfg(tiny, True)
    with pytest.raises(OptionError, match='m0, m1, m2'):
        init_cfg('m9', True)
    with pytest.raises(OptionError, match='pretrained: m0 is of arch m0, not a3'):
        init_cfg('a3', 'm0')
    for missing in ('lost/m0.pth', 'm0.pth', 'recnext_m9', 'a3.in1k'):
        with pytest.raises(CheckpointError, match=f'no checkpoint {missing}'):
            init_cfg('a3', missing)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        (
            'mmseg::vit/vit_vit-b16_mln_upernet_8xb2-80k_ade20k-512x512.py',
            r'backbone: VisionTransformer.*one stride',
        ),
        (
            'mmseg::unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py',
            'backbone: UNet.*decoder',
        ),
        (
            'mmseg::erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py',
            'whole segmentor',
        ),
        ('mmdet::ssd/ssd300_coco.py', "backbone: SSDVGG.*SSD's own VGG"),
        (
            'mmdet::cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py',
            'hourglass',
        ),
        ('mmdet::detectors/cascade-rcnn_r50-rfp_1x_coco.py', 'neck: RFP feeds'),
        ('mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py', 'triple the batch'),
        (
            'mmdet::reid/reid_r50_8xb32-6e_mot17train80_test-mot17val20.py',
            'whole pictures',
        ),
        ('mmseg::san/san-vit-b16_coco-stuff164k-640x640.py', 'image_encoder'),
        ('mmdet::common/ms_3x_coco.py', 'model: the config has none'),
        ('mmdet::nowhere.py', 'there is no config mmdet::nowhere.py'),
        ('nowhere.py', 'there is no config nowhere.py'),
    ],
)
def test_what_cannot_be_swapped_says_why(name, message):
    with pytest.raises(ConfigError, match=message):
        swapped(name)


@pytest.mark.parametrize('form', [str, lambda name: dict(base=name)])
@pytest.mark.parametrize(
    ('name', 'near'), [('m7', 'm5 or m4 or m3'), ('nano_recatn', 'nano_recattn or')]
)
def test_an_unknown_arch_is_answered_by_those_of_both_kinds(name, near, form):
    with pytest.raises(OptionError, match=f'did you mean {near}.*m0, .*mini_recattn'):
        swap_backbone('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', form(name))


def break_head(model):
    model.decode_head.in_channels = 2047


def break_neck(model):
    model.neck = dict(type='MultiLevelNeck', in_channels=[1, 2], out_channels=8)


def break_preprocessor(model):
    model.data_preprocessor = None


def break_backbone(model):
    model.backbone = dict(type='ResNet', depth=51)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (break_head, r'^model.decode_head.in_channels: 2047.*\[2048\]'),
        (break_neck, r'^model.neck.in_channels: \[1, 2\]'),
        (break_preprocessor, r'^model.data_preprocessor: there is none'),
        (break_backbone, r'^model.backbone: ResNet cannot be built.*depth 51.*strides'),
    ],
)
def test_errors_name_the_field(change, message):
    cfg = read_config('mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py')
    cfg.pop('data_preprocessor')
    change(cfg.model)
    with pytest.raises(ConfigError, match=message):
        swapped(cfg)


def test_a_config_of_another_framework():
    with pytest.raises(ConfigError, match='default_scope is mmaction'):
        swapped(Config(dict(default_scope='mmaction', model=dict(type='A'))))


def test_measured_maps_are_those_of_the_table():
    assert [
        m.channels
        for m in measure_backbone(
            dict(backbone=dict(type='mmrecnext.RecNeXt', arch='b')), 'model', 'mmdet'
        )
    ] == list(ARCHS['b'].dims)
    assert prod(ARCHS['b'].stem_strides) == 8


class TestMLLA:
    def test_takes_the_place(self):
        cfg = swapped('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'nano_recattn')
        assert plain(cfg.model.backbone) == dict(
            type='mmrecnext.MLLA', arch='nano_recattn'
        )
        assert cfg.model.neck.in_channels == [32, 64, 128, 256]
        assert strides_of(cfg.model) == [8, 16, 32, 64, 128]

    def test_norms_are_named(self):
        arch = dict(base='nano_baseline', depths=(1, 1, 1, 1))
        backbone = dict(type='mmrecnext.MLLA', arch=arch)
        names = norm_keys(backbone)
        norms = [name for name, m in build(backbone).named_modules() if is_norm(m)]
        assert names and all(
            any(key in f'backbone.{n}' for key in names) for n in norms
        )

    def test_what_it_cannot_do_is_told(self):
        with pytest.raises(
            OptionError, match='no weights are published of nano_recattn'
        ):
            swapped(
                'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'nano_recattn', True
            )
        with pytest.raises(
            ConfigError, match=r'is dilated, to strides .* take a RecNeXt'
        ):
            swapped(
                'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
                'nano_recattn',
            )
