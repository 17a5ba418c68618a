"""Files of detectors, equal to the ``test_step`` of MMDetection, and none else."""

import json

import onnxruntime
import pytest
import torch
from mmengine.config import ConfigDict
from torch import nn

from mmrecnext.engine.build import build_network
from mmrecnext.errors import ExportError
from mmrecnext.export import export
from mmrecnext.export.heads import subject_maker
from mmrecnext.export.images import preparation_of
from mmrecnext.export.matching import compare_detections
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
DELTAS = dict(type='DeltaXYWHBBoxCoder')
ANCHORS = dict(
    type='AnchorGenerator',
    ratios=[0.5, 1.0],
    octave_base_scale=4,
    scales_per_octave=1,
    strides=[8, 16, 32],
)
# Per type of head: what its config has besides, its layers of scores, and of boxes.
HEADS = {
    'RetinaHead': (
        dict(anchor_generator=ANCHORS, bbox_coder=DELTAS),
        ['retina_cls'],
        ['retina_reg'],
    ),
}


class Strides(nn.Module):
    """A backbone that takes little time to export, of strides 8, 16 and 32."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 9, stride=8, padding=4)

    def forward(self, x):
        x = self.conv(x)
        return x, x[..., ::2, ::2], x[..., ::4, ::4]


def settle(model, layers, mean, spread):
    """Give what layers return a mean and a spread, so that scores are far apart."""
    seed = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 64, 96), generator=seed)
    inputs = model.data_preprocessor(dict(inputs=[*images]))['inputs']
    seen = []
    for layer in map(model.get_submodule, layers):
        nn.init.normal_(layer.weight)
        seen.clear()
        hook = layer.register_forward_hook(lambda *x: seen.append(x[2].flatten()))
        with torch.no_grad():
            model(inputs)
        hook.remove()
        values = torch.cat(seen)
        layer.weight.data *= spread / values.std()
        layer.bias.data.fill_(float(mean - spread * values.mean() / values.std()))


def dense(head, quick=True, **test):
    """A small detector of a type of head; the quick one has a backbone of one layer."""
    options, scores, boxes = HEADS[head]
    channels = [8, 8, 8] if quick else [32, 64, 128]
    torch.manual_seed(0)
    model = build_network(
        ConfigDict(
            type='SingleStageDetector',
            data_preprocessor=PREPROCESSOR,
            backbone=dict(
                type='mmrecnext.RecNeXt', arch=SMALL['m0'], out_indices=(1, 2, 3)
            ),
            neck=dict(type='FPN', in_channels=channels, out_channels=8, num_outs=3),
            bbox_head=dict(
                type=head,
                num_classes=CLASSES,
                in_channels=8,
                feat_channels=8,
                stacked_convs=1,
                **options,
            ),
            test_cfg={**TEST, **test},
        ),
        'mmdet',
    )
    if quick:
        model.backbone = Strides()
    randomise(model)
    settle(model, [f'bbox_head.{name}' for name in scores], -2.0, 1.5)
    settle(model, [f'bbox_head.{name}' for name in boxes], 0.0, 0.3)
    return model


def subject_of(model, **about):
    how = preparation_of(PREPROCESSOR)
    return subject_maker(model, 'mmdet')(model, how, **about)


@pytest.mark.parametrize('head', HEADS)
def test_heads(head, tmp_path):
    """At one size, which is no multiple of the stride."""
    report = export(subject_of(dense(head)), tmp_path / 'x.onnx', size=(60, 90))
    for trial in report.trials[:2]:
        (difference,) = trial.differences
        assert ' of 0,' not in difference.note  # there are detections
        assert 'decided' not in difference.note


def test_any_size(tmp_path):
    model = dense('RetinaHead', quick=False)
    file = tmp_path / 'x.onnx'
    subject = subject_of(model)
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
    assert json.loads(about['mmrecnext.test_cfg']) == TEST


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
