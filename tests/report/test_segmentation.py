import numpy as np
import pytest

from mmrecnext.report import segmentation
from mmrecnext.report.recorder import confusion_of
from mmrecnext.report.records import Evaluation, Picture

CLASSES = ['sky', 'sea', 'sand']
TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 255]])
FOUND = np.array([[0, 1, 1, 1], [0, 0, 1, 2]])


@pytest.fixture
def picture():
    return Picture('x.jpg', TRUTH.shape, confusion=confusion_of(TRUTH, FOUND, 3))


def test_pixels_that_are_no_class_are_not_counted(picture):
    assert picture.confusion == {0: {0: 3, 1: 1}, 1: {1: 3}}


def test_shares(picture):
    table = segmentation.confusion([picture, picture], 3)
    assert table.tolist() == [[6, 2, 0], [0, 6, 0], [0, 0, 0]]
    shares = segmentation.shares(table)
    assert shares.iou[:2].tolist() == [0.75, 0.75] and np.isnan(shares.iou[2])
    assert shares.accuracy[:2].tolist() == [0.75, 1]


def test_quality_is_of_the_classes_that_occur(picture):
    assert segmentation.quality(picture) == 0.75
    told = {0: {0: 1, 2: 1}}  # half of the sky is told to be sand
    assert segmentation.quality(Picture('y', (1, 2), confusion=told)) == 0.25
    assert segmentation.quality(Picture('z', (1, 2))) == 1


def test_mistaken_classes(picture):
    evaluation = Evaluation('t', 'label map', CLASSES, {}, {}, 0.3, [picture])
    table = segmentation.confusion([picture], 3)
    assert segmentation.mistaken(evaluation, table, 5) == [('sky', 'sea', 0.25)]
