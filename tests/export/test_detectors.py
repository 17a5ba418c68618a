"""Files of detectors, equal to the ``test_step`` of MMDetection, and none else."""

import json

import onnxruntime
import pytest
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmengine.config import ConfigDict
from torch import nn

from mmrecnext.engine.build import build_network
from mmrecnext.errors import ExportError, OptionError
from mmrecnext.export import export, paste_masks
from mmrecnext.export.heads import subject_maker
from mmrecnext.export.images import preparation_of
from mmrecnext.export.matching import (
    compare_detections,
    compare_roughly,
    count_missing,
)
from tests.export.helpers import Strides, find_something
from tests.helpers import SMALL, randomise

pytestmark = pytest.mark.filterwarnings('ignore')  # of the exporter's own affairs

CLASSES = 3
PREPROCESSOR = dict(
    type='DetDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
TEST = dict(
    nms_pre=60,
    min_bbox_size=0,
    score_thr=0.05,
    nms=dict(type='nms', iou_threshold=0.5),
    max_per_img=12,
)
STRIDES = [8, 16]
BN = dict(type='BN')
DELTAS = dict(type='DeltaXYWHBBoxCoder')
DISTANCES = dict(type='DistancePointBBoxCoder')
ANCHORS = dict(
    type='AnchorGenerator',
    ratios=[0.5, 1.0],
    octave_base_scale=4,
    scales_per_octave=1,
    strides=STRIDES,
)
SQUARES = dict(ANCHORS, ratios=[1.0])
POINTS = dict(type='MlvlPointGenerator', offset=0, strides=STRIDES)
SSD_ANCHORS = dict(
    type='SSDAnchorGenerator',
    scale_major=False,
    strides=STRIDES,
    ratios=[[2], [2]],
    min_sizes=[20, 40],
    max_sizes=[40, 60],
)
SMALL_HEAD = dict(num_classes=CLASSES, in_channels=8, feat_channels=8, stacked_convs=1)
INSTANCES = dict(num_prototypes=4, dyconv_channels=4)
# Per type of head, what its config has besides.
HEADS = {
    'RetinaHead': dict(anchor_generator=ANCHORS, bbox_coder=DELTAS),
    'FCOSHead': dict(strides=STRIDES, norm_cfg=None),
    'ATSSHead': dict(anchor_generator=SQUARES, bbox_coder=DELTAS, norm_cfg=None),
    'GFLHead': dict(anchor_generator=SQUARES, norm_cfg=None, reg_max=3),
    'mmrecnext.SSDHead': dict(
        in_channels=[8, 8],
        stacked_convs=0,
        anchor_generator=SSD_ANCHORS,
        bbox_coder=DELTAS,
    ),
    'YOLOXHead': dict(strides=STRIDES),
    'RTMDetHead': dict(anchor_generator=POINTS, bbox_coder=DISTANCES, norm_cfg=BN),
    'RTMDetSepBNHead': dict(
        anchor_generator=POINTS, bbox_coder=DISTANCES, exp_on_reg=True
    ),
    'RTMDetInsHead': dict(
        anchor_generator=POINTS, bbox_coder=DISTANCES, norm_cfg=BN, **INSTANCES
    ),
    'RTMDetInsSepBNHead': dict(
        anchor_generator=POINTS, bbox_coder=DISTANCES, **INSTANCES
    ),
}


def prepare(model):
    """Give a model a quick backbone and detections, and none in a blank picture."""
    model.backbone = Strides()
    for layer in randomise(model).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            layer.bias.data.zero_()
    find_something(model)


def dense(head, **test):
    """A small detector with a type of head."""
    torch.manual_seed(0)
    model = build_network(
        ConfigDict(
            type='SingleStageDetector',
            data_preprocessor=PREPROCESSOR,
            backbone=dict(type='mmrecnext.RecNeXt', arch=SMALL['m0']),
            neck=dict(type='FPN', in_channels=[8, 8], out_channels=8, num_outs=2),
            bbox_head=dict(type=head, **{**SMALL_HEAD, **HEADS[head]}),
            test_cfg=dict(TEST, mask_thr_binary=0.5, **test),
        ),
        'mmdet',
    )
    prepare(model)
    return model


def regions(size):
    """How regions of maps are looked at, in cells of some size."""
    return dict(
        type='SingleRoIExtractor',
        roi_layer=dict(type='RoIAlign', output_size=size, sampling_ratio=0),
        out_channels=8,
        featmap_strides=STRIDES,
        finest_scale=14,
    )


def two_stage(masks=True, cascade=False, **test):
    """A small detector that looks for regions first."""
    box_head = dict(
        type='Shared2FCBBoxHead',
        in_channels=8,
        fc_out_channels=16,
        roi_feat_size=3,
        num_classes=CLASSES,
        bbox_coder=dict(**DELTAS, target_stds=[0.1, 0.1, 0.2, 0.2]),
        reg_class_agnostic=cascade,
    )
    mask_head = dict(
        type='FCNMaskHead',
        num_convs=1,
        in_channels=8,
        conv_out_channels=8,
        num_classes=CLASSES,
    )
    stages = dict(num_stages=2, stage_loss_weights=[1, 0.5]) if cascade else {}
    torch.manual_seed(0)
    model = build_network(
        ConfigDict(
            type='CascadeRCNN' if cascade else 'MaskRCNN',
            data_preprocessor=PREPROCESSOR,
            backbone=dict(type='mmrecnext.RecNeXt', arch=SMALL['m0']),
            neck=dict(type='FPN', in_channels=[8, 8], out_channels=8, num_outs=2),
            rpn_head=dict(
                type='RPNHead',
                in_channels=8,
                feat_channels=8,
                anchor_generator=ANCHORS,
                bbox_coder=DELTAS,
            ),
            roi_head=dict(
                type='CascadeRoIHead' if cascade else 'StandardRoIHead',
                bbox_roi_extractor=regions(3),
                bbox_head=[box_head, box_head] if cascade else box_head,
                **(
                    dict(mask_roi_extractor=regions(4), mask_head=mask_head)
                    if masks
                    else {}
                ),
                **stages,
            ),
            train_cfg=None,
            test_cfg=dict(
                rpn=dict(
                    nms_pre=50,
                    max_per_img=40,
                    nms=dict(type='nms', iou_threshold=0.7),
                    min_bbox_size=0,
                ),
                rcnn=dict(
                    score_thr=0.05,
                    nms=dict(type='nms', iou_threshold=0.5),
                    max_per_img=12,
                    mask_thr_binary=0.5,
                    **test,
                ),
            ),
        ),
        'mmdet',
    )
    prepare(model)
    return model


def subject_of(model, **about):
    how = preparation_of(PREPROCESSOR)
    return subject_maker(model, 'mmdet')(model, how, **about)


@pytest.mark.parametrize('head', HEADS)
def test_heads(head, tmp_path):
    """At one size, which is no multiple of the stride."""
    report = export(subject_of(dense(head)), tmp_path / 'x.onnx', size=(60, 90))
    for trial in report.trials[:2]:
        assert ' of 0' not in str(trial)  # there are detections
        assert 'decided' not in str(trial)


@pytest.mark.slow
@pytest.mark.parametrize('masks', [None, 'box'])
def test_two_stages(masks, tmp_path):
    model = two_stage(masks=bool(masks), cascade=bool(masks))
    subject = subject_of(model, masks=masks)
    report = export(subject, tmp_path / 'x.onnx', size=(60, 90))
    for trial in report.trials[:2]:
        assert len(trial.differences) == 2 if masks else 1
        assert ' of 0' not in str(trial) and 'decided' not in str(trial)


@pytest.mark.slow
def test_two_stages_at_any_size(tmp_path):
    """With masks pasted into the picture."""
    file = tmp_path / 'x.onnx'
    subject = subject_of(two_stage())
    report = export(subject, file)
    assert all(trial.fits for trial in report.trials)
    images = torch.randint(0, 256, (2, 3, 33, 70), dtype=torch.uint8)
    session = onnxruntime.InferenceSession(file)
    found = session.run(None, {'images': images.numpy()})
    labels, masks = map(torch.from_numpy, found[1:])
    assert masks.shape == (2, 12, 33, 70) and masks.dtype == torch.bool
    assert not masks[labels < 0].any()
    assert session.get_modelmeta().custom_metadata_map['mmrecnext.masks'] == 'picture'


@pytest.mark.slow
def test_any_size(tmp_path):
    file = tmp_path / 'x.onnx'
    subject = subject_of(dense('RetinaHead'))
    report = export(subject, file)
    assert all(trial.fits for trial in report.trials)
    images = torch.randint(0, 256, (3, 3, 33, 70), dtype=torch.uint8)
    session = onnxruntime.InferenceSession(file)
    dets, labels = map(torch.tensor, session.run(None, {'images': images.numpy()}))
    assert dets.shape == (3, 12, 5) and labels.shape == (3, 12)
    with torch.no_grad():
        expected = subject.reference(images)
    (difference,) = subject.compare(dict(dets=dets, labels=labels), expected)
    assert difference.fits
    about = session.get_modelmeta().custom_metadata_map
    assert about['mmrecnext.task'] == 'detection'
    assert json.loads(about['mmrecnext.test_cfg']) == dict(TEST, mask_thr_binary=0.5)


def listed(*rows, count=4):
    """Detections of one picture, from rows of x1, y1, x2, y2, score and label."""
    rows = [*rows, *[(0, 0, 0, 0, -1, -1)] * (count - len(rows))]
    table = torch.tensor(rows, dtype=torch.float32)[None]
    return dict(dets=table[..., :5], labels=table[..., 5].long())


A = (0, 0, 100, 100, 0.9, 1)
B = (200, 0, 300, 100, 0.8, 0)
C = (0, 200, 100, 300, 0.7, 1)


@pytest.mark.parametrize(
    ('found', 'fits'),
    {
        'the same': ([A, B, C], True),
        'none': ([], False),
        'missing': ([A, B], False),
        'one too many': ([A, B, C, (0, 0, 50, 50, 0.6, 2)], False),
        'one at the threshold': ([A, B, C, (0, 0, 50, 50, 0.05001, 2)], True),
        'another class': ([A, B, (*C[:5], 2)], False),
        'moved by rounding': ([A, B, (0, 200, 100, 300.01, 0.7, 1)], True),
        'moved': ([A, B, (0, 200, 100, 300.1, 0.7, 1)], False),
        'another score': ([A, B, (*C[:4], 0.701, 1)], False),
        'not in order': ([B, A, C], False),
        'overlap of the limit': ([A, B, C, (0, 0, 100, 50.01, 0.6, 1)], True),
        'overlap of another class': ([A, B, C, (0, 0, 100, 50.01, 0.6, 0)], False),
        'overlap suppressed': ([A, B, C, (0, 0, 100, 60, 0.6, 1)], False),
        'not a number': ([A, B, (*C[:4], torch.nan, 1)], False),
    }.values(),
)
def test_what_differs(found, fits):
    expected = listed(A, B, C)
    (difference,) = compare_detections(listed(*found), expected, TEST)
    assert difference.fits == fits, difference
    own = listed(*found)
    own['dets'] = own['dets'][:, :3]
    assert not compare_detections(own, expected, TEST)[0].fits


def test_either_of_two_with_the_same_score():
    twin = (0, 10, 100, 110, 0.9, 1)
    far = (0, 60, 100, 160, 0.9, 1)
    # What the one has suppressed, the other has not.
    third = (0, 25, 100, 125, 0.5, 1)
    for own, other, fits in (
        ([A, B], [twin, B], True),
        ([A, B], [far, B], False),
        ([A, B, third], [(0, -20, 100, 80, 0.9, 1), B], False),
    ):
        (difference,) = compare_detections(listed(*own), listed(*other), TEST)
        assert difference.fits == fits, difference


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(nms=dict(type='soft_nms', iou_threshold=0.5)), "nms` is .*'soft_nms'"),
        (dict(nms=None), r'nms` is \{\}: files suppress'),
        (
            dict(nms=dict(type='nms', iou_threshold=0.5, class_agnostic=True)),
            r'`model.test_cfg.nms.class_agnostic` is True',
        ),
        (dict(max_per_img=-1), 'max_per_img` is -1'),
        (dict(nms_pre=-1), 'nms_pre` is -1'),
    ],
)
def test_choices_that_files_do_not_follow(options, message):
    with pytest.raises(ExportError, match=message):
        subject_of(dense('RetinaHead', **options))


def test_networks_that_files_do_not_follow():
    model = two_stage()
    for options in (dict(masks='outline'), dict(masks='28')):
        with pytest.raises(OptionError, match='masks of picture or box, got'):
            subject_of(model, **options)
    with pytest.raises(OptionError, match='masks of no kind, got box'):
        subject_of(two_stage(masks=False), masks='box')
    with pytest.raises(OptionError, match='masks of picture, got box'):
        subject_of(dense('RTMDetInsSepBNHead'), masks='box')
    with pytest.raises(
        ExportError, match=r'model.test_cfg.rcnn.mask_thr_binary` is -1'
    ):
        model.roi_head.test_cfg.mask_thr_binary = -1
        subject_of(model)
    for name, message in {
        'mask_head': r'`model.roi_head.mask_head` is of type Identity: .* FCNMaskHead',
        'bbox_roi_extractor': 'bbox_roi_extractor` is of type Identity',
        'bbox_head': 'bbox_head` is of type Identity: .* Shared2FCBBoxHead',
    }.items():
        model = two_stage()
        setattr(model.roi_head, name, nn.Identity())
        with pytest.raises(ExportError, match=message):
            subject_of(model)
    model = two_stage()
    model.rpn_head.bbox_coder = nn.Identity()
    with pytest.raises(ExportError, match=r'rpn_head.bbox_coder` is of type Identity'):
        subject_of(model)
    model = dense('RetinaHead')
    del model.bbox_head.test_cfg['nms_pre']
    with pytest.raises(ExportError, match=r'test_cfg.nms_pre` is -1'):
        subject_of(model)
    model = two_stage()
    model.roi_head = nn.Identity()
    with pytest.raises(ExportError, match=r'Identity.*HEADS.*StandardRoIHead'):
        subject_of(model)


def test_a_head_that_predicts_nothing_by_itself():
    model = dense('mmrecnext.SSDHead')
    del model.bbox_head.loss_cls
    with pytest.raises(ExportError, match=r"type='mmrecnext.SSDHead'"):
        subject_of(model)


@pytest.mark.parametrize('threshold', [0.2, 0.5])
def test_masks_are_pasted_as_by_mmdet(threshold):
    boxes = torch.tensor(
        [
            [3.3, 4.4, 30.2, 25.5],
            [-9.0, 10.0, 12.0, 50.0],
            [20.5, 0.0, 60.0, 33.0],
            [17.3, 4.0, 17.3, 9.0],  # without extent
            [0.0, 0.0, 60.0, 33.0],
        ]
    )
    masks = torch.rand(5, 28, 28, generator=torch.Generator().manual_seed(0))
    found = paste_masks(masks, boxes, (33, 60), threshold)
    expected = torch.zeros(5, 33, 60, dtype=torch.bool)
    for i in range(5):
        values, place = _do_paste_mask(masks[i : i + 1, None], boxes[i : i + 1], 33, 60)
        expected[(i, *place)] = values[0] >= threshold
    assert expected.any((1, 2)).all()
    assert torch.equal(found, expected)


def test_masks_that_differ():
    most = torch.zeros(1, 4, 8, 8, dtype=torch.bool)
    most[0, 0, :4] = True
    least = most.clone()
    least[0, 0, 3, 0] = False
    expected = dict(listed(A, B), masks_least=least, masks_most=most)
    for masks, fits in ((least, True), (most, True), (~most, False), (most * 0, False)):
        found = dict(listed(A, B), masks=masks.bool())
        assert compare_detections(found, expected, TEST)[1].fits == fits
    (_, short) = compare_detections(
        dict(listed(A, B), masks=most[..., :7]), expected, TEST
    )
    assert not short.fits


def test_what_the_network_does_not_find_again():
    expected = listed(A, B, C)
    other = listed(A, B, (50, 50, 90, 90, 0.6, 2))
    assert not compare_detections(other, expected, TEST)[0].fits
    unstable = dict(expected, unstable=count_missing(expected, listed(A, B)))
    assert unstable['unstable'].tolist() == [1]
    assert compare_detections(other, unstable, TEST)[0].fits
    assert not compare_detections(listed((*A[:4], 0.8, 1)), unstable, TEST)[0].fits


def test_what_coarser_weights_change():
    expected = listed(A, B, C)
    moved = [(*B[:4], 0.78, 0), (0, 4, 100, 104, 0.6, 1)]  # by 0.02, and A by 0.3
    for rows, value, note in (
        ((A, B, C), 0, '3 of 3 found again, in the median 0.0e+00 off in score'),
        (moved, 0.3, '2 of 3 found again, in the median 1.6e-01 off in score and 2.0e'),
        ((A, (*B[:5], 2)), 1, '0.0e+00 px, 1 others'),
        ((), 1, '0 of 3 found again'),
        ((B, A, C), torch.inf, 'not in order'),
    ):
        (difference,) = compare_roughly(listed(*rows), expected, TEST)
        assert difference.value == pytest.approx(value, abs=1e-6)
        assert note in difference.note
    unstable = dict(expected, unstable=torch.tensor([1]))
    assert compare_roughly(listed(), unstable, TEST)[0].value == 0
    assert compare_roughly(listed(), listed(), TEST)[0].value == 0
