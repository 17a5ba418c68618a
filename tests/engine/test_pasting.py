import copy
import pickle

import pytest
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead, fcn_mask_head
from mmengine.config import ConfigDict
from torch import nn

from mmrecnext.engine.pasting import paste_in_boxes
from mmrecnext.ops import fast_paths

CFG = ConfigDict(mask_thr_binary=0.5)
META = dict(ori_shape=(40, 62), scale_factor=(1.25, 1.5))
BOXES = [[3.3, 4.4, 30.2, 25.5], [-9.0, 10.0, 92.0, 50.0], [17.3, 4.0, 17.3, 9.0]]
LABELS = [2, 0, 1]


@pytest.fixture
def by_points(monkeypatch):
    """How many masks MMDetection has pasted."""
    pasted = []
    paste = fcn_mask_head._do_paste_mask

    def record(masks, *args, **options):
        pasted.extend(masks)
        return paste(masks, *args, **options)

    monkeypatch.setattr(fcn_mask_head, '_do_paste_mask', record)
    return pasted


def make_head(kind=FCNMaskHead, **options):
    return kind(num_convs=1, in_channels=4, conv_out_channels=4, **options)


def pickled(head):
    return pickle.loads(pickle.dumps(head))


def predicted(head, cfg=CFG, **options):
    """Masks, and the boxes, which are rescaled in place."""
    torch.manual_seed(0)
    classes = 1 if head.class_agnostic else 3
    logits, boxes = torch.randn(len(BOXES), classes, 28, 28), torch.tensor(BOXES)
    labels = torch.tensor(LABELS)
    masks = head._predict_by_feat_single(logits, boxes, labels, META, cfg, **options)
    return masks, boxes


@pytest.mark.parametrize('class_agnostic', [False, True])
@pytest.mark.parametrize('rescale', [False, True])
def test_masks_are_the_same(class_agnostic, rescale, by_points):
    head = make_head(num_classes=3, class_agnostic=class_agnostic)
    expected, expected_boxes = predicted(head, rescale=rescale)
    model = nn.Sequential(nn.Identity(), head)
    paste_in_boxes(model)
    by_points.clear()
    found, boxes = predicted(model[1], rescale=rescale)
    assert by_points == []
    assert found.shape == (3, *((40, 62) if rescale else (60, 78)))
    assert found.equal(expected) and boxes.equal(expected_boxes)
    assert found.any((1, 2)).all()


@pytest.mark.parametrize('cfg', [CFG, ConfigDict(mask_thr_binary=-1)])
def test_shades_and_what_is_not_to_be_fast(cfg, by_points):
    head = make_head(num_classes=3)
    expected, _ = predicted(head, cfg, rescale=True)
    paste_in_boxes(head)
    by_points.clear()
    with fast_paths.off():
        found, _ = predicted(head, cfg, rescale=True)
    assert len(by_points) == len(BOXES)
    assert found.equal(expected)
    predicted(head, cfg, rescale=True)
    assert len(by_points) == len(BOXES) * (2 if cfg is not CFG else 1)


@pytest.mark.parametrize('copied', [copy.deepcopy, pickled])
def test_copies_paste_by_their_own_head(copied, by_points):
    head = make_head(num_classes=3)
    paste_in_boxes(head)
    expected, _ = predicted(head)
    twin = copied(head)
    head.class_agnostic = True
    found, _ = predicted(twin)
    assert found.equal(expected) and by_points == []


def test_a_head_that_pastes_in_its_own_way_does_so():
    class Head(FCNMaskHead):
        def _predict_by_feat_single(self, *args, **options):
            return 'own', None

    head = make_head(Head, num_classes=3)
    paste_in_boxes(head)
    assert predicted(head)[0] == ('own', None)
