import io
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from mmrecnext.report import detection
from mmrecnext.report.records import Evaluation, Object, Picture

CLASSES = ['cat', 'dog', 'cow']
SIZE = (100, 120)


def box(label, x, y=10, side=20, score=1.0, **options):
    return Object(label, [x, y, x + side, y + side], score, **options)


def evaluation(*pictures):
    return Evaluation('t', 'instances', CLASSES, {}, {}, 0.3, list(pictures))


class TestMatch:
    def matched(self, truth, found):
        picture = Picture('x.jpg', SIZE, truth, found)
        return picture, detection.match(picture, 0.3, masks=False)

    def test_what_is_found_missed_and_spare(self):
        picture, match = self.matched(
            [box(0, 0), box(1, 50)], [box(0, 1, score=0.9), box(2, 90, score=0.8)]
        )
        ((i, j, overlap),) = match.pairs
        assert (i, j) == (0, 0) and overlap == pytest.approx(19 / 21)
        assert (match.spare, match.missed) == ([1], [1])
        assert match.quality(picture) == pytest.approx(0.5)  # 2 of 2 + 2

    def test_an_object_is_found_once_by_the_surest(self):
        _, match = self.matched([box(0, 0)], [box(0, 0, score=0.5), box(0, 1)])
        assert [pair[:2] for pair in match.pairs] == [(1, 0)] and match.spare == [0]

    def test_one_of_the_same_class_goes_first(self):
        _, match = self.matched([box(0, 1), box(1, 0)], [box(0, 0)])
        assert [pair[:2] for pair in match.pairs] == [(0, 0)]

    def test_another_class_is_no_success(self):
        picture, match = self.matched([box(0, 0)], [box(1, 0)])
        assert match.pairs and match.quality(picture) == 0

    def test_crowds_are_neither_found_nor_missed(self):
        picture, match = self.matched(
            [box(0, 0, side=60, ignored=True)], [box(0, 10), box(0, 20)]
        )
        assert (match.pairs, match.spare, match.missed) == ([], [], [])
        assert match.quality(picture) == 1

    def test_scores_below_the_threshold_do_not_count(self):
        _, match = self.matched([box(0, 0)], [box(0, 0, score=0.29)])
        assert match.missed == [0] and not match.pairs

    def test_masks_decide_where_there_are_masks(self):
        upper, lower = np.zeros((2, *SIZE), np.uint8)
        upper[:50], lower[50:] = 1, 1
        codes = [coco_mask.encode(np.asfortranarray(x)) for x in (upper, lower)]
        truth, found = (box(0, 0, mask=code) for code in codes)
        picture = Picture('x.jpg', SIZE, [truth], [found])
        assert detection.has_masks([picture])
        assert detection.match(picture, 0.3, masks=False).pairs
        assert not detection.match(picture, 0.3, masks=True).pairs


def test_confusion_counts_the_background_last():
    picture = Picture(
        'x.jpg', SIZE, [box(0, 0), box(1, 50)], [box(2, 0), box(1, 90, score=0.5)]
    )
    match = detection.match(picture, 0.3, masks=False)
    table = detection.confusion([picture], [match], len(CLASSES))
    assert table.sum() == 3
    assert table[0, 2] == table[3, 1] == table[1, 3] == 1


def test_calibration():
    sure = [box(0, 0, score=0.95), box(0, 60, score=0.95)]  # one is right
    calibration = detection.calibrate([Picture('x', SIZE, [box(0, 0)], sure)], False)
    assert calibration.counts.tolist() == [0] * 9 + [2]
    assert calibration.precisions[-1] == 0.5
    assert calibration.error == pytest.approx(0.45)
    assert np.isnan(detection.calibrate([Picture('x', SIZE)], False).error)


@pytest.mark.parametrize(
    ('scores', 'doubt'), [((), 0), ((0.5,), 1), ((1.0, 0.5), 0.5), ((0.05,), 0)]
)
def test_doubt(scores, doubt):
    picture = Picture('x', SIZE, [], [box(0, 0, score=s) for s in scores])
    assert detection.doubt(picture) == pytest.approx(doubt)


def test_nothing_found_and_nothing_there():
    nothing = detection.measure(evaluation(Picture('x', SIZE)), 'bbox')
    assert np.isnan(nothing.row(0)).all()
    missed = detection.measure(evaluation(Picture('x', SIZE, [box(0, 0)])), 'bbox')
    assert missed.row(0)[:3] == [0, 0, 0] and missed.counts.tolist() == [1, 0, 0]


def test_figures_are_those_of_mmdetection(tmp_path):
    from mmdet.evaluation import CocoMetric

    generator = np.random.default_rng(0)
    pictures = []
    for number in range(12):
        truth = [
            box(int(label), *generator.integers(0, 70, 2).tolist(), side=int(side))
            for label, side in generator.integers((0, 12), (3, 50), (5, 2))
        ]
        found = [
            Object(
                x.label if generator.random() < 0.8 else 0,
                (np.array(x.box) + generator.normal(0, 2, 4)).tolist(),
                float(generator.random()),
            )
            for x in truth * 2
        ]
        pictures.append(Picture(f'{number}.jpg', SIZE, truth, found))
    metric = CocoMetric(metric='bbox', classwise=False)
    metric.dataset_meta = {'classes': CLASSES}
    samples = [as_sample(i, p) for i, p in enumerate(pictures)]
    with redirect_stdout(io.StringIO()):
        metric.process({}, samples)
        theirs = metric.evaluate(len(pictures))
    own = detection.measure(evaluation(*pictures), 'bbox')
    rows = np.array([own.row(i) for i in range(len(CLASSES))])
    keys = ('bbox_mAP', 'bbox_mAP_50', 'bbox_mAP_75')
    assert 0.1 < theirs['coco/bbox_mAP'] < 0.9
    for column, key in enumerate(keys):
        # MMDetection rounds to three digits.
        assert abs(rows[:, column].mean() - theirs[f'coco/{key}']) <= 5.1e-4


def as_sample(number, picture):
    """A picture as a metric of MMDetection takes it, its truth included."""
    height, width = picture.size
    return dict(
        img_id=number,
        img_path=picture.path,
        ori_shape=picture.size,
        height=height,
        width=width,
        instances=[
            dict(bbox=x.box, bbox_label=x.label, ignore_flag=0) for x in picture.truth
        ],
        pred_instances=dict(
            bboxes=torch.tensor([x.box for x in picture.found]),
            scores=torch.tensor([x.score for x in picture.found]),
            labels=torch.tensor([x.label for x in picture.found]),
        ),
    )
