import copy
import json
import math
import os
import pickle
import re
import shutil
import signal
import sys

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.hooks import Hook

from mmrecnext.cli import run
from mmrecnext.engine.outputs import (
    check_out,
    drop_idle_metrics,
    output_names,
    read_picture,
    save_coco_json,
)
from mmrecnext.engine.unlabelled import (
    leave_out_annotations,
    missing_annotations,
    without_annotations,
)
from mmrecnext.errors import ConfigError
from mmrecnext.report.records import Evaluation
from tests.docs.sandbox import save_random_weights
from tests.helpers import ROOT, check, run_tool, tool

pytestmark = pytest.mark.slow

DET = ROOT / 'configs/mask_rcnn_recnext_m0_shapes.py'
SEG = ROOT / 'configs/sem_fpn_recnext_m0_shapes.py'


def untrained(config, folder):
    file = folder / 'untrained.pth'
    save_random_weights(config, file)
    return file


@pytest.mark.parametrize(
    ('paths', 'names'),
    [
        (['x/1.jpg', 'x/2.jpg'], ['1', '2']),
        (['x/a/1.jpg', 'x/b/1.jpg'], ['a/1', 'b/1']),
        (['x/1.jpg', 'x/deep/1.jpg'], ['1', 'deep/1']),
        (['x/1.jpg', 'x/1.png'], ['1.jpg', '1.png']),
        (['x/v1.2.jpg', 'x/v1.3.jpg'], ['v1.2', 'v1.3']),
    ],
)
def test_pictures_of_one_name_have_files_of_their_own(paths, names):
    assert [str(name) for name in output_names(paths).values()] == names


def test_pictures_are_read_for_people_to_look_at(tmp_path):
    deep = np.full((4, 6), 0x800, np.uint16)  # of 12 bits, as cameras give
    deep[0] = 0xFFF
    cv2.imwrite(str(tmp_path / 'deep.png'), deep)
    picture = read_picture(str(tmp_path / 'deep.png'), (4, 6))
    assert picture.shape == (4, 6, 3)
    assert (picture[0] == 255).all() and (picture[1:] == 127).all()


@pytest.fixture(scope='module')
def segmented(shapes, tmp_path_factory):
    root = tmp_path_factory.mktemp('unlabelled')
    pictures = sorted((shapes / 'images/validation').glob('*.jpg'))
    for folder, picture in zip('ab', pictures, strict=True):
        place = root / 'data/images/validation' / folder
        place.mkdir(parents=True)
        shutil.copy(picture, place / '1.jpg')
    options = ['--data-root', root / 'data', '--out', root / 'maps', '--tta']
    options += ['--show-dir', root / 'shown', '--work-dir', root / 'work']
    checkpoint = untrained(SEG, root)
    return root, check(run_tool('tools/test.py', SEG, checkpoint, *options))


class TestSegmentor:
    """Pictures of one name in two folders, without a label map."""

    def test_writes_a_label_map_of_each_picture(self, segmented):
        root, _ = segmented
        maps = sorted((root / 'maps').rglob('*.*'))
        assert [x.relative_to(root / 'maps').as_posix() for x in maps] == [
            'a/1.png',
            'b/1.png',
        ]
        for folder, file in zip('ab', maps, strict=True):
            labels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            picture = cv2.imread(
                str(root / f'data/images/validation/{folder}/1.jpg'),
            )
            assert labels.shape == picture.shape[:2] and labels.dtype == np.uint8

    def test_draws_each_picture(self, segmented):
        root, _ = segmented
        shown = sorted((root / 'shown').rglob('*.*'))
        names = [x.relative_to(root / 'shown').as_posix() for x in shown]
        assert names == ['a/1.jpg', 'b/1.jpg']

    def test_says_that_nothing_was_measured(self, segmented):
        _, log = segmented
        said = re.search(r'^sem_fpn\S*: nothing was measured: (\S+) has no', log, re.M)
        assert said and said[1].endswith('annotations/validation')

    def test_says_where_everything_is(self, segmented):
        root, log = segmented
        for kind, name in (('pictures', 'shown'), ('predictions', 'maps')):
            assert f'\n{kind} in {root / name}\n' in log
        assert re.search(rf'^log in {root / "work"}/\d+_\d+$', log, re.M)


@pytest.fixture(scope='module')
def detected(shapes, tmp_path_factory):
    root = tmp_path_factory.mktemp('unlabelled')
    content = json.loads((shapes / 'annotations/instances_val2017.json').read_text())
    content.pop('annotations')
    listed = root / 'image_info.json'
    listed.write_text(json.dumps(content))
    out = root / 'out/found.json'
    options = ['--data-root', shapes, '--out', out, '--work-dir', root / 'work']
    options += ['--cfg-options', f'test_dataloader.dataset.ann_file={listed}']
    options += ['model.test_cfg.rcnn.score_thr=0.0']
    checkpoint = untrained(DET, root)
    log = check(run_tool('tools/test.py', DET, checkpoint, *options))
    return out, content, log


class TestDetector:
    """A file that lists pictures and categories alone."""

    def test_writes_what_the_server_of_coco_takes(self, detected):
        out, content, _ = detected
        for kind in ('bbox', 'segm'):
            found = json.loads(out.with_suffix(f'.{kind}.json').read_text())
            assert {x['image_id'] for x in found} == {
                x['id'] for x in content['images']
            }
            of_content = {x['id'] for x in content['categories']}
            assert found and {x['category_id'] for x in found} <= of_content
        assert {'counts', 'size'} <= found[0]['segmentation'].keys()

    def test_names_the_files(self, detected):
        out, _, log = detected
        files = ', '.join(str(out.with_suffix(f'.{x}.json')) for x in ('bbox', 'segm'))
        assert f'\npredictions in {files}\n' in log

    def test_says_that_nothing_was_measured(self, detected):
        assert re.search(
            r'^mask_rcnn\S*: nothing was measured: \S+json has', detected[2], re.M
        )


def test_predictions_of_a_labelled_set_are_dumped_and_measured(shapes, tmp_path):
    """Also by an evaluator of a type of its own, which is for so many metrics."""
    config, out = tmp_path / 'sem_fpn_parts.py', tmp_path / 'new/found.pkl'
    config.write_text(f"""
_base_ = {str(SEG)!r}
data = {{{{_base_.test_dataloader.dataset}}}}
test_dataloader = dict(
    dataset=dict(_delete_=True, type='mmdet.ConcatDataset', datasets=[data])
)
metric = {{{{_base_.test_evaluator}}}}
test_evaluator = dict(
    _delete_=True,
    type='mmdet.MultiDatasetsEvaluator',
    metrics=[metric],
    dataset_prefixes=['shapes'],
)
""")
    options = ['--data-root', shapes, '--out', out, '--work-dir', tmp_path]
    options += ['--report', tmp_path / 'report']
    checkpoint = untrained(SEG, tmp_path)
    log = check(run_tool('tools/test.py', config, checkpoint, *options))
    assert re.search(r'^sem_fpn\S*: aAcc \d', log, re.M)
    assert len(pickle.loads(out.read_bytes())) == 2
    assert len(Evaluation.load(tmp_path / 'report').pictures) == 2


class TestUnlabelled:
    @pytest.fixture
    def cfg(self, tmp_path):
        cfg = Config.fromfile(SEG)
        cfg.test_dataloader.dataset.data_root = str(tmp_path)
        return cfg

    def test_stops_where_predictions_go_nowhere(self, cfg):
        missing = missing_annotations(cfg)
        with pytest.raises(ConfigError, match=r'no annotations.* --out PATH'):
            leave_out_annotations(cfg, missing, None)
        cfg.test_evaluator.update(format_only=True)
        leave_out_annotations(cfg, missing, None)
        assert cfg.test_evaluator.format_only

    def test_a_set_with_its_labels_is_measured(self, cfg, shapes):
        cfg.test_dataloader.dataset.data_root = str(shapes)
        assert missing_annotations(cfg) is None
        det = Config.fromfile(DET)
        det.test_dataloader.dataset.data_root = f'{shapes}/'
        assert missing_annotations(det) is None

    def test_no_transform_loads_annotations(self):
        pack = dict(type='PackSegInputs')
        views = [[dict(type='RandomFlip')], [dict(type='LoadAnnotations')], [pack]]
        steps = [
            dict(type='LoadImageFromFile'),
            dict(type='mmdet.LoadPanopticAnnotations'),
            dict(type='TestTimeAug', transforms=views),
        ]
        load, augment = without_annotations(steps)
        assert load['type'] == 'LoadImageFromFile'
        assert augment['transforms'] == [[dict(type='RandomFlip')], [pack]]


@pytest.mark.parametrize(
    ('config', 'name', 'message'),
    [
        (DET, 'maps', r'a file \*.pkl, or \*.json'),
        (SEG, 'x.json', 'as label maps in a folder'),
        (SEG, 'folder.pkl', 'is a folder'),
        (SEG, 'file', 'is a file'),
    ],
)
def test_a_place_that_predictions_cannot_go_to(config, name, message, tmp_path):
    (tmp_path / 'folder.pkl').mkdir()
    (tmp_path / 'file').touch()
    with pytest.raises(ConfigError, match=f'--out .*{message}'):
        check_out(Config.fromfile(config), str(tmp_path / name))


def test_metrics_that_format_into_no_folder_are_left_out():
    cfg = Config.fromfile(SEG)
    metric = copy.deepcopy(cfg.test_evaluator)
    drop_idle_metrics(cfg)
    assert cfg.test_evaluator == metric
    cfg.test_evaluator.format_only = True
    drop_idle_metrics(cfg)
    assert cfg.test_evaluator == []


def test_metrics_of_an_evaluator_are_found():
    cfg = Config.fromfile(DET)
    metric = cfg.test_evaluator
    cfg.test_evaluator = dict(type='MultiDatasetsEvaluator', metrics=[metric])
    drop_idle_metrics(cfg)
    save_coco_json(cfg, 'found.json')
    assert cfg.test_evaluator.type == 'MultiDatasetsEvaluator'
    assert cfg.test_evaluator.metrics[0].outfile_prefix == 'found'


@pytest.mark.parametrize(
    ('metrics', 'missing', 'remarks', 'said'),
    [
        ({'x/mAP': 0.5, 'x/mAP_s': -1}, None, ['no y'], 'mAP 0.500; no y'),
        ({'x/mAP': -1}, None, [], 'no figures: the truth has nothing to measure'),
        ({'mIoU': math.nan}, None, [], 'no figures: the truth has nothing to measure'),
        ({}, None, ['nothing was predicted'], 'no figures; nothing was predicted'),
        ({}, 'a.json', [], 'nothing was measured: a.json has no annotations'),
    ],
)
def test_the_closing_line_is_never_empty(metrics, missing, remarks, said):
    assert tool('test').closing(metrics, missing, remarks) == said


def test_settings_are_checked_before_they_are_looked_into(monkeypatch, tmp_path):
    test = tool('test')
    options = ['test_dataloader._delete_=True', 'test_dataloader.batch_size=1']
    words = ['tools/test.py', SEG, tmp_path / 'none.pth', '--cfg-options', *options]
    monkeypatch.setattr(sys, 'argv', [*map(str, words)])
    with pytest.raises(
        SystemExit, match=r'test_dataloader\.dataset is a dict of .*None'
    ):
        run(test.main, test.parse_args())


class Interrupt(Hook):
    """Sends Ctrl-C as the second batch begins."""

    def before_test_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == 1:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures('interruptible')
def test_a_stopped_test_tells_how_far_it_came(shapes, tmp_path, monkeypatch, capsys):
    test = tool('test')
    build = test.build_runner

    def build_interrupted(cfg):
        runner = build(cfg)
        runner.register_hook(Interrupt())
        return runner

    monkeypatch.setattr(test, 'build_runner', build_interrupted)
    out = tmp_path / 'predictions.pkl'
    options = ['--data-root', shapes, '--work-dir', tmp_path / 'work', '--out', out]
    options += ['--cfg-options', 'test_dataloader.batch_size=1']
    words = map(str, ['tools/test.py', SEG, untrained(SEG, tmp_path), *options])
    monkeypatch.setattr(sys, 'argv', [*words])
    with pytest.raises(SystemExit, match='130'):
        run(test.main, test.parse_args())
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == 'test.py: stopped: 1 of 2 batches are predicted'
    assert not out.exists()
