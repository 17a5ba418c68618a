import copy
import re
import weakref

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData, PixelData
from mmseg.models import SegTTAModel
from mmseg.structures import SegDataSample

from mmrecnext.engine.configs import nodes, type_of
from mmrecnext.engine.tta import augment, flipped, segmentation
from mmrecnext.engine.tta.detection import InstanceTTAModel
from mmrecnext.engine.tta.segmentation import SegmentorTTAModel
from mmrecnext.errors import ConfigError

SIZE = (20, 30)


class Model(torch.nn.Module):
    """What wrappers for test-time augmentation ask of a model."""

    def __init__(self, **settings):
        super().__init__()
        self.__dict__.update(settings)

    def test_step(self, data):
        raise NotImplementedError


def det_view(boxes, scores, flip=False, with_boxes=True):
    """A view with an object per box, of a mask as large, as the view shows it."""
    boxes = torch.tensor(boxes, dtype=torch.float).reshape(-1, 4)
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    if flip:
        masks = masks.flip(-1)
        boxes = torch.stack(
            [SIZE[1] - boxes[:, 2], boxes[:, 1], SIZE[1] - boxes[:, 0], boxes[:, 3]], 1
        )
    found = InstanceData(
        bboxes=boxes if with_boxes else torch.zeros_like(boxes),
        scores=torch.tensor(scores, dtype=torch.float),
        labels=torch.zeros(len(boxes), dtype=torch.long),
        masks=masks,
    )
    meta = dict(ori_shape=SIZE, flip=flip, flip_direction='horizontal')
    sample = DetDataSample(metainfo=meta)
    sample.pred_instances = found
    return sample


@pytest.fixture
def merger():
    tta_cfg = ConfigDict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=3)
    return InstanceTTAModel(module=Model(), tta_cfg=tta_cfg)


LEFT, RIGHT = [2, 2, 12, 12], [18, 4, 28, 14]


class TestInstances:
    @pytest.mark.parametrize('with_boxes', [True, False])
    def test_an_object_of_both_views_is_one(self, merger, with_boxes):
        plain = det_view([LEFT], [0.8], with_boxes=with_boxes)
        other = det_view([LEFT, RIGHT], [0.6, 0.7], flip=True, with_boxes=with_boxes)
        (merged,) = merger.merge_preds([[other, plain]])
        found = merged.pred_instances
        assert found.scores.tolist() == pytest.approx([0.8, 0.7])
        expected = det_view([LEFT, RIGHT], [1, 1], with_boxes=with_boxes).pred_instances
        assert torch.equal(found.masks, expected.masks)
        assert torch.equal(found.bboxes, expected.bboxes)
        assert not merged.flip  # whose truth lies as the image does

    @pytest.mark.parametrize('with_boxes', [True, False])
    def test_one_view_is_what_it_was(self, merger, with_boxes):
        view = det_view([LEFT, RIGHT], [0.9, 0.4], with_boxes=with_boxes)
        before = view.pred_instances.clone()
        (merged,) = merger.merge_preds([[view]])
        for key in ('bboxes', 'scores', 'labels', 'masks'):
            assert torch.equal(merged.pred_instances[key], before[key])

    def test_masks_that_one_view_tells_apart_stay_apart(self, merger):
        near = [3, 3, 13, 13]
        view = det_view([LEFT, near], [0.9, 0.8], with_boxes=False)
        other = det_view([LEFT], [0.5], flip=True, with_boxes=False)
        (merged,) = merger.merge_preds([[view, other]])
        assert merged.pred_instances.scores.tolist() == pytest.approx([0.9, 0.8])

    def test_nothing_found_and_too_much(self, merger):
        empty = [det_view([], []), det_view([], [], flip=True)]
        (merged,) = merger.merge_preds([empty])
        assert len(merged.pred_instances) == 0
        boxes = [[6 * i, 0, 6 * i + 4, 4] for i in range(5)]
        scores = [0.1, 0.5, 0.3, 0.4, 0.2]
        for with_boxes in (True, False):
            view = det_view(boxes, scores, with_boxes=with_boxes)
            (merged,) = merger.merge_preds([[view]])
            found = merged.pred_instances.scores.tolist()
            assert found == pytest.approx([0.5, 0.4, 0.3])


def seg_view(logits, **truth):
    sample = SegDataSample()
    sample.set_data({'seg_logits': PixelData(data=logits)})
    sample.set_metainfo(dict(img_path='a.png'))
    for name, data in truth.items():
        sample.set_data({name: PixelData(data=data)})
    return sample


class Views(Model):
    """A segmentor that gives logits of its own, and of no view before them."""

    def __init__(self, logits, **settings):
        super().__init__(**settings)
        self.waiting = [*logits]
        self.given = []

    def test_step(self, data):
        assert [*data] == ['inputs', 'data_samples']
        assert all(data() is None for data in self.given)
        logits = self.waiting.pop(0)
        self.given += [weakref.ref(x) for x in logits]
        return [
            seg_view(x, gt_sem_seg=truth)
            for x, truth in zip(logits, data['data_samples'], strict=True)
        ]


class TestSegments:
    def test_one_output_channel_is_through_the_sigmoid_already(self):
        head = Model(threshold=0.3)
        model = SegmentorTTAModel(module=Model(out_channels=1, decode_head=head))
        views = [
            seg_view(torch.tensor([[probabilities]], dtype=torch.double))
            for probabilities in ([0.1, 0.2, 0.9, 0.5], [0.1, 0.5, 0.7, 0.0])
        ]
        (one,) = model.merge_preds([copy.deepcopy(views[:1])])
        assert one.pred_sem_seg.data.tolist() == [[[0, 0, 1, 1]]]
        (both,) = model.merge_preds([views])
        assert both.pred_sem_seg.data.tolist() == [[[0, 1, 1, 0]]]

    @pytest.mark.parametrize('at_once', [1, 2**20])
    def test_several_classes_view_by_view(self, at_once, monkeypatch):
        """Of two images, as MMSegmentation merges all at once, in any memory."""
        monkeypatch.setattr(segmentation, 'ENLARGED_BYTES', at_once)
        logits = torch.randn(3, 2, 5, 7, 9)  # of 3 views, 2 images
        truth = torch.arange(6).view(3, 2, 1, 1, 1).expand(3, 2, 1, 7, 9)
        views = [
            [seg_view(x, gt_sem_seg=y) for x, y in zip(*pair, strict=True)]
            for pair in zip(logits.clone(), truth, strict=True)
        ]
        reference = SegTTAModel(module=Model(out_channels=5))
        expected = reference.merge_preds([*zip(*views, strict=True)])
        module = Views([[*view.clone().unbind()] for view in logits])
        batch = dict(inputs=[None] * 3, data_samples=[*truth])
        found = SegmentorTTAModel(module=module).test_step(batch)
        for own, other in zip(found, expected, strict=True):
            assert torch.equal(own.pred_sem_seg.data, other.pred_sem_seg.data)
            assert torch.equal(own.gt_sem_seg.data, other.gt_sem_seg.data)
            assert own.img_path == 'a.png' and 'seg_logits' not in own


def config(scope, model, **more):
    load = dict(type='LoadImageFromFile', color_type='grayscale')
    pack = dict(type='PackDetInputs' if scope == 'mmdet' else 'PackSegInputs')
    labels = dict(type='LoadAnnotations', reduce_zero_label=True)
    return Config(
        dict(
            default_scope=scope,
            model=model,
            test_dataloader=dict(
                dataset=dict(type='CocoDataset', pipeline=[load, labels, pack])
            ),
            **more,
        )
    )


@pytest.mark.parametrize(
    ('scope', 'model', 'message'),
    [
        ('mmdet', dict(type='PanopticFPN'), 'a PanopticFPN predicts panoptic maps'),
        ('mmdet', dict(type='RPN'), 'a RPN predicts proposals'),
        ('mmdet', dict(type='mmdet.ByteTrack'), 'a ByteTrack predicts tracks'),
        ('mmdet', dict(type='Mask2Former'), 'model.test_cfg.panoptic_on'),
        ('mmseg', dict(type='DepthEstimator'), 'a DepthEstimator predicts depths'),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(scope, model, message):
    with pytest.raises(ConfigError, match=f'--tta merges .*{re.escape(message)}'):
        augment(config(scope, model))


@pytest.mark.parametrize(
    ('scope', 'model', 'theirs', 'ours'),
    [
        ('mmdet', 'MaskRCNN', 'DetTTAModel', 'InstanceTTAModel'),
        ('mmseg', 'EncoderDecoder', 'SegTTAModel', 'SegmentorTTAModel'),
    ],
)
def test_models_of_the_frameworks_give_way_to_those_that_merge_more(
    scope, model, theirs, ours
):
    cfg = config(scope, dict(type=model), tta_model=dict(type=theirs, extra=1))
    augment(cfg)
    assert cfg.model.type == f'mmrecnext.{ours}' and cfg.model.extra == 1
    assert cfg.model.module.type == model
    own = config(scope, dict(type=model), tta_model=dict(type='Mine'))
    augment(own)
    assert own.model.type == 'Mine'


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_an_unknown_model_is_told_as_it_is_built(scope):
    cfg = config(scope, dict(type='NoModel'))
    augment(cfg)
    assert cfg.model.module.type == 'NoModel'


def test_pictures_and_labels_are_read_as_in_a_test():
    views = [
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
        [dict(type='LoadAnnotations')],
        [dict(type='PackSegInputs')],
    ]
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='TestTimeAug', transforms=views),
    ]
    cfg = config('mmseg', dict(type='EncoderDecoder'), tta_pipeline=pipeline)
    augment(cfg)
    steps = {type_of(n): n for n in nodes(cfg.test_dataloader.dataset.pipeline)}
    assert steps['LoadImageFromFile'].color_type == 'grayscale'
    assert steps['LoadAnnotations'].reduce_zero_label


def test_flips_begin_with_the_picture_as_it_is():
    pack = dict(type='PackDetInputs', meta_keys=('img_path',))
    *_, views = flipped([dict(type='LoadImageFromFile'), pack])
    flips, packs = views['transforms']
    assert np.array_equal([flip['prob'] for flip in flips], [0, 1])
    assert packs[0]['meta_keys'] == ('img_path', 'flip', 'flip_direction')
    with pytest.raises(ConfigError, match='--tta takes one that packs'):
        flipped([dict(type='LoadImageFromFile')])
