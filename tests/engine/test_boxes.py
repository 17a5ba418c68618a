"""Poses of several people: the boxes they are in, of a caller, a file or a detector."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

from mmrecnext.engine import predictor as predictors
from mmrecnext.engine.boxes import DetectedBoxes, ListedBoxes
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.predictor import Predictor
from mmrecnext.errors import ConfigError, DataError, UserError
from tests.helpers import ROOT, TINY, run_main, tool

pytest.importorskip('mmpose')

CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')
SIZE = (96, 128)  # height and width
BOXES = [[8, 8, 60, 90], [50, 4, 120, 80], [-5, 30, 40, 99]]


def pose_config():
    cfg = load_config(str(ROOT / 'configs/pose/td-hm_recnext-m0_stick.py'))
    cfg.model.backbone.arch = TINY
    cfg.model.head.in_channels = sum(TINY['dims'])
    return cfg


def detector_config():
    cfg = load_config(str(ROOT / 'configs/mask_rcnn_recnext_m0_shapes.py'))
    cfg.model.backbone.arch = TINY
    cfg.model.neck.in_channels = [*TINY['dims']]
    cfg.model.test_cfg.rpn.max_per_img = 20
    cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=100)
    return cfg


@pytest.fixture(scope='module')
def picture(tmp_path_factory):
    file = tmp_path_factory.mktemp('pictures') / '000000000139.png'
    random = np.random.default_rng(0)
    cv2.imwrite(str(file), random.integers(0, 255, (*SIZE, 3), np.uint8))
    return file


@pytest.fixture(scope='module')
def predictor():
    torch.manual_seed(0)
    return Predictor(pose_config(), None, score_thr=-1.0)


@pytest.fixture(scope='module')
def detect(picture):
    """A detector of which about half of the stars count."""
    torch.manual_seed(0)
    detect = DetectedBoxes(detector_config(), None, 'star', 0.0)
    detect.detector.score_thr = float(detect(picture)[:, 4].mean())
    return detect


@pytest.mark.parametrize('boxes', [None, BOXES[:1], BOXES])
def test_poses_are_those_of_mmpose(boxes, predictor, picture, monkeypatch):
    from mmpose.apis import inference_topdown

    monkeypatch.setattr(predictors, 'MOST_BOXES', 2)
    predictor.model.cfg = pose_config()
    predictor.model.dataset_meta = predictor.meta
    expected = inference_topdown(
        predictor.model, str(picture), boxes and np.float32(boxes)
    )
    image, sample = predictor(picture, boxes)
    assert len(sample.pred_instances) == len(expected) == len(boxes or [0])
    poses = predictor.describe(sample)['poses']
    for pose, each in zip(poses, expected, strict=True):
        found = each.pred_instances
        assert pose['box'] == found.bboxes[0].tolist() and pose['score'] == 1
        joints = np.array([*pose['joints'].values()])
        assert joints[:, :2] == pytest.approx(found.keypoints[0], abs=0.01)
        assert joints[:, 2] == pytest.approx(found.keypoint_scores[0], abs=1e-4)
    assert (predictor.draw(image, sample) != image).any()


def test_no_box_is_no_pose(predictor, picture):
    image, sample = predictor(picture, [])
    assert predictor.describe(sample) == {'poses': []}
    grey = np.full_like(image, 128)  # which a shift by Matplotlib, if any, leaves
    assert (predictor.draw(grey, sample) == grey).all()


@pytest.mark.parametrize(
    ('boxes', 'told'),
    [
        ([[8, 8, 60]], 'rows of x1, y1, x2, y2 and maybe a score'),
        ([8, 8, 60, 90], 'rows of x1, y1, x2, y2'),
        ([[1, 2, 3, 4], [1, 2]], 'rows of x1, y1, x2, y2'),
        ([BOXES[0], [130, 8, 160, 90]], r'from \(130, 8\) to \(160, 90\) has nothing'),
        ([[60, 8, 60, 90]], 'nothing of the picture, which is 128 pixels wide and 96'),
        ([[8, 8, np.nan, 90]], 'nothing of the picture'),
    ],
)
def test_boxes_that_are_none_are_told(boxes, told, predictor, picture):
    with pytest.raises(ConfigError, match=f'{picture.name}: .*{told}'):
        predictor(picture, boxes)


def test_models_that_see_the_whole_picture_take_no_boxes(detect, picture, predictor):
    from mmpose.models import BottomupPoseEstimator

    told = 'for top-down pose estimators of MMPose; MaskRCNN sees the whole picture'
    with pytest.raises(ConfigError, match=told):
        detect.detector(picture, BOXES)
    with pytest.raises(ConfigError, match=told):
        Predictor(detector_config(), None, boxes_of=detect)
    bottom_up = BottomupPoseEstimator.__new__(BottomupPoseEstimator)
    assert not predictor.kind.takes_boxes(bottom_up)


def test_boxes_of_a_detector(detect, predictor, picture, monkeypatch):
    scopes = []
    step = detect.detector.model.test_step

    def test_step(data):
        scopes.append(DefaultScope.get_current_instance().scope_name)
        return step(data)

    monkeypatch.setattr(detect.detector.model, 'test_step', test_step)
    _, sample = detect.detector(picture)
    found = sample.pred_instances
    stars = found.labels == CLASSES.index('star')
    chosen = stars & (found.scores >= detect.detector.score_thr)
    assert 0 < chosen.sum() < stars.sum() < len(found)
    boxes = detect(picture)
    assert boxes[:, :4] == pytest.approx(found.bboxes[chosen].numpy())
    assert boxes[:, 4] == pytest.approx(found.scores[chosen].numpy())

    before = DefaultScope.get_current_instance()
    monkeypatch.setattr(predictor, 'boxes_of', detect)
    _, sample = predictor(picture)
    assert sample.pred_instances.bboxes == pytest.approx(boxes[:, :4])
    assert sample.pred_instances.bbox_scores == pytest.approx(boxes[:, 4])
    assert scopes == ['mmdet'] * 3
    assert DefaultScope.get_current_instance().scope_name == before.scope_name


def test_a_detector_detects_and_knows_the_class():
    with pytest.raises(ConfigError, match='knows no person, but circle, square'):
        DetectedBoxes(detector_config(), None)
    with pytest.raises(ConfigError, match='models of MMPose tell no upright boxes'):
        DetectedBoxes(pose_config(), None)


def listed(tmp_path, content, **options):
    file = tmp_path / 'boxes.json'
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return ListedBoxes(str(file), **options)


def detection(**fields):
    return dict(image_id=139, bbox=[8, 8, 20, 30], score=0.5, category_id=1) | fields


def annotations(names=('cat', 'person')):
    categories = [dict(id=i, name=name) for i, name in enumerate(names)]
    images = [
        dict(id=i, file_name=f'{kind}/139.png', height=96, width=128)
        for i, kind in enumerate(('train', 'val'))
    ]
    boxes = [(1, 1, 0), (0, 1, 0), (1, 1, 1), (1, 0, 0)]
    return dict(
        images=images,
        categories=categories,
        annotations=[
            dict(id=i + 1, image_id=image, category_id=category, iscrowd=crowd)
            | dict(bbox=[8, 8, 20 + i, 30], area=600)
            for i, (category, image, crowd) in enumerate(boxes)
        ],
    )


@pytest.mark.parametrize(
    ('content', 'options', 'expected'),
    [
        ([detection()], {}, [[8, 8, 28, 38, 0.5]]),
        ([detection(image_id='000139')], {}, []),
        ([detection(image_id='139')], {}, [[8, 8, 28, 38, 0.5]]),
        ([detection(file_name='139.png')], {}, [[8, 8, 28, 38, 0.5]]),
        ([detection(file_name='train/139.png')], {}, []),
        ([detection(), detection(score=0.2)], {}, [[8, 8, 28, 38, 0.5]]),
        ([detection(), detection(score=0.2)], dict(score_thr=0.6), []),
        ([detection(), detection(category_id=3)], {}, [[8, 8, 28, 38, 0.5]]),
        ([detection(category_id=3)], dict(name='3'), [[8, 8, 28, 38, 0.5]]),
        (annotations(), {}, [[8, 8, 28, 38, 1]]),
        (annotations(), dict(name='cat'), [[8, 8, 29, 38, 1]]),
        ([], {}, []),
    ],
)
def test_boxes_of_a_file(content, options, expected, tmp_path):
    assert listed(tmp_path, content, **options)('data/val/139.png').tolist() == expected


@pytest.mark.parametrize(
    ('content', 'name', 'told'),
    [
        ('[{"image_id"', 'person', 'is no whole JSON'),
        ('3', 'person', 'neither a list of detections'),
        (dict(poses=[]), 'person', 'not in the format of COCO'),
        ([3], 'person', r'the detection \[0\] has no fields'),
        (
            [detection(), detection(bbox=[8, 8, 0, 9])],
            'person',
            r'\[1\].*without a w',
        ),
        ([detection(bbox=[8, 8, 9])], 'person', 'four finite numbers'),
        ([detection(image_id=None)], 'person', 'neither an `image_id`'),
        ([detection(score='high')], 'person', 'a `score` that is no number'),
        ([detection(category_id=None)], 'person', 'a `category_id` that is no number'),
        ([detection(category_id=7)], 'person', 'no box of category 1, but of 7'),
        ([detection()], 'dog', 'dog is no number for --box-class'),
        (annotations(('cat', 'dog')), 'person', 'no category person, but cat, dog'),
    ],
)
def test_files_of_other_forms_are_told(content, name, told, tmp_path):
    with pytest.raises(DataError, match=rf'boxes\.json.*{told}'):
        listed(tmp_path, content, name=name)


def test_all_in_one_command(detect, predictor, picture, tmp_path, monkeypatch, capsys):
    infer = tool('infer')
    for name, cfg, model in (
        ('pose', pose_config(), predictor.model),
        ('detector', detector_config(), detect.detector.model),
    ):
        cfg.dump(tmp_path / f'{name}.py')
        torch.save(model.state_dict(), tmp_path / f'{name}.pth')
    grey = tmp_path / 'grey.png'
    cv2.imwrite(str(grey), np.full((*SIZE, 3), 90, np.uint8))
    (tmp_path / 'clip.mp4').touch()
    boxes = tmp_path / 'boxes.json'
    boxes.write_text(json.dumps([detection()]))
    out = tmp_path / 'out'
    pose = [tmp_path / 'pose.py', tmp_path / 'pose.pth']
    found = [tmp_path / 'detector.py', tmp_path / 'detector.pth']

    def run(*args):
        run_main(infer, monkeypatch, *pose, *args, '--device', 'cpu', '--out-dir', out)
        predictions = json.loads((out / 'predictions.json').read_text())
        return [
            [[*pose['box'], pose['score']] for pose in each['poses']]
            for each in predictions
        ]

    options = ['--box-class', 'star', '--box-thr', detect.detector.score_thr]
    (poses,) = run(picture, '--detector', *found, *options)
    assert np.array(poses) == pytest.approx(detect(picture), abs=0.01)
    assert run(picture, grey, '--boxes', boxes) == [[[8, 8, 28, 38, 0.5]], []]
    assert f'no pose in 1 images: {grey}' in capsys.readouterr().out
    for args, told in (
        ([grey, '--boxes', boxes], f'has boxes of 139, but none of {grey}'),
        ([tmp_path / 'clip.mp4', '--boxes', boxes], 'name a --detector for videos'),
        ([picture, '--detector', *pose], 'MMPose tell no upright boxes'),
    ):
        with pytest.raises(UserError, match=told):
            run(*args)
    with pytest.raises(SystemExit):
        run(picture, '--box-thr', '0.5')
    assert '--box-class and --box-thr choose' in capsys.readouterr().err
