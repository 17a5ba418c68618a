"""Data that do not fit the config or the model are told before the first step."""

import copy
import json
import os
import re
from types import SimpleNamespace

import cv2
import mmdet.datasets  # noqa: F401, registers what configs name
import mmseg.datasets  # noqa: F401
import numpy as np
import pytest
import torch
from mmcv.transforms import RandomFlip, TransformBroadcaster
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from PIL import Image
from pycocotools import mask as coco_mask
from torch import nn
from torch.utils.data import DataLoader

from mmrecnext.engine.build import fit_cpu
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.data import DataHook, check_data, coco, hook, samples
from mmrecnext.engine.data.annotations import (
    Needs,
    _decoded,
    mask_faults,
    read_annotations,
)
from mmrecnext.engine.data.hook import check_heads
from mmrecnext.engine.data.samples import CheckedPipeline, check_loaded, cut_short
from mmrecnext.engine.runner import Runner
from mmrecnext.errors import ConfigError, DataError
from tests.helpers import ROOT

CLASSES = ('bolt', 'nut')
HEIGHT, WIDTH = 40, 60


def annotations() -> dict:
    """Two pictures, with a bolt and a nut each."""
    images = [
        dict(id=i, file_name=f'{i}.png', height=HEIGHT, width=WIDTH) for i in (1, 2)
    ]
    objects = [
        dict(
            id=10 * image['id'] + category,
            image_id=image['id'],
            category_id=category,
            bbox=[5, 5, 20, 10],
            area=200,
            iscrowd=0,
            segmentation=[[5, 5, 25, 5, 25, 15, 5, 15]],
        )
        for image in images
        for category in (1, 2)
    ]
    categories = [dict(id=1 + i, name=name) for i, name in enumerate(CLASSES)]
    return dict(images=images, annotations=objects, categories=categories)


@pytest.fixture
def make(tmp_path):
    """Write data in COCO's format, changed by ``edit``; return their config."""

    def make(edit=None, edit_val=None, classes=CLASSES, masks=True):
        loaders = {}
        for split, change in (('train', edit), ('val', edit_val)):
            (tmp_path / split).mkdir(exist_ok=True)
            for i in (1, 2):
                picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
                cv2.imwrite(str(tmp_path / f'{split}/{i}.png'), picture)
            content = annotations()
            text = change(content) if change else None
            text = text if isinstance(text, str) else json.dumps(content)
            (tmp_path / f'{split}.json').write_text(text)
            load = dict(type='LoadAnnotations', with_bbox=True, with_mask=masks)
            loaders[f'{split}_dataloader'] = dict(
                batch_size=1,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(
                    type='CocoDataset',
                    data_root=str(tmp_path),
                    ann_file=f'{split}.json',
                    data_prefix=dict(img=split),
                    metainfo=dict(classes=classes),
                    pipeline=[dict(type='LoadImageFromFile'), load],
                ),
            )
        metric = ['bbox', 'segm'] if masks else 'bbox'
        evaluator = dict(
            type='CocoMetric', ann_file=str(tmp_path / 'val.json'), metric=metric
        )
        return Config(dict(default_scope='mmdet', val_evaluator=evaluator, **loaders))

    with DefaultScope.overwrite_default_scope('mmdet'):
        yield make


@pytest.fixture
def said(monkeypatch):
    """Collect what is logged."""
    lines = []
    for module in (coco, hook, samples):
        monkeypatch.setattr(module, 'print_log', lambda line, *_: lines.append(line))
    return lines


def refuse(cfg, *patterns, splits=('train', 'val')):
    with pytest.raises(DataError) as caught:
        check_data(cfg, splits)
    message = str(caught.value)
    assert '\n' not in message
    for pattern in patterns:
        assert re.search(pattern, message), message


class TestClassNames:
    def test_right_names_pass(self, make, said):
        check_data(make(), ('train', 'val'))
        assert not said

    @pytest.mark.parametrize(
        ('classes', 'reason'),
        [
            (('nut', 'bolt'), 'in the order of the file'),
            (('blot', 'nut'), r"'blot' is the name of no category \(did you mean 'b"),
            (('background', 'bolt', 'nut'), "'background' is the name of no category"),
            (('bolt', 'nut', 'cog'), "'cog' is the name of no category"),
            (('bolt', 'bolt', 'nut'), 'stands there twice'),
        ],
        ids=str,
    )
    def test_others_are_told_with_the_right_ones(self, classes, reason, make):
        cfg = make(classes=classes)
        refuse(cfg, 'train.json', reason, r"classes=\('bolt', 'nut'\)")
        wrapped = dict(
            type='RepeatDataset', times=2, dataset=cfg.val_dataloader.dataset
        )
        cfg.val_dataloader.dataset = wrapped
        refuse(cfg, 'val.json', reason, 'val_dataloader', splits=('val',))
        with pytest.raises(DataError, match=reason):
            Runner.build_dataloader(cfg.val_dataloader)

    def test_labels_are_those_of_the_names(self, make):
        dataset = Runner.build_dataloader(make().train_dataloader).dataset
        assert dataset.cat2label == {1: 0, 2: 1}

    def test_names_of_the_type_are_told_to_be_those(self, make):
        cfg = make()
        del cfg.train_dataloader.dataset.metainfo
        refuse(cfg, '`metainfo.classes` is not set', r"classes=\('bolt', 'nut'\)")

    def test_a_string_is_no_tuple(self, make):
        refuse(make(classes='bolt'), r"\('bolt',\) with a comma")

    def test_one_name_of_two_categories(self, make):
        def edit(content):
            content['categories'].append(dict(id=3, name='bolt'))

        refuse(make(edit), "'bolt' is the name of several categories")

    def test_some_of_the_categories_are_a_choice(self, make, said):
        check_data(make(classes=('nut',)), ('train',))
        (line,) = said
        assert '2 objects of the 1 categories' in line and '(bolt)' in line

    def test_evaluators_are_looked_at(self, make, tmp_path):
        cfg = make()
        other = annotations()
        other['categories'].reverse()
        (tmp_path / 'other.json').write_text(json.dumps(other))
        cfg.val_evaluator.ann_file = str(tmp_path / 'other.json')
        refuse(cfg, 'other.json', 'in the order of the file')

    def test_it_can_be_left_out(self, make):
        cfg = make(classes=('nut', 'bolt'))
        cfg.check_data = False
        check_data(cfg, ('train', 'val'))

    def test_other_types_of_datasets_are_left_alone(self, make):
        cfg = make(classes=('nut', 'bolt'))
        for split in ('train', 'val'):
            cfg[f'{split}_dataloader'].dataset.type = 'Objects365V1Dataset'
        check_data(cfg, ('train', 'val'))


def change(place, index, **fields):
    """Return an edit that sets fields of an item, or deletes those that are None."""

    def edit(content):
        item = content[place][index]
        item.update(fields)
        for name in [name for name, value in fields.items() if value is None]:
            del item[name]

    return edit


class TestAnnotations:
    @pytest.mark.parametrize(
        ('edit', 'message'),
        [
            (lambda c: '{"images": [', 'no whole JSON'),
            (lambda c: '', 'no whole JSON'),
            (lambda c: '[1]', 'not in the format of COCO.*a list'),
            (lambda c: c.pop('categories') and None, 'no list `categories`'),
            (change('images', 1, height=None), r'images\[1\] \(id 2\) has no `height`'),
            (change('images', 1, width=0), '`width` of the image 2 .*is 0'),
            (change('images', 1, file_name=None), 'has no `file_name`'),
            (change('images', 1, id=1), 'two images have the `id` 1: 1.png and 2.png'),
            (change('categories', 1, id=1), 'two categories have the `id` 1'),
            (change('annotations', 3, id=11), r'\(id 11\) have an `id` that another'),
            (change('annotations', 3, id=[1]), r'1 of 4 .* have no `id`'),
            (change('annotations', 3, area=None), r'1 of 4 .*\(id 22\) have no `area`'),
            (change('annotations', 3, bbox=None), r'\(id 22\) have no `bbox`'),
            (change('annotations', 3, bbox=[1, 2, 3]), 'not four finite numbers'),
            (change('annotations', 3, bbox=[1, 2, 3, '4']), 'not four finite numbers'),
            (change('annotations', 3, bbox=[1, 2, 3, np.nan]), 'not four finite numb'),
            (change('annotations', 3, bbox=[1, 2, -3, 4]), '`bbox` of negative size'),
            (change('annotations', 3, area='big'), '`area` that is no finite number'),
            (
                change('annotations', 3, image_id=7),
                r'22\) have a `image_id` \(7\) ',
            ),
            (change('annotations', 3, category_id=7), r'a `category_id` \(7\) that no'),
            (change('annotations', 3, segmentation=None), 'have no `segmentation`'),
            (change('annotations', 3, segmentation=[]), 'have no `segmentation`'),
            (
                change('annotations', 3, segmentation=[[1, 2, np.nan, 4, 5, 6]]),
                r'\(id 22\) have a `segmentation` that holds NaN',
            ),
            (
                change('annotations', 3, segmentation=[[1, 2, 10**7, 4, 5, 6]]),
                'over 10 times the size',
            ),
            (
                change('annotations', 3, segmentation=[1, 2, 3, 4, 5, 6]),
                'no list of polygons',
            ),
            (
                change(
                    'annotations',
                    3,
                    segmentation=dict(size=[10**6, 10**6], counts=[10**12]),
                ),
                r'of size \[1000000, 1000000\], where their picture has \[40, 60\]',
            ),
            (
                change('annotations', 3, segmentation=dict(size=[40, 60], counts=[9])),
                '`counts` are 9 pixels in all, where their picture has 2400',
            ),
        ],
    )
    def test_what_ends_a_run_is_named(self, edit, message, make):
        refuse(make(edit), 'train.json', message)

    @pytest.mark.parametrize(
        ('fields', 'message'),
        [
            (dict(id=0), r'\(id 0\) have the `id` 0, which pycocotools takes for none'),
            (dict(id='x'), r'an `id` that is no number'),
            (dict(segmentation=[[1, 1], [5, 5, 25, 5, 25, 15]]), 'a first one of less'),
            (dict(segmentation=[[5, 5, 25, 5, 25, 15], []]), 'an empty polygon'),
        ],
    )
    def test_what_pycocotools_reads_wrongly_is_named(self, fields, message, make, said):
        edit = change('annotations', 3, **fields)
        check_data(make(edit), ('train',))
        refuse(make(edit_val=edit), 'val.json', message)
        assert not said

    @pytest.mark.parametrize('polygons', [[[]], [[1, 1]], [[1, 1, 9, 9]], [[1] * 7]])
    def test_polygons_without_area(self, polygons, make, said):
        edit = change('annotations', 3, segmentation=polygons)
        check_data(make(edit), ('train',))
        assert re.search(r'on 1 annotations \(id 22\).*no polygon of three', said[0])
        # In training MMDetection ignores the object, in an evaluation it fails.
        refuse(make(edit_val=edit), 'val.json', r'\(id 22\).*no polygon of three')

    @pytest.mark.parametrize('crowd', [0, 1])
    def test_encodings_where_polygons_alone_are_taken(self, crowd, make, said):
        mask = dict(size=[HEIGHT, WIDTH], counts=[0, HEIGHT * WIDTH])
        edit = change('annotations', 3, segmentation=mask, iscrowd=crowd)
        cfg = make(edit, edit)
        check_data(cfg, ('train', 'val'))
        assert not said
        for split in ('train', 'val'):
            cfg[f'{split}_dataloader'].dataset.pipeline[1].poly2mask = False
        check_data(cfg, ('train', 'val'))
        told = [line for line in said if 'run-length' in line]
        assert len(told) == 1 - crowd
        for line in told:
            assert re.search(r'train.json: .* 1 annotations \(id 22\)', line)
            assert 'poly2mask=False' in line and '\n' not in line
        # So MMDetection does:
        sample = Runner.build_dataloader(cfg.train_dataloader).dataset[1]
        assert sample['gt_ignore_flags'].tolist() == [False, True]

    def test_nothing_but_encodings_where_polygons_alone_are_taken(self, make):
        mask = dict(size=[HEIGHT, WIDTH], counts=[0, HEIGHT * WIDTH])
        cfg = make(lambda c: [a.update(segmentation=mask) for a in c['annotations']])
        check_data(cfg, ('train',))
        cfg.train_dataloader.dataset.pipeline[1].poly2mask = False
        refuse(cfg, 'nothing to train on: .*run-length.*leave `poly2mask` out')

    def test_masks_may_lack_where_none_are_loaded(self, make, said):
        edit = change('annotations', 3, segmentation=None)
        check_data(make(edit, edit, masks=False), ('train', 'val'))
        assert not said

    def test_crowd_flags_may_lack_in_training_alone(self, make):
        edit = change('annotations', 3, iscrowd=None)
        check_data(make(edit), ('train', 'val'))
        refuse(make(edit_val=edit), 'val.json', r'\(id 22\) have no `iscrowd`')

    @pytest.mark.parametrize(
        ('fields', 'reason'),
        [
            (dict(bbox=[5, 5, 0, 10]), 'less than a pixel'),
            (dict(bbox=[500, 500, 9, 9]), 'outside of its picture'),
            (dict(area=0), 'an `area` of 0'),
        ],
    )
    def test_boxes_that_count_for_nothing_are_told(self, fields, reason, make, said):
        cfg = make(change('annotations', 3, **fields))
        check_data(cfg, ('train',))
        (line,) = said
        assert '1 annotations (id 22)' in line and reason in line
        dataset = Runner.build_dataloader(cfg.train_dataloader).dataset
        assert len(dataset.get_data_info(1)['instances']) == 1  # so MMDetection does

    @pytest.mark.parametrize(
        'edit',
        [
            lambda c: [a.update(iscrowd=1) for a in c['annotations']],
            lambda c: c['annotations'].clear(),
            lambda c: [a.update(bbox=[0, 0, 0, 0]) for a in c['annotations']],
        ],
    )
    def test_nothing_to_train_on(self, edit, make, said):
        refuse(make(edit), 'nothing to train on', 'train.json')
        check_data(make(edit_val=edit), ('train', 'val'))
        assert 'val.json: no object of any class' in said[-1]

    def test_pictures_without_objects_are_negatives(self, make, said):
        def edit(content):
            content['annotations'] = content['annotations'][:2]

        check_data(make(edit), ('train',))
        assert not said

    def test_classes_without_objects_are_named(self, make, said):
        def edit(content):
            del content['annotations'][1::2]

        check_data(make(edit, edit), ('train', 'val'))
        assert 'no object of nut' in said[0] and 'cannot be learnt' in said[0]
        assert 'no object of nut' in said[1] and 'do not count' in said[1]

    def test_missing_pictures_are_named(self, make, tmp_path):
        cfg = make()
        (tmp_path / 'val/2.png').unlink()
        refuse(cfg, '1 of 2 pictures of .*val.json are missing: .*val/2.png')
        cfg.val_dataloader.dataset.indices = 1
        check_data(cfg, ('train', 'val'))

    @pytest.mark.parametrize(
        ('fields', 'message'),
        [(dict(id=5), 'no image of the id 2'), (dict(file_name='x.png'), 'is x.png')],
    )
    def test_evaluators_of_another_set(self, fields, message, make, tmp_path):
        cfg = make()
        other = annotations()
        other['annotations'] = []
        other['images'][1].update(fields)
        (tmp_path / 'other.json').write_text(json.dumps(other))
        cfg.val_evaluator.ann_file = str(tmp_path / 'other.json')
        refuse(cfg, 'val_evaluator', 'of another set', message)

    def test_compressed_counts_are_those_of_pycocotools(self):
        mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5
        mask[:, 20:50] = True  # a run that takes several characters
        encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        runs = [*_decoded(encoded['counts'].decode())]
        flat = np.concatenate([np.full(n, i % 2) for i, n in enumerate(runs)])
        assert (flat.reshape(HEIGHT, WIDTH, order='F') == mask).all()
        image = dict(height=HEIGHT, width=WIDTH)
        text = encoded['counts'].decode()
        assert (
            mask_faults(dict(size=[HEIGHT, WIDTH], counts=text), image) == (None,) * 2
        )
        short = dict(size=[HEIGHT, WIDTH], counts=text[: len(text) // 2])
        assert 'pixels in all' in mask_faults(short, image)[0]

    def test_ids_may_be_of_any_kind(self, make, tmp_path):
        make(change('images', 0, id='a'), None)
        content = json.loads((tmp_path / 'train.json').read_text())
        for annotation in content['annotations'][:2]:
            annotation['image_id'] = 'a'
        (tmp_path / 'train.json').write_text(json.dumps(content))
        read = read_annotations(str(tmp_path / 'train.json'), Needs(masks=True))
        assert {*read.images} == {'a', 2} and read.objects == {1: 2, 2: 2}


class Parts(nn.Module):
    """A model of parts that say numbers of classes."""

    def __init__(self, **numbers):
        super().__init__()
        for name, number in numbers.items():
            self.add_module(name, nn.Identity())
            self.get_submodule(name).num_classes = number


class TestHeads:
    def test_of_another_number_are_named_by_their_fields(self):
        cfg = load_config(str(ROOT / 'configs/mask_rcnn_recnext_m0_shapes.py'))
        fit_cpu(cfg)
        cfg.model.roi_head.bbox_head.pop('num_classes')  # 80 by itself
        with DefaultScope.overwrite_default_scope('mmdet'):
            model = MODELS.build(cfg.model)
        with pytest.raises(ConfigError) as caught:
            check_heads(model, dict(classes=('a',) * 5), 'train_dataloader')
        assert 'model.roi_head.bbox_head.num_classes=80, not 5' in str(caught.value)
        assert 'mask_head' not in str(caught.value)
        model.roi_head.bbox_head.num_classes = 5
        check_heads(model, dict(classes=('a',) * 5), 'train_dataloader')
        check_heads(model, {}, 'train_dataloader')

    def test_other_parts_may_have_their_own(self):
        model = Parts(backbone=1000, rpn_head=1, bbox_head=2)
        check_heads(model, dict(classes=CLASSES), 'train_dataloader')

    def test_things_and_stuff(self):
        metainfo = dict(classes=['abcd'] * 4, thing_classes=['a'])
        model = Parts(bbox_head=1, mask_head=1, panoptic_head=4)
        head = model.panoptic_head
        head.num_things_classes, head.num_stuff_classes = 1, 3
        check_heads(model, metainfo, 'train_dataloader')
        head.num_things_classes = 2
        with pytest.raises(ConfigError, match=r'panoptic_head\.num_things_classes=2'):
            check_heads(model, metainfo, 'train_dataloader')

    def test_of_segmentors_auxiliary_ones_included(self):
        metainfo = dict(classes=CLASSES, reduce_zero_label=False)
        check_heads(Parts(decode_head=2, auxiliary_head=2), metainfo, 'x')
        with pytest.raises(ConfigError, match=r'model\.auxiliary_head\.num_classes=9'):
            check_heads(Parts(decode_head=2, auxiliary_head=9), metainfo, 'x')


@pytest.fixture
def segmentation(tmp_path):
    """Write pictures and label maps; return a data set of them, as built."""
    from mmseg.registry import DATASETS

    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]

    def segmentation(
        labels, zero=False, suffix='.png', classes=('a', 'b'), pipeline=load, **options
    ):
        for name in ('images', 'labels'):
            (tmp_path / name).mkdir(exist_ok=True)
        for i, label in enumerate(labels):
            picture = np.full((*label.shape[:2], 3), 90, np.uint8)
            cv2.imwrite(str(tmp_path / f'images/{i}.png'), picture)
            Image.fromarray(label).save(tmp_path / f'labels/{i}.png')
        config = dict(
            type='BaseSegDataset',
            data_root=str(tmp_path),
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            img_suffix=suffix,
            metainfo=dict(classes=classes),
            reduce_zero_label=zero,
            pipeline=pipeline,
            **options,
        )
        return DATASETS.build(config)

    with DefaultScope.overwrite_default_scope('mmseg'):
        yield segmentation


def halves(low, high, shape=(8, 6), dtype=np.uint8):
    """A label map of two labels."""
    label = np.full(shape, low, dtype)
    label[: shape[0] // 2] = high
    return label


def refuse_loading(dataset, pattern, train=True):
    with pytest.raises(DataError, match=pattern) as caught:
        check_loaded(dataset, train)
    assert '\n' not in str(caught.value)


class TestLabelMaps:
    @pytest.mark.parametrize(
        ('label', 'message'),
        [
            (halves(0, 2), r'1\.png holds 2, where the 2 classes are 0 to 1'),
            (
                np.dstack([halves(0, 1), halves(1, 0), halves(0, 1)]),
                'has 3 channels, c',
            ),
            (np.dstack([halves(0, 1)] * 3), r"All are equal.*\('1.png'\).getchannel"),
            (halves(0, 300, dtype=np.uint16), r'1\.png holds 300; .* eight bits'),
        ],
    )
    def test_of_other_labels(self, label, message, segmentation):
        refuse_loading(segmentation([halves(0, 1), label]), message)

    def test_of_another_size(self, segmentation, tmp_path):
        dataset = segmentation([halves(0, 1)])
        Image.fromarray(halves(0, 1, (4, 3))).save(tmp_path / 'labels/0.png')
        refuse_loading(dataset, r'labels/0\.png has 4 x 3 pixels, its picture 8 x 6')

    @pytest.mark.parametrize('shape', [(1, 6), (6, 1), (1, 1)], ids=str)
    def test_of_one_row_or_column(self, shape, segmentation, tmp_path):
        label = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape) % 2
        dataset = segmentation([label])
        check_loaded(dataset, False)
        assert dataset[0]['gt_seg_map'].tolist() == label.tolist()
        Image.fromarray(label[:1, :1]).save(tmp_path / 'labels/0.png')
        if shape != (1, 1):
            refuse_loading(dataset, r'labels/0\.png has 1 x 1 pixels, its picture')

    def test_later_ones_are_looked_at_when_loaded(self, segmentation, monkeypatch):
        monkeypatch.setattr(samples, 'SAMPLES', 0)
        dataset = segmentation([halves(0, 1), halves(0, 7)])
        check_loaded(dataset, True)
        assert (dataset[0]['gt_seg_map'] == halves(0, 1)).all()
        with pytest.raises(DataError, match=r'1\.png holds 7'):
            dataset[1]

    @pytest.mark.parametrize('looked_at', [0, 2])
    def test_of_several_views(self, looked_at, segmentation, monkeypatch):
        monkeypatch.setattr(samples, 'SAMPLES', looked_at)
        flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
        views = [flips, [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]]
        pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='TestTimeAug', transforms=views),
        ]
        dataset = segmentation([halves(0, 1), halves(0, 7)], pipeline=pipeline)
        with pytest.raises(DataError, match=r'1\.png holds 7, where the 2 classes'):
            check_loaded(dataset, False)
            assert len(dataset[0]['data_samples']) == 2
            assert not looked_at
            check_loaded(dataset, False)  # again, as before each run
            dataset[1]

    def test_transforms_within_still_draw_alike(self):
        alike = TransformBroadcaster(
            [dict(type=RandomFlip, prob=0.5)],
            mapping=dict(img=['a', 'b']),
            auto_remap=True,
            share_random_params=True,
        )
        pipeline = CheckedPipeline([alike], None, set())
        picture = np.arange(12).reshape(2, 6)
        for _ in range(16):
            found = pipeline(dict(a=picture, b=picture))
            assert np.array_equal(found['a'], found['b'])

    def test_reduced_labels_are_told_as_in_the_file(self, segmentation):
        dataset = segmentation([halves(1, 3)], zero=True)
        refuse_loading(dataset, 'holds 3, where the 2 classes are 1 to 2.*: 0 is too')

    @pytest.mark.parametrize('mode', ['P', 'I;16', '1'])
    def test_palettes_and_other_depths_are_read(self, mode, segmentation, tmp_path):
        dataset = segmentation([halves(0, 1)])
        if mode == 'P':
            image = Image.fromarray(halves(0, 1)).convert('P')
            image.putpalette([*range(255)] * 3)
        else:
            kind = {'I;16': np.uint16, '1': bool}[mode]
            image = Image.fromarray(halves(0, 1, dtype=kind))
        image.save(tmp_path / 'labels/0.png')
        assert Image.open(tmp_path / 'labels/0.png').mode == mode
        check_loaded(dataset, True)
        assert (dataset[0]['gt_seg_map'] == halves(0, 1)).all()

    @pytest.mark.parametrize('zero', [False, True])
    def test_masks_of_0_and_255(self, zero, segmentation, said):
        labels = [halves(0, 255)] * 2
        refuse_loading(segmentation(labels, zero), 'nothing to learn from.*255')
        check_loaded(segmentation(labels, zero), train=False)
        (line,) = said
        assert 'no pixel of' in line and '255' in line

    def test_classes_without_a_pixel(self, segmentation, said):
        check_loaded(segmentation([halves(0, 1)], classes=('a', 'b', 'c')), True)
        (line,) = said
        assert re.search('have no pixel of c$', line)

    def test_nothing_is_said_of_what_was_not_looked_at(
        self, segmentation, said, monkeypatch
    ):
        monkeypatch.setattr(samples, 'SAMPLES', 2)
        labels = [halves(0, 1)] * 4
        check_loaded(segmentation(labels, classes=('a', 'b', 'c')), True)
        assert not said

    def test_missing_ones(self, segmentation, tmp_path):
        dataset = segmentation([halves(0, 1)] * 2)
        (tmp_path / 'labels/1.png').rename(tmp_path / 'labels/1.tif')
        message = r'1 of 2 label maps .*1\.png; .*holds 1 of .*seg_map_suffix'
        refuse_loading(dataset, message)

    def test_pictures_of_another_suffix(self, segmentation, tmp_path, said):
        loader = dict(batch_size=1, num_workers=0, dataset=None)
        segmentation([halves(0, 1)] * 2)
        loader['dataset'] = dict(
            type='BaseSegDataset',
            data_root=str(tmp_path),
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            metainfo=dict(classes=('a', 'b')),
        )
        loader['sampler'] = dict(type='DefaultSampler', shuffle=False)
        with pytest.raises(ConfigError) as caught:
            Runner.build_dataloader(loader)
        for word in ('no usable sample', r'*.jpg', '2 of .png', '`img_suffix`'):
            assert word in str(caught.value)
        assert 'class names' not in str(caught.value)
        (tmp_path / 'images/0.png').rename(tmp_path / 'images/0.PNG')
        check_loaded(segmentation([]), True)
        assert '1 of .PNG are left out' in said[0]


def spoil(file, how):
    content = file.read_bytes()
    if how in ('missing', 'pipe'):
        file.unlink()
    if how == 'pipe':
        os.mkfifo(file)
    elif how != 'missing':
        spoilt = {'cut': content[: len(content) // 2], 'empty': b'', 'text': b'<html>'}
        file.write_bytes(spoilt[how])


class TestPictures:
    @pytest.mark.parametrize('workers', [0, 1])
    @pytest.mark.parametrize('how', ['cut', 'empty', 'text', 'missing', 'pipe'])
    def test_that_cannot_be_used_are_named(
        self, how, workers, make, tmp_path, monkeypatch
    ):
        dataset = Runner.build_dataloader(make().train_dataloader).dataset
        noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        cv2.imwrite(str(tmp_path / 'train/2.png'), noise)
        spoil(tmp_path / 'train/2.png', how)
        reason = {
            'cut': 'is cut short',
            'empty': 'is empty',
            'text': 'cannot be read',
            'missing': 'is missing',
            'pipe': 'is not a file',
        }
        message = rf'^the picture .*train/2\.png {reason[how]}'
        refuse_loading(copy.copy(dataset), message)
        monkeypatch.setattr(samples, 'SAMPLES', 0)
        check_loaded(dataset, True)
        loader = DataLoader(dataset, num_workers=workers, collate_fn=list)
        with pytest.raises(DataError, match=message) as caught:
            list(loader)
        assert '\n' not in str(caught.value)

    @pytest.mark.parametrize('suffix', ['.jpg', '.png'])
    def test_whole_ones_pass(self, suffix, tmp_path):
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        file = tmp_path / f'x{suffix}'
        cv2.imwrite(str(file), noise)
        assert cut_short(str(file)) is None
        file.write_bytes(file.read_bytes() + b'\0' * 999)  # as some cameras pad
        assert cut_short(str(file)) is None
        spoil(file, 'cut')
        assert cut_short(str(file))

    @pytest.mark.parametrize('stored_size', [False, True])
    def test_turned_by_exif(self, stored_size, make, tmp_path):
        lying = (HEIGHT, WIDTH) if not stored_size else (WIDTH, HEIGHT)
        sizes = dict(zip(('height', 'width'), lying, strict=True))
        cfg = make(change('images', 1, **sizes, file_name='2.jpg'), masks=False)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees
        stored = Image.fromarray(np.zeros((WIDTH, HEIGHT, 3), np.uint8))
        stored.save(tmp_path / 'train/2.jpg', exif=exif)
        dataset = Runner.build_dataloader(cfg.train_dataloader).dataset
        if stored_size:
            refuse_loading(dataset, r'2\.jpg has 40 x 60 pixels, .* say 60 x 40')
        else:
            check_loaded(dataset, True)
            assert dataset[1]['img'].shape[:2] == (HEIGHT, WIDTH)


class TestRemarks:
    def test_nothing_predicted(self, make, said):
        loader = Runner.build_dataloader(make().val_dataloader)
        runner = SimpleNamespace(val_dataloader=loader)
        own = DataHook()
        none = InstanceData(bboxes=torch.zeros(0, 4))
        for metrics, found in (({}, none), ({'x': 1}, InstanceData(bboxes=[1]))):
            own.before_val_epoch(runner)
            sample = SegDataSample(pred_instances=found)
            own.after_val_iter(runner, 0, None, [sample])
            own.after_val_epoch(runner, metrics)
            assert own.remarks == ([] if metrics else ['nothing was predicted'])
        assert said == ['nothing was predicted']

    def test_classes_without_an_object(self, make):
        cfg = make(edit_val=change('annotations', 1, iscrowd=1))
        loader = Runner.build_dataloader(cfg.val_dataloader)
        assert hook.count_objects(loader.dataset) == [2, 1]

    def test_classes_without_a_pixel(self, segmentation, said):
        dataset = segmentation([halves(0, 255)])
        runner = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=dataset))
        own = DataHook()
        own.before_test_epoch(runner)
        label = torch.from_numpy(halves(0, 255))[None]
        sample = SegDataSample(gt_sem_seg=PixelData(data=label))
        own.after_test_iter(runner, 0, None, [sample])
        own.after_test_epoch(runner, {'mIoU': 100.0})
        (remark,) = own.remarks
        assert 'no pixel of b' in remark and 'do not measure' in remark
        assert said == own.remarks
