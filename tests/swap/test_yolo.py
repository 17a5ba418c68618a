"""Swaps in MMYOLO, whose necks and heads have a factor of width."""

import pytest
import torch
from mmengine.config import ConfigDict

from mmrecnext.engine.build import build_network, fit_cpu
from mmrecnext.errors import ConfigError
from mmrecnext.swap import swap_backbone
from mmrecnext.swap.yolo import multiplied, write_out_widths

pytest.importorskip('mmyolo')

DIMS = [80, 160, 320]
"""Of the last three stages of m0."""

V5 = 'mmyolo::yolov5/yolov5_n-v61_syncbn_fast_8xb16-300e_coco.py'
V5_MASKS = (
    'mmyolo::yolov5/ins_seg/'
    'yolov5_ins_s-v61_syncbn_fast_non_overlap_8xb16-300e_coco_instance.py'
)
V6 = 'mmyolo::yolov6/yolov6_v3_t_syncbn_fast_8xb32-300e_coco.py'
V8 = 'mmyolo::yolov8/yolov8_m_syncbn_fast_8xb16-500e_coco.py'
X = 'mmyolo::yolox/yolox_tiny_fast_8xb8-300e_coco.py'


def swapped(name, arch='m0'):
    return swap_backbone(name, dict(base=arch, depths=(1, 1, 1, 1)), pretrained=False)


def runs(cfg):
    """Whether the model takes an image, on the meta device."""
    fit_cpu(cfg)
    model = build_network(cfg.model, 'mmyolo', weights=False).to('meta').eval()
    maps = model(torch.empty(1, 3, 64, 64, device='meta'), mode='tensor')[0]
    return [x.shape[-1] for x in maps] == [8, 4, 2]


@pytest.mark.slow
@pytest.mark.parametrize('name', [V5, V8])
def test_necks_as_wide_as_their_maps_and_the_heads_behind_them(name):
    cfg = swapped(name)
    neck, head = cfg.model.neck, cfg.model.bbox_head.head_module
    assert [neck.in_channels, neck.out_channels, head.in_channels] == [DIMS] * 3
    assert neck.widen_factor == head.widen_factor == 1
    assert runs(cfg)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'in_channels', 'out_channels'),
    [(X, DIMS, 96), (V6, [40, *DIMS], [48, 96, 192])],
)
def test_other_necks_give_what_they_gave(name, in_channels, out_channels):
    cfg = swapped(name)
    neck = cfg.model.neck
    assert (neck.in_channels, neck.out_channels) == (in_channels, out_channels)
    assert cfg.model.bbox_head.head_module.widen_factor == 0.375  # untouched
    assert runs(cfg)


@pytest.mark.slow
def test_channels_by_default_are_written_out_too():
    head = swapped(V5_MASKS).model.bbox_head.head_module
    assert (head.proto_channels, head.in_channels) == (128, DIMS)


def test_what_is_no_whole_number_of_channels_is_refused():
    neck = ConfigDict(type='YOLOv5PAFPN', in_channels=[100, 128], widen_factor=0.33)
    message = r'^model\.neck\.widen_factor: 0\.33 times 128 channels are 42\.24;'
    with pytest.raises(ConfigError, match=message):
        write_out_widths(neck, 'model.neck', 'mmyolo')
    assert multiplied((256, [100]), 0.75, '') == (192, [75])


@pytest.mark.slow
def test_maps_coarser_than_all_stages_are_refused():
    with pytest.raises(ConfigError, match=r'strides \[8, 16, 32, 64\]'):
        swapped('mmyolo::yolov5/yolov5_n-p6-v62_syncbn_fast_8xb16-300e_coco.py')
