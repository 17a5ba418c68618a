"""The stick figures: poses, what hides what, annotations, determinism and refusals."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from tests.helpers import tool

figures = tool('make_stick_figures_data')
Settings = figures.Settings
SMALL = Settings(train=3, val=2, size=(60, 80))


def files(root):
    """Contents of all files by their relative names."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob('*')
        if path.is_file()
    }


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Folder, and COCO index of its training pictures."""
    root = tmp_path_factory.mktemp('figures') / 'data'
    settings = Settings(train=12, val=2, figures=(1, 3), sides=(35, 80))
    assert figures.make_stick_figures(root, settings)
    return root, COCO(root / 'annotations/person_keypoints_train2017.json')


def joints_of(annotation):
    return np.array(annotation['keypoints']).reshape(17, 3)


# --- What is written


def test_layout_and_names_are_those_of_coco(data):
    root, coco = data
    expected = {
        f'annotations/person_keypoints_{split}2017.json' for split in figures.SPLITS
    }
    for split, count in (('train', 12), ('val', 2)):
        expected |= {f'{split}2017/{k:012}.jpg' for k in range(1, count + 1)}
    assert set(files(root)) == expected
    (person,) = coco.loadCats(coco.getCatIds())
    assert person['name'] == 'person'
    assert person['keypoints'] == [
        *('nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear'),
        *('left_shoulder', 'right_shoulder', 'left_elbow', 'right_elbow'),
        *('left_wrist', 'right_wrist', 'left_hip', 'right_hip'),
        *('left_knee', 'right_knee', 'left_ankle', 'right_ankle'),
    ]
    assert len(person['skeleton']) == 19
    assert {joint for bone in person['skeleton'] for joint in bone} == {*range(1, 18)}


def test_joints_agree_with_picture_box_and_mask(data):
    root, coco = data
    hidden = 0
    for image in coco.dataset['images']:
        picture = cv2.imread(str(root / 'train2017' / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3)
        for annotation in coco.imgToAnns[image['id']]:
            joints = joints_of(annotation)
            mask = mask_utils.decode(annotation['segmentation']).astype(bool)
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation['bbox']
            assert [x, x + width - 1] == [columns.min(), columns.max()]
            assert [y, y + height - 1] == [rows.min(), rows.max()]
            assert annotation['area'] == mask.sum()
            assert annotation['num_keypoints'] == np.sum(joints[:, 2] > 0)
            assert not joints[joints[:, 2] == 0].any()

            size = np.array([image['width'], image['height']])
            named = joints[joints[:, 2] > 0]
            assert (named[:, :2] >= 0).all() and (named[:, :2] <= size - 1).all()
            seen = joints[joints[:, 2] == 2]
            assert len(seen) >= figures.MIN_SEEN
            near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3)))
            x, y = seen[:, :2].round().astype(int).T
            assert near[y, x].all()
            hidden += np.sum(joints[:, 2] == 1)
    assert hidden > 10


def test_one_owner_per_pixel(data):
    _, coco = data
    for image_id in coco.imgs:
        masks = [coco.annToMask(a).astype(int) for a in coco.imgToAnns[image_id]]
        assert 1 <= len(masks) <= 3
        assert sum(masks).max() == 1


def test_poses_turn_bend_and_show_their_backs():
    rng = np.random.default_rng(0)
    poses = [figures.random_pose(rng) for _ in range(200)]
    names = [f'{side}_{part}' for side in figures.SIDES for part in ('wrist', 'ankle')]
    for name in names:
        reach = np.array([pose[name] for pose in poses])
        assert (np.ptp(reach, axis=0) > 0.3).all(), name
    # Left and right are its own: those of the viewer where it shows its back.
    backs = [pose['left_shoulder'][0] < pose['right_shoulder'][0] for pose in poses]
    faces = [pose['nose'][2] > pose['head'][2] for pose in poses]
    assert 0.1 < np.mean(backs) < 0.3
    assert np.mean(np.not_equal(backs, faces)) > 0.95  # but where the head looks aside
    for pose in poses:
        for bone, length in (('shoulder', 'elbow'), 0.16), (('hip', 'knee'), 0.23):
            for side in figures.SIDES:
                first, last = (pose[f'{side}_{part}'] for part in bone)
                assert np.linalg.norm(first - last) == pytest.approx(length)


def parts_at(joints):
    """A part at each joint, so that all are seen, and the joints."""
    parts = [
        figures.Part(place[None], 1.5, (0, 0, 255), (name,))
        for place, name in zip(joints, figures.JOINTS, strict=True)
    ]
    return parts, joints


def test_what_is_in_front_hides():
    line = np.stack([np.full(17, 20.0), np.linspace(4, 76, 17)], axis=1)
    scene = figures.Scene((40, 80))
    assert scene.add(*parts_at(line))
    assert scene.visibility(0).tolist() == [2] * 17

    def square(x, y, width, height):
        corners = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
        return [figures.Part(np.array(corners, float), 0, (0, 0, 0))]

    before = scene.owner.copy()
    assert not scene.add(square(0, 0, 40, 60))  # hides ten or more
    np.testing.assert_array_equal(scene.owner, before)
    assert scene.visibility(0).tolist() == [2] * 17
    assert scene.add(square(0, 0, 40, 10))
    assert scene.visibility(0).tolist() == [1] * 2 + [2] * 15
    assert not scene.add(*parts_at(line))  # it would hide all of the first
    assert scene.visibility(0).tolist() == [1] * 2 + [2] * 15
    (annotation,) = scene.annotations()
    assert joints_of(annotation)[:, 2].tolist() == [1] * 2 + [2] * 15
    np.testing.assert_allclose(joints_of(annotation)[:, :2], line)


def test_a_joint_outside_is_unknown():
    line = np.stack([np.full(17, 20.0), np.linspace(-20, 76, 17)], axis=1)
    scene = figures.Scene((40, 80))
    assert scene.add(*parts_at(line))
    expected = np.where(line[:, 1] >= 0, 2, 0)
    assert scene.visibility(0).tolist() == expected.tolist()
    (annotation,) = scene.annotations()
    assert annotation['num_keypoints'] == np.sum(expected == 2)


def test_picture_shows_the_parts_where_the_joints_are(monkeypatch):
    place = np.array([[20.0, 30.0]])

    def figure(rng, settings):
        return parts_at(np.repeat(place, 17, axis=0))

    monkeypatch.setattr(figures, 'random_figure', figure)
    monkeypatch.setattr(figures, 'MIN_SEEN', 1)
    monkeypatch.setattr(figures, 'RIM', 0)
    afar = figures.Part(np.array([[-99.0, -99.0]]), 1, (0, 0, 0))
    monkeypatch.setattr(figures, 'random_object', lambda *args: afar)
    settings = Settings(size=(40, 60))
    picture, _ = figures.draw_picture(np.random.default_rng(0), settings, 1)
    picture = picture.astype(int)
    red = picture[..., 2] - picture[..., :2].max(axis=2)
    rows, columns = np.nonzero(red > 150)
    np.testing.assert_allclose([columns.mean(), rows.mean()], place[0], atol=0.1)
    assert 5 <= len(rows) <= 9  # a disc of radius 1.5


# --- Determinism, and an existing folder


def test_same_settings_same_bytes_and_others_differ(tmp_path):
    for name, settings in dict(a=SMALL, b=SMALL, c=replace(SMALL, seed=1)).items():
        figures.make_stick_figures(tmp_path / name, settings)
    a, b, c = (files(tmp_path / name) for name in 'abc')
    assert a == b
    pictures = [x for found in (a, c) for name, x in found.items() if 'jpg' in name]
    assert len(set(pictures)) == len(pictures) == 10


def test_picture_does_not_depend_on_how_many_are_asked_for(tmp_path):
    figures.make_stick_figures(tmp_path / 'few', SMALL)
    figures.make_stick_figures(tmp_path / 'many', replace(SMALL, train=5, val=3))
    few, many = files(tmp_path / 'few'), files(tmp_path / 'many')
    assert all(many[name] == few[name] for name in few if 'jpg' in name)


def test_second_run_does_nothing_and_other_settings_replace(tmp_path, capsys):
    argv = [str(tmp_path / 'data'), '--train=2', '--val=1', '--size=60x80']
    figures.main(argv)
    assert 'train: 2 pictures, 2 figures; val: 1 pictures' in capsys.readouterr().out
    before = files(tmp_path)
    figures.main(argv)
    assert 'up to date' in capsys.readouterr().out
    assert files(tmp_path) == before
    (tmp_path / 'data/val2017/000000000001.jpg').unlink()
    figures.main(argv)
    assert files(tmp_path) == before
    figures.main([*argv, '--seed=1'])
    assert files(tmp_path).keys() == before.keys()
    assert files(tmp_path) != before


def test_files_of_other_origin_are_kept(tmp_path, capsys):
    file = tmp_path / 'data/annotations/person_keypoints_val2017.json'
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(dict(info=dict(description='COCO 2017 Dataset'))))
    with pytest.raises(SystemExit):
        figures.main([str(tmp_path / 'data')])
    assert 'person_keypoints_val2017.json' in capsys.readouterr().err
    assert [*files(tmp_path)] == [file.relative_to(tmp_path).as_posix()]


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        ('--size 31', 'width of a picture must be 32 to 1024, not 31'),
        ('--size 64x', "'64x' is not like 256 or 192x256"),
        ('--train 0', 'training pictures must be at least 1, not 0'),
        ('--val 0', 'validation pictures must be at least 1, not 0'),
        ('--figures 2-1', 'least figures in a picture must be 1 to 1, not 2'),
        ('--figures 9', 'most figures in a picture must be 1 to 8, not 9'),
        ('--sides 9-50', 'smallest figure in percent must be 10 to 50, not 9'),
        ('--sides 50-101', 'largest figure in percent must be 10 to 100, not 101'),
        ('--seed -1', 'seed must be at least 0, not -1'),
    ],
)
def test_impossible_arguments_are_refused(tmp_path, capsys, argv, message):
    with pytest.raises(SystemExit) as exit_info:
        figures.main([str(tmp_path / 'data'), *argv.split()])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'data').exists()
