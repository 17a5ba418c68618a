"""The shapes data set: files, annotations, determinism and refusals."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from mmrecnext.engine.data.annotations import mask_faults

SCRIPT = Path(__file__).parents[2] / 'tools' / 'make_shapes_data.py'
COCO_LIKE_NAMES = tuple(f'thing {k}' for k in range(80))


def load_script():
    spec = importlib.util.spec_from_file_location('make_shapes_data', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


shapes = load_script()
Settings = shapes.Settings
SMALL = Settings(train=3, val=2, size=(48, 40), objects=(1, 3))


def files(root):
    """Contents of all files by their relative names, links not followed."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob('*')
        if path.is_file()
    }


def visible(scene, k):
    return scene.owner == k


def check_masks(labels, scene, annotations):
    """A label map, a scene and masks agree to the pixel."""
    np.testing.assert_array_equal(labels, scene.labels())
    drawn = np.ones_like(labels)
    assert len(annotations) == len(scene.objects) == scene.owner.max()
    for k, annotation in enumerate(annotations, start=1):
        mask = mask_utils.decode(annotation['segmentation']).astype(bool)
        np.testing.assert_array_equal(mask, visible(scene, k))
        drawn[mask] = 1 + annotation['category_id']
    np.testing.assert_array_equal(labels, drawn)


STRIP = np.array([[9, 16], [16, 9], [19, 9], [9, 19]])  # across a corner


def box(x, y, width, height):
    return np.array(
        [[x, y], [x + width, y], [x + width, y + height], [x, y + height]], float
    )


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes') / 'data'
    settings = Settings(train=40, val=10)
    assert shapes.make_shapes(root, settings)
    return root, settings


@pytest.fixture(params=['train', 'val'])
def split(request, data):
    """Folder, name, settings and COCO index of a split."""
    root, settings = data
    coco = COCO(root / f'annotations/instances_{request.param}2017.json')
    return root, request.param, settings, coco


# --- What is written


def test_layout_is_that_of_coco_and_ade20k(data):
    root, _ = data
    expected = {f'annotations/instances_{split}2017.json' for split in ('train', 'val')}
    for coco, ade, count in (('train', 'training', 40), ('val', 'validation', 10)):
        for k in range(1, count + 1):
            expected.add(f'{coco}2017/{k:012}.jpg')
            expected.add(f'annotations/{ade}/{k:012}.png')
        link = root / 'images' / ade
        assert link.readlink() == Path('..') / f'{coco}2017'
        assert len(list(link.glob('*.jpg'))) == count
    assert set(files(root)) == expected


def test_coco_file_is_valid(split):
    _, name, settings, coco = split
    data = coco.dataset
    assert len(data['images']) == getattr(settings, name)
    for kind in ('images', 'annotations', 'categories'):
        ids = [item['id'] for item in data[kind]]
        assert ids == list(range(1, len(ids) + 1))
    assert tuple(c['name'] for c in data['categories']) == settings.names
    assert {a['image_id'] for a in data['annotations']} == set(coco.imgs)
    assert {a['category_id'] for a in data['annotations']} == set(coco.cats)
    assert {a['iscrowd'] for a in data['annotations']} == {0}
    assert data['info']['description'] == shapes.DESCRIPTION


def test_pictures_are_colour_jpegs_of_the_stated_size(split):
    root, name, _, coco = split
    for image in coco.dataset['images']:
        picture = cv2.imread(
            str(root / f'{name}2017' / image['file_name']), cv2.IMREAD_UNCHANGED
        )
        assert picture.shape == (image['height'], image['width'], 3)
        assert picture.std() > 3


def test_box_and_area_are_those_of_the_masks(split):
    *_, coco = split
    for annotation in coco.dataset['annotations']:
        mask = coco.annToMask(annotation)
        assert mask.shape == (160, 160)
        rows, columns = np.nonzero(mask)
        x, y, width, height = annotation['bbox']
        assert [x, x + width - 1] == [columns.min(), columns.max()]
        assert [y, y + height - 1] == [rows.min(), rows.max()]
        assert annotation['area'] == mask.sum() > 0


def test_masks_are_compressed_text_that_mmdetection_reads(split):
    *_, coco = split
    for annotation in coco.dataset['annotations']:
        image = coco.imgs[annotation['image_id']]
        assert isinstance(annotation['segmentation']['counts'], str)
        assert mask_faults(annotation['segmentation'], image) == (None, None)


def test_label_maps_are_the_masks(split):
    root, name, settings, coco = split
    folder = {'train': 'training', 'val': 'validation'}[name]
    for image_id, _, scene in shapes.draw_split(settings, name):
        path = root / 'annotations' / folder / f'{image_id:012}.png'
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert labels.dtype == np.uint8
        check_masks(labels, scene, coco.imgToAnns[image_id])


def test_label_is_one_more_than_the_category():
    for _, _, scene in shapes.draw_split(Settings(train=5), 'train'):
        categories = [0, *(placed.category_id for placed in scene.objects)]
        expected = 1 + np.array(categories)[scene.owner]
        np.testing.assert_array_equal(scene.labels(), expected)


def test_small_large_hidden_and_cropped_objects_are_frequent():
    sides, hidden, cropped = [], [], []
    for *_, scene in shapes.draw_split(Settings(train=60), 'train'):
        for k, annotation in enumerate(scene.annotations(), start=1):
            x, y, width, height = annotation['bbox']
            at_border = min(x, y) == 0 or max(x + width, y + height) == 160
            shown = visible(scene, k).sum() / scene.objects[k - 1].area
            assert shown >= 0.5
            cropped.append(at_border)
            hidden.append(shown < 0.95 and not at_border)
            sides.append(max(width, height) / 160)
    assert np.mean(np.array(sides) < 0.25) > 0.25
    assert np.mean(np.array(sides) > 0.4) > 0.15
    assert np.mean(hidden) > 0.1
    assert 0.05 < np.mean(cropped) < 0.4


# --- Scene


def test_object_on_top_hides_the_one_below():
    scene = shapes.Scene((40, 40))
    assert scene.add(1, box(10, 10, 20, 20)) is not None
    assert scene.add(2, box(20, 5, 20, 20)) is not None
    labels = scene.labels()
    assert labels[15, 15] == 2
    assert labels[15, 25] == 3
    assert labels[28, 25] == 2
    assert labels[2, 2] == 1
    assert (labels == 2).sum() == 20 * 20 - 10 * 15
    assert (labels == 3).sum() == 20 * 20


@pytest.mark.parametrize(
    'outline',
    [
        pytest.param(box(10, 10, 20, 12), id='hides more than half of another'),
        pytest.param(STRIP, id='cuts a crumb off another'),
        pytest.param(box(-12, 0, 20, 8), id='is more than half outside'),
    ],
)
def test_object_without_room_changes_nothing(outline):
    scene = shapes.Scene((40, 40))
    assert scene.add(1, box(10, 10, 20, 20)) is not None
    before = scene.owner.copy()
    assert scene.add(2, outline) is None
    np.testing.assert_array_equal(scene.owner, before)
    assert len(scene.objects) == 1


def test_object_may_have_two_parts_and_a_hole():
    scene = shapes.Scene((40, 40))
    for k, outline in enumerate(
        [box(4, 10, 32, 20), box(16, 4, 8, 32), box(6, 14, 8, 8)], start=1
    ):
        assert scene.add(k, outline) is not None
    below, above, small = scene.annotations()
    expected = np.zeros((40, 40), bool)
    expected[10:30, 4:36] = True
    expected[:, 16:24] = expected[14:22, 6:14] = False
    mask = mask_utils.decode(below['segmentation'])
    np.testing.assert_array_equal(mask, expected)
    assert below['bbox'] == [4, 10, 32, 20]
    assert above['bbox'] == [16, 4, 8, 32]
    assert small['area'] == 64


def test_picture_shows_the_object_where_its_mask_is():
    def draw(category_ids):
        rng = np.random.default_rng(3)
        picture, scene, left_out = shapes.draw_picture(rng, Settings(), category_ids)
        assert not left_out
        return picture.astype(float), scene

    empty, _ = draw([])
    for category_id in range(1, 6):
        picture, scene = draw([category_id])
        change = np.abs(picture - empty).max(axis=2)
        mask = scene.labels() == 1 + category_id
        assert np.mean(change[mask] > 30) > 0.95
        near = cv2.dilate(mask.astype(np.uint8), np.ones((61, 61))).astype(bool)
        assert change[~near].max() < 35  # grain


def test_crowd_is_left_out_rather_than_piled_up():
    _, _, scene = next(
        shapes.draw_split(Settings(size=(64, 64), objects=(100, 100)), 'train')
    )
    assert 5 < len(scene.objects) < 100
    assert all(
        visible(scene, k).sum() >= 0.5 * placed.area
        for k, placed in enumerate(scene.objects, start=1)
    )


def test_class_left_out_comes_first_in_the_next_picture():
    settings = Settings(
        train=3, size=(64, 64), objects=(80, 80), names=shapes.class_names(80)
    )
    seen = set()
    for *_, scene in shapes.draw_split(settings, 'train'):
        assert len(scene.objects) < 60
        seen |= {placed.category_id for placed in scene.objects}
    assert seen == set(range(1, 81))


def test_shapes_have_the_same_size_and_differ():
    masks = []
    for outline in shapes.SHAPES.values():
        np.testing.assert_allclose(
            outline.min(axis=0) + outline.max(axis=0), 0, atol=1e-9
        )
        assert np.ptp(outline, axis=0).max() == pytest.approx(1)
        size = np.array([100, 100])
        outline = (outline + 0.5) * size
        masks.append(shapes._coverage(outline, size) > 0.5)
        area = cv2.contourArea(outline.astype(np.float32))
        assert masks[-1].sum() == pytest.approx(area, rel=0.03)
    for k, first in enumerate(masks):
        for second in masks[:k]:
            assert (first & second).sum() / (first | second).sum() < 0.8


# --- Sizes, counts and classes


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (47, 33), (640, 480), (1040, 40)])
def test_any_size(tmp_path, size):
    width, height = size
    settings = Settings(train=4, val=1, size=size, objects=(3, 6))
    shapes.make_shapes(tmp_path / 'data', settings)
    coco = COCO(tmp_path / 'data/annotations/instances_train2017.json')
    assert len(coco.anns) >= 8
    for image_id, _, scene in shapes.draw_split(settings, 'train'):
        image = coco.imgs[image_id]
        assert (image['width'], image['height']) == size
        picture = cv2.imread(str(tmp_path / 'data/train2017' / image['file_name']))
        assert picture.shape == (height, width, 3)
        path = tmp_path / f'data/annotations/training/{image_id:012}.png'
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        check_masks(labels, scene, coco.imgToAnns[image_id])
        for annotation in coco.imgToAnns[image_id]:
            x, y, w, h = annotation['bbox']
            assert 0 <= x < x + w <= width
            assert 0 <= y < y + h <= height


@pytest.mark.parametrize('count', [1, 5, 8, 9, 80, 149, 253])
def test_each_class_occurs_in_each_split(count):
    settings = Settings(
        train=-(-count // 3),
        val=-(-count // 3),
        size=(64, 64),
        objects=(4, 5),
        names=shapes.class_names(count),
    )
    assert len(set(settings.names)) == count
    for split in ('train', 'val'):
        seen = set()
        for _, _, scene in shapes.draw_split(settings, split):
            seen |= {placed.category_id for placed in scene.objects}
            assert scene.labels().max() <= 254
        assert seen == set(range(1, count + 1))


def test_few_classes_differ_in_shape_many_in_colour_too():
    assert shapes.class_names(3) == ('circle', 'square', 'triangle')
    assert shapes.class_names(8) == tuple(shapes.SHAPES)
    assert shapes.class_names(9)[7:] == ('red arrow', 'blue circle')
    assert all(shapes._appearance(k, 8)[1] is None for k in range(1, 9))
    looks = [shapes._appearance(k, 253) for k in range(1, 254)]
    assert len({(id(shape), colour) for shape, colour in looks}) == 253


def test_class_names_are_written_and_do_not_change_the_pictures(tmp_path):
    for name, names in (('a', COCO_LIKE_NAMES), ('b', shapes.class_names(80))):
        settings = replace(SMALL, train=8, names=names)
        shapes.make_shapes(tmp_path / name, settings)
    coco = COCO(tmp_path / 'a/annotations/instances_val2017.json')
    names = tuple(coco.cats[k]['name'] for k in range(1, 81))
    assert names == COCO_LIKE_NAMES
    a, b = files(tmp_path / 'a'), files(tmp_path / 'b')
    assert {name for name in a if a[name] != b[name]} == {
        'annotations/instances_train2017.json',
        'annotations/instances_val2017.json',
    }


def test_picture_may_be_empty():
    counts = [
        len(scene.objects)
        for *_, scene in shapes.draw_split(
            replace(SMALL, train=20, objects=(0, 1)), 'train'
        )
    ]
    assert set(counts) == {0, 1}


# --- Determinism


def test_same_settings_same_bytes(tmp_path):
    for name in ('a', 'b'):
        shapes.make_shapes(tmp_path / name, SMALL)
    assert files(tmp_path / 'a') == files(tmp_path / 'b')


def test_seeds_splits_and_pictures_differ(tmp_path):
    shapes.make_shapes(tmp_path / 'a', SMALL)
    shapes.make_shapes(tmp_path / 'b', replace(SMALL, seed=1))
    pictures = [
        content
        for root in ('a', 'b')
        for name, content in files(tmp_path / root).items()
        if name.endswith('.jpg')
    ]
    assert len(set(pictures)) == len(pictures) == 10


def test_picture_does_not_depend_on_how_many_are_asked_for(tmp_path):
    shapes.make_shapes(tmp_path / 'few', SMALL)
    shapes.make_shapes(tmp_path / 'many', replace(SMALL, train=9, val=5))
    few, many = files(tmp_path / 'few'), files(tmp_path / 'many')
    for name, content in few.items():
        if not name.endswith('.json'):
            assert many[name] == content


# --- An existing folder


def test_second_run_does_nothing(tmp_path, capsys):
    argv = [str(tmp_path / 'data'), '--train=3', '--val=1', '--size=32']
    shapes.main(argv)
    assert 'written' in capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    shapes.main(argv)
    assert 'up to date' in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}


@pytest.mark.parametrize(
    'change',
    [
        {'train': 2},
        {'val': 3},
        {'size': (40, 48)},
        {'objects': (1, 2)},
        {'sides': (20, 40)},
        {'names': tuple('abcde')},
        {'seed': 7},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_replace_the_folder(tmp_path, change):
    other = replace(SMALL, **change)
    assert shapes.make_shapes(tmp_path / 'data', SMALL)
    assert shapes.make_shapes(tmp_path / 'data', other)
    assert not shapes.make_shapes(tmp_path / 'data', other)
    shapes.make_shapes(tmp_path / 'fresh', other)
    assert files(tmp_path / 'data') == files(tmp_path / 'fresh')
    assert {path.name for path in tmp_path.iterdir()} == {'data', 'fresh'}


def test_missing_file_is_made_again(tmp_path):
    root = tmp_path / 'data'
    shapes.make_shapes(root, SMALL)
    complete = files(root)
    (root / 'annotations/training/000000000002.png').unlink()
    assert shapes.make_shapes(root, SMALL)
    assert files(root) == complete


def test_empty_folder_and_link_to_a_folder_are_filled(tmp_path):
    (tmp_path / 'real').mkdir()
    (tmp_path / 'link').symlink_to('real')
    assert shapes.make_shapes(tmp_path / 'link', SMALL)
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'real/train2017/000000000001.jpg').is_file()


@pytest.mark.parametrize('name', ['notes.txt', 'annotations/instances_val2017.json'])
def test_folder_of_other_origin_is_refused_and_kept(tmp_path, name):
    path = tmp_path / 'data' / name
    path.parent.mkdir(parents=True)
    path.write_text('{"info": {"description": "COCO 2017 Dataset"}}')
    with pytest.raises(FileExistsError, match=name):
        shapes.make_shapes(tmp_path / 'data', SMALL)
    assert list(files(tmp_path)) == [f'data/{name}']


def test_file_added_to_the_folder_is_not_lost(tmp_path):
    shapes.make_shapes(tmp_path / 'data', SMALL)
    (tmp_path / 'data/train2017/mine.jpg').write_text('mine')
    before = files(tmp_path)
    assert not shapes.make_shapes(tmp_path / 'data', SMALL)
    with pytest.raises(FileExistsError, match=r'mine\.jpg'):
        shapes.make_shapes(tmp_path / 'data', replace(SMALL, seed=1))
    assert files(tmp_path) == before


@pytest.mark.parametrize('exists', [False, True])
def test_interrupted_run_leaves_no_trace(tmp_path, monkeypatch, exists):
    if exists:
        shapes.make_shapes(tmp_path / 'data', SMALL)
    before = files(tmp_path)
    write, written = shapes.write_picture, []

    def interrupt(path, *args):
        write(path, *args)
        written.append(path)
        if len(written) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(shapes, 'write_picture', interrupt)
    with pytest.raises(KeyboardInterrupt):
        shapes.make_shapes(tmp_path / 'data', replace(SMALL, seed=1))
    assert files(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ['data'] * exists


def test_pictures_are_copied_where_links_are_impossible(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError('no links here')

    monkeypatch.setattr(Path, 'symlink_to', refuse)
    root = tmp_path / 'data'
    shapes.make_shapes(root, SMALL)
    contents = files(root)
    for k in range(1, 4):
        picture = contents[f'train2017/{k:012}.jpg']
        assert contents[f'images/training/{k:012}.jpg'] == picture
    assert not shapes.make_shapes(root, SMALL)
    assert shapes.make_shapes(root, replace(SMALL, seed=1))


# --- Command line


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        ('--size 31', 'width of a picture must be 32 to 4096, not 31'),
        ('--size 64x4097', 'height of a picture must be 32 to 4096, not 4097'),
        ('--size 64x', "'64x' is not like 160 or 192x128"),
        ('--size 64x64x3', 'is not like 160 or 192x128'),
        ('--size big', 'is not like 160 or 192x128'),
        ('--train 0', 'training pictures must be at least 1, not 0'),
        ('--train -3', 'training pictures must be at least 1, not -3'),
        ('--val 0', 'validation pictures must be at least 1, not 0'),
        ('--val two', "invalid int value: 'two'"),
        ('--objects 5-1', 'least objects in a picture must be 0 to 1, not 5'),
        ('--objects 0', 'most objects in a picture must be 1 to 100, not 0'),
        ('--objects 1-101', 'most objects in a picture must be 1 to 100, not 101'),
        ('--sides 4-50', 'smallest object in percent must be 5 to 50, not 4'),
        ('--sides 20-91', 'largest object in percent must be 5 to 90, not 91'),
        ('--sides 50-20', 'smallest object in percent must be 5 to 20, not 50'),
        ('--objects 1-', "'1-' is not like 3 or 1-5"),
        ('--classes 0', 'number of classes must be 1 to 253, not 0'),
        ('--classes 254', 'number of classes must be 1 to 253, not 254'),
        ('--class-names cat dog cat', "class names must differ, but ['cat'] occur"),
        ('--class-names', 'expected at least one argument'),
        ('--classes 2 --class-names a b', 'not allowed with argument'),
        ('--seed -1', 'seed must be at least 0, not -1'),
        ('--sizes 64', 'unrecognized arguments'),
    ],
)
def test_impossible_arguments_are_refused(tmp_path, capsys, argv, message):
    out = tmp_path / 'data'
    with pytest.raises(SystemExit) as exit_info:
        shapes.main([str(out), *argv.split()])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_empty_names_and_too_many_are_refused():
    with pytest.raises(ValueError, match='must not be empty'):
        Settings(names=('cat', ' '))
    with pytest.raises(ValueError, match='1 to 253, not 254'):
        Settings(names=tuple(f'n{k}' for k in range(254)))
    with pytest.raises(ValueError, match='1 to 253, not 0'):
        Settings(names=())


@pytest.mark.parametrize('out', ['file', 'file/below', 'full'])
def test_unusable_folder_is_refused(tmp_path, capsys, out):
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/file').write_text('mine')
    before = files(tmp_path)
    with pytest.raises(SystemExit) as exit_info:
        shapes.main([str(tmp_path / out)])
    assert exit_info.value.code == 2
    assert 'file' in capsys.readouterr().err
    assert files(tmp_path) == before


def test_command_line_sets_everything(tmp_path):
    out = tmp_path / 'new' / 'data'
    options = '--train 4 --val 2 --size 64x48 --objects 2-3 --sides 20-40 --seed 9'
    options += ' --class-names a b'
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(out), *options.split()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    assert 'train: 4 pictures' in done.stdout
    assert 'val: 2 pictures' in done.stdout
    info = json.loads((out / 'annotations/instances_val2017.json').read_text())['info']
    assert info['settings'] == {
        'train': 4,
        'val': 2,
        'size': [64, 48],
        'objects': [2, 3],
        'sides': [20, 40],
        'names': ['a', 'b'],
        'seed': 9,
    }


def test_help_shows_the_defaults(capsys):
    with pytest.raises(SystemExit) as exit_info:
        shapes.main(['--help'])
    assert exit_info.value.code == 0
    text = ' '.join(capsys.readouterr().out.split())
    for default in ('200', '40', '160x160', '1-5', '14-50', '5', '0'):
        assert f'(default: {default})' in text
