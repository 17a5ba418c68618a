import json
import os
import pickle
import re
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config

from mmrecnext import RecNeXt
from mmrecnext.engine import precision
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.prepare import move_data_root
from tests.helpers import ROOT, SERVER, check, run_tool

pytestmark = pytest.mark.slow

DET = ROOT / 'configs/mask_rcnn_recnext_m3_coco.py'
SEG = ROOT / 'configs/sem_fpn_recnext_m3_ade20k.py'

FEW_REGIONS = (
    'model.train_cfg.rpn_proposal.max_per_img=32',
    'model.test_cfg.rpn.max_per_img=32',
    'model.test_cfg.rcnn.max_per_img=8',
    'model.test_cfg.rcnn.score_thr=0.0',
)
"""Of an untrained detector, whose scores leave out none; the heads take their time."""


@pytest.fixture(scope='module')
def detector(coco, pretrained, tmp_path_factory):
    """Train the published detection config for two iterations, on small images."""
    work_dir = tmp_path_factory.mktemp('det')
    options = [
        *('--data-root', coco, '--work-dir', work_dir, '--cfg-options'),
        f'model.backbone.init_cfg.checkpoint={pretrained}',
        'train_dataloader.dataset.pipeline.2.scale=(96,96)',
        'val_dataloader.dataset.pipeline.1.scale=(96,96)',
        'default_hooks.logger.interval=1',
        'model.train_cfg.rcnn.sampler.num=8',  # in bf16, each takes its time
        *FEW_REGIONS,
    ]
    log = check(run_tool('tools/train.py', DET, *options, 'train_cfg.max_epochs=1'))
    return work_dir, options, log


@pytest.fixture(scope='module')
def segmentor(ade, pretrained, tmp_path_factory):
    """Train the published segmentation config for two iterations, on small images."""
    work_dir = tmp_path_factory.mktemp('seg')
    options = [
        *('--data-root', ade, '--work-dir', work_dir, '--cfg-options'),
        f'model.backbone.init_cfg.checkpoint={pretrained}',
        'train_dataloader.dataset.pipeline.2.scale=(128,64)',
        'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
        'model.data_preprocessor.size=(64,64)',
        'val_dataloader.dataset.pipeline.1.scale=(128,64)',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'default_hooks.logger.interval=1',
        'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=2',
    ]
    log = check(run_tool('tools/train.py', SEG, *options, 'train_cfg.max_iters=2'))
    return work_dir, options, log


def loaded_all(log):
    size = len(RecNeXt('m3').state_dict())
    return f'Loaded {size}/{size} weights of the backbone' in log


def log_file(work_dir):
    """All that a run has logged, the config and the environment among it."""
    (file,) = work_dir.glob('*/*.log')
    return file.read_text()


def losses(log, name='loss'):
    return [float(x) for x in re.findall(rf' {name}: (\S+)', log)]


def train_in_mixed_precision(config, options, work_dir):
    """Train as with ``options``, but in another folder; return the log."""
    if torch.cuda.is_available():
        pytest.skip('on a GPU, fp16 may skip steps')
    options = [*options]
    options[options.index('--work-dir') + 1] = work_dir
    log = check(run_tool('tools/train.py', config, '--amp', *options))
    assert 'CPUAmpOptimWrapper' in log_file(work_dir)
    return log


class TestPublishedDetection:
    def test_trains(self, detector):
        work_dir, _, log = detector
        assert loaded_all(log)
        assert len(losses(log)) == 2 and np.isfinite(losses(log)).all()
        assert 'coco/segm_mAP: ' in log  # evaluated after the epoch
        assert (work_dir / 'epoch_1.pth').is_file()
        assert f'\ncheckpoints and logs in {work_dir}\n' in log

    def test_trains_in_mixed_precision(self, detector, tmp_path):
        work_dir, options, _ = detector
        options = [*options, 'train_cfg.max_epochs=1', 'train_cfg.val_interval=9']
        options += ['train_dataloader.num_batch_per_epoch=1']
        own = train_in_mixed_precision(DET, options, tmp_path)
        assert np.isfinite(losses(own)).all()
        # The other losses are of regions that are drawn, by what precision changes.
        single, half = (scalars(x, 'loss_rpn_cls')[1] for x in (work_dir, tmp_path))
        assert half == pytest.approx(single, rel=0.02) and half != single

    def test_resumes(self, detector):
        work_dir, options, _ = detector
        options = [*options, 'train_cfg.max_epochs=2', 'train_cfg.val_interval=9']
        log = check(run_tool('tools/train.py', DET, '--resume', *options))
        assert 'resumed epoch: 1, iter: 2' in log
        assert len(losses(log)) == 2
        assert (work_dir / 'epoch_2.pth').is_file()

    @pytest.mark.parametrize('tta', [False, True])
    def test_evaluates(self, tta, detector, coco, tmp_path):
        work_dir, *_ = detector
        options = [
            *('--work-dir', tmp_path, '--data-root', coco),
            *('--show-dir', tmp_path / 'show'),
            *('--out', tmp_path / 'predictions.pkl', *(['--tta'] if tta else [])),
            *('--cfg-options', 'test_dataloader.dataset.pipeline.1.scale=(96,96)'),
            *FEW_REGIONS,
        ]
        checkpoint = work_dir / 'epoch_1.pth'
        log = check(run_tool('tools/test.py', DET, checkpoint, *options))
        assert re.search(r'^mask_rcnn.*: bbox_mAP -?\d.* segm_mAP -?\d', log, re.M)
        assert len(pickle.loads((tmp_path / 'predictions.pkl').read_bytes())) == 2
        pictures = [*tmp_path.rglob('show/**/*.jpg'), *tmp_path.rglob('show/**/*.png')]
        assert len(pictures) == 2


class TestPublishedSegmentation:
    def test_trains(self, segmentor):
        work_dir, _, log = segmentor
        assert loaded_all(log)
        assert len(losses(log)) == 2 and np.isfinite(losses(log)).all()
        assert 'mIoU: ' in log
        assert (work_dir / 'iter_2.pth').is_file()

    def test_trains_in_mixed_precision(self, segmentor, tmp_path):
        work_dir, options, _ = segmentor
        options = [*options, 'train_cfg.max_iters=1']
        train_in_mixed_precision(SEG, options, tmp_path)
        single, half = scalars(work_dir)[1], scalars(tmp_path)[1]
        assert half == pytest.approx(single, rel=0.02) and half != single

    def test_resumes(self, segmentor):
        work_dir, options, _ = segmentor
        options = [*options, 'train_cfg.max_iters=4', 'train_cfg.val_interval=9']
        log = check(run_tool('tools/train.py', SEG, '--resume', *options))
        assert 'resumed epoch: 0, iter: 2' in log
        assert len(losses(log)) == 2
        assert (work_dir / 'iter_4.pth').is_file()

    @pytest.mark.parametrize('tta', [False, True])
    def test_evaluates(self, tta, segmentor, ade, tmp_path):
        work_dir, *_ = segmentor
        options = [
            *('--work-dir', tmp_path, '--data-root', ade),
            *('--show-dir', tmp_path / 'show'),
            *('--out', tmp_path / 'maps', *(['--tta'] if tta else [])),
            *('--cfg-options', 'test_dataloader.dataset.pipeline.1.scale=(128,64)'),
        ]
        checkpoint = work_dir / 'iter_2.pth'
        log = check(run_tool('tools/test.py', SEG, checkpoint, *options))
        assert re.search(r'^sem_fpn.* mIoU \d', log, re.M)
        maps = [cv2.imread(str(p), 0) for p in (tmp_path / 'maps').glob('*.png')]
        assert [x.shape for x in maps] == [(96, 96)] * 2
        assert len([*tmp_path.glob('show/*.jpg')]) == 2


class TestInference:
    def test_detector_on_image_folder_and_video(self, detector, coco, tmp_path):
        work_dir, *_ = detector
        writer = cv2.VideoWriter(
            str(tmp_path / 'clip.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 5, (64, 48)
        )
        for _ in range(3):
            writer.write(np.full((48, 64, 3), 90, np.uint8))
        writer.release()
        folder = coco / 'val2017'
        image = next(folder.iterdir())
        out = tmp_path / 'out'
        options = ['--out-dir', out, '--sheet', 2, '--score-thr', 0]
        small = ['--cfg-options', 'test_dataloader.dataset.pipeline.1.scale=(96,96)']
        inputs = [image, folder, tmp_path / 'clip.mp4']
        checkpoint = work_dir / 'epoch_1.pth'
        log = check(
            run_tool('tools/infer.py', DET, checkpoint, *inputs, *options, *small)
        )
        assert '2 images, 1 videos' in log  # one image, given twice, is one
        predictions = json.loads((out / 'predictions.json').read_text())
        assert len(predictions) == 2 + 3
        for found in predictions[0]['detections']:
            assert found['class'] in CocoDataset.METAINFO['classes']
            assert len(found['box']) == 4 and found['mask']['size'] == [96, 96]
        assert (
            cv2.VideoCapture(str(out / 'clip.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == 3
        )
        assert cv2.imread(str(out / 'sheet.png')).shape[1] > 2 * 96

    def test_segmentor(self, segmentor, ade, tmp_path):
        work_dir, *_ = segmentor
        small = ['--cfg-options', 'test_dataloader.dataset.pipeline.1.scale=(128,64)']
        folder = ade / 'images/validation'
        checkpoint = work_dir / 'iter_2.pth'
        options = ['--out-dir', tmp_path, *small]
        check(run_tool('tools/infer.py', SEG, checkpoint, folder, *options))
        predictions = json.loads((tmp_path / 'predictions.json').read_text())
        assert [sum(p['shares'].values()) for p in predictions] == pytest.approx(
            [1, 1], abs=1e-2
        )
        assert len([*tmp_path.glob('*.png')]) == 2


def scalars(work_dir, name='loss'):
    """A loss by iteration, in all digits, as logged by all runs in a work dir."""
    lines = [
        json.loads(line)
        for file in sorted(work_dir.glob('*/vis_data/scalars.json'))
        for line in file.read_text().splitlines()
    ]
    return {line['step']: line[name] for line in lines if name in line}


@pytest.mark.parametrize('kind', ['mask_rcnn', 'sem_fpn'])
def test_a_resumed_run_repeats_a_whole_one_in_two_processes(kind, shapes, tmp_path):
    """The second half anew, from the checkpoint of the first.

    These processes import the frameworks themselves.
    """
    options = {
        'mask_rcnn': [
            'train_dataloader.dataset.pipeline.2.scale=(64,64)',
            'train_cfg.max_epochs=2',
            'default_hooks.checkpoint.interval=1',
        ],
        'sem_fpn': ['train_cfg.max_iters=4', 'default_hooks.checkpoint.interval=2'],
    }[kind]

    def command(work_dir, *more):
        # Two batches of 2 x 2 images an epoch.
        return [
            *(ROOT / 'tools/dist_train.sh', f'{kind}_recnext_m0_shapes.py', '2'),
            *('--data-root', shapes, '--work-dir', tmp_path / work_dir, *more),
            *('--cfg-options', *options, 'train_cfg.val_interval=99'),
            *('train_dataloader.batch_size=2', 'default_hooks.logger.interval=1'),
            'model.backbone.norm_cfg.type=SyncBN',
            'model.backbone.drop_path_rate=0.2',
        ]

    log = check(SERVER.launch(command('whole'), ROOT, PORT=free_port()))
    assert 'SyncBN needs GPUs' in log
    assert 'Distributed training: True' in log_file(tmp_path / 'whole')

    logs_and_end = shutil.ignore_patterns('2*', 'epoch_2.pth', 'iter_4.pth')
    shutil.copytree(tmp_path / 'whole', tmp_path / 'half', ignore=logs_and_end)
    check(SERVER.launch(command('half', '--resume'), ROOT, PORT=free_port()))

    expected, resumed = scalars(tmp_path / 'whole'), scalars(tmp_path / 'half')
    assert list(expected) == [1, 2, 3, 4] and list(resumed) == [3, 4]
    for step, loss in resumed.items():
        assert loss == pytest.approx(expected[step], rel=1e-5), step


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])


class TestBadInput:
    """Each is told in a line, with what to do, before anything is computed."""

    @pytest.fixture
    def fails(self, monkeypatch, tmp_path, capsys):
        """Run a tool in this process; return the line that it exits with."""

        def fails(tool, *args):
            argv = [f'tools/{tool}.py', *map(str, args)]
            monkeypatch.setattr(sys, 'argv', argv)
            monkeypatch.chdir(tmp_path)
            with pytest.raises(SystemExit) as exit:
                runpy.run_path(str(ROOT / argv[0]), run_name='__main__')
            message = str(exit.value.code)
            assert message.startswith(f'{tool}.py: error: ') and '\n' not in message
            return message

        return fails

    def test_missing_config(self, fails):
        assert 'mask_rcnn_recnext_m3_coco.py' in fails(
            'train', 'mask_rcnn_recnext_m3.py'
        )

    def test_broken_config(self, fails, tmp_path):
        (tmp_path / 'broken.py').write_text('model = dict(')
        assert 'cannot read' in fails('train', tmp_path / 'broken.py')

    def test_config_of_another_framework(self, fails, tmp_path):
        (tmp_path / 'other.py').write_text("default_scope = 'mmagic'")
        message = fails('train', tmp_path / 'other.py')
        assert 'config for mmagic' in message and 'mmdet, mmseg' in message

    def test_framework_that_is_not_installed(self, fails, monkeypatch):

        monkeypatch.setattr('mmrecnext.engine.frameworks.find_spec', lambda name: None)
        message = fails('train', SEG)
        assert re.search("pip install '(onedl-)?mmsegmentation>", message)

    @pytest.mark.parametrize('config', [DET, SEG])
    def test_missing_data(self, config, fails):
        message = fails('train', config)
        assert 'is missing' in message and '--data-root' in message

    def test_missing_data_root(self, fails, tmp_path):
        message = fails('train', DET, '--data-root', tmp_path)
        missing = 'annotations/instances_train2017.json'
        assert message.endswith(f': --data-root {tmp_path} has no {missing}')

    def test_missing_pretrained_file(self, fails, coco):
        option = 'model.backbone.init_cfg.checkpoint=nowhere.pth'
        message = fails('train', DET, '--data-root', coco, '--cfg-options', option)
        assert 'there is no checkpoint nowhere.pth' in message

    def test_misspelt_option(self, fails, coco):
        args = ('--data-root', coco, '--cfg-options')
        assert 'did you mean optim_wrapper' in fails(
            'train', DET, *args, 'optim_wraper.optimizer.lr=1'
        )
        assert 'did you mean max_epochs' in fails(
            'train', DET, *args, 'train_cfg.max_epoch=1'
        )
        assert 'frozen_stages' in fails(
            'train', DET, *args, 'model.backbone.frozen_stage=1'
        )

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            (['optim_wrapper.optimizer.lr=abc'], 'lr=abc: a number is needed, such as'),
            (
                ['model.neck.out_channels.x=1'],
                'out_channels is 256 and has no settings',
            ),
            (
                ['train_dataloader.dataset.pipeline.99.prob=1'],
                'pipeline is a list.* 0 to',
            ),
            (
                ['train_dataloader.dataset.pipeline.x.prob=1'],
                'pipeline is a list.* 0 to',
            ),
            (['train_dataloader.dataset.pipeline.1=x'], 'pipeline.1'),
            (['auto_scale_lr.base_batch_size'], 'KEY=VALUE.*got auto_scale_lr.base_b'),
            (['model.neck.in_channels=[1,(2]'], r'brackets in pairs, got .*\[1,\(2\]'),
            (['work_dir=x', 'work_dir.y=z'], '--cfg-options work_dir work_dir.y: '),
        ],
    )
    def test_impossible_option(self, options, message, fails):
        assert re.search(message, fails('train', DET, '--cfg-options', *options))

    def test_settings_in_the_place_of_none(self, fails, tmp_path):
        (tmp_path / 'scratch.py').write_text(
            f"_base_ = '{DET}'\nmodel = dict(backbone=dict(init_cfg=None))\n"
        )
        init_cfg = 'model.backbone.init_cfg'
        args = ('train', 'scratch.py', '--cfg-options', f'{init_cfg}.checkpoint=m3.pth')
        message = fails(*args)
        assert f'{init_cfg} is None' in message
        advice = message.split()[-1]
        assert advice == f'{init_cfg}._delete_=True'
        options = {
            f'{init_cfg}._delete_': True,
            f'{init_cfg}.type': 'Pretrained',
            f'{init_cfg}.checkpoint': 'm3.pth',
        }
        cfg = load_config(str(tmp_path / 'scratch.py'), options)
        assert cfg.model.backbone.init_cfg == dict(
            type='Pretrained', checkpoint='m3.pth'
        )

    def test_unknown_arch(self, fails, coco):
        args = ('--data-root', coco, '--cfg-options', 'model.backbone.arch=m9')
        assert 'm0, m1, m2' in fails('train', DET, *args)

    @pytest.mark.parametrize('config', [DET, SEG])
    def test_empty_dataset(self, config, fails, tmp_path):
        for name in ('annotations', 'train2017', 'val2017', 'images/training'):
            (tmp_path / 'data' / name).mkdir(parents=True)
        for name in ('annotations', 'images'):
            (tmp_path / 'data' / name / 'training').mkdir(exist_ok=True)
            (tmp_path / 'data' / name / 'validation').mkdir(exist_ok=True)
        empty = json.dumps(dict(images=[], annotations=[], categories=[]))
        for split in ('train', 'val'):
            file = tmp_path / f'data/annotations/instances_{split}2017.json'
            file.write_text(empty)
        args = ('--data-root', tmp_path / 'data', '--cfg-options')
        message = fails('train', config, *args, 'model.backbone.init_cfg=None')
        assert 'no usable sample' in message

    def test_checkpoint_of_another_model(self, fails, detector, coco):
        work_dir, *_ = detector
        args = (DET, work_dir / 'epoch_1.pth', '--data-root', coco, '--cfg-options')
        message = fails('test', *args, 'model.neck.out_channels=128')
        assert 'does not fit the model of this config' in message

    def test_inference_says_a_misfit_in_a_line(self, fails, detector, coco, capsys):
        work_dir, *_ = detector
        args = (DET, work_dir / 'epoch_1.pth', coco / 'val2017', '--cfg-options')
        capsys.readouterr()
        message = fails('infer', *args, 'model.backbone.arch=m0')
        assert 'RecNeXt-M3, that of the config RecNeXt-M0' in message
        printed = capsys.readouterr()
        assert 'stages.3' not in printed.out + printed.err

    def test_broken_checkpoint(self, fails, detector, coco, tmp_path):
        work_dir, *_ = detector
        part = (work_dir / 'epoch_1.pth').read_bytes()[:1000]
        (tmp_path / 'part.pth').write_bytes(part)
        for name in ('test', 'infer'):
            more = ('--data-root', coco) if name == 'test' else (coco / 'val2017',)
            message = fails(name, DET, tmp_path / 'part.pth', *more)
            assert 'is broken or cut short' in message

    def test_resuming_from_code(self, fails, coco, tmp_path):
        torch.save({'meta': print}, tmp_path / 'bomb.pth')
        args = (DET, '--data-root', coco, '--resume', tmp_path / 'bomb.pth')
        message = fails('train', *args, '--cfg-options', 'model.backbone.init_cfg=None')
        assert 'is refused: it holds builtins.print' in message

    def test_fp16_without_gpu(self, fails, coco):
        if torch.cuda.is_available():
            pytest.skip('there is a GPU')
        args = ('--data-root', coco, '--amp-dtype', 'fp16')
        assert 'needs a GPU' in fails('train', DET, *args)

    def test_inputs_of_inference(self, fails, tmp_path):
        (tmp_path / 'empty').mkdir()
        (tmp_path / 'notes.txt').write_text('')
        args = ('infer', DET, 'x.pth')
        assert 'no image or video' in fails(*args, tmp_path / 'empty')
        assert 'neither an image' in fails(*args, tmp_path / 'notes.txt')
        assert 'there is no image' in fails(*args, tmp_path / 'nothing.jpg')
        assert '--device gpu cannot' in fails(*args, tmp_path, '--device', 'gpu')

    def test_inference_overwrites_no_input(self, fails, tmp_path):
        cv2.imwrite(str(tmp_path / 'photo.png'), np.zeros((9, 9, 3), np.uint8))
        message = fails('infer', DET, 'x.pth', tmp_path, '--out-dir', tmp_path)
        assert 'photo.png is an input: choose another --out-dir' in message

    def test_unreadable_image_loses_no_other(self, fails, detector, coco, tmp_path):
        work_dir, *_ = detector
        (tmp_path / 'in').mkdir()
        (tmp_path / 'in/1.jpg').touch()
        image = next((coco / 'val2017').iterdir())
        (tmp_path / 'in/2.jpg').write_bytes(image.read_bytes())
        args = (
            work_dir / 'epoch_1.pth',
            tmp_path / 'in',
            '--out-dir',
            tmp_path / 'out',
        )
        small = 'test_dataloader.dataset.pipeline.1.scale=(96,96)'
        message = fails('infer', DET, *args, '--cfg-options', small)
        assert '1.jpg is not an image' in message
        assert (tmp_path / 'out/2.png').is_file()
        assert len(json.loads((tmp_path / 'out/predictions.json').read_text())) == 1


@pytest.mark.parametrize('known', [(torch.float32,), (torch.float32, torch.bfloat16)])
def test_slow_bf16_is_told(known, monkeypatch):
    told = []
    monkeypatch.setattr(precision, 'ONEDNN_DTYPES', known)
    monkeypatch.setattr(precision, 'print_log', lambda text, *_: told.append(text))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper')))
    precision.use_amp(cfg, None)
    assert cfg.optim_wrapper.type == 'CPUAmpOptimWrapper'
    assert len(told) == 2 - len(known)


@pytest.mark.parametrize(
    'file', sorted((ROOT / 'tools').glob('*.py')), ids=lambda x: x.stem
)
def test_no_option_is_taken_for_a_longer_one(file, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [file.name, '--hel'])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(file), run_name='__main__')
    assert exit.value.code == 2, 'it printed its help'


@pytest.mark.parametrize(
    ('tool', 'args', 'option'),
    [
        ('swap_backbone', ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'], '--out'),
        ('benchmark', [], '--out'),
        ('convert_checkpoint', ['m0.pth'], 'OUT'),
    ],
)
def test_a_folder_is_no_file_to_write(
    tool, args, option, tmp_path, monkeypatch, capsys
):
    out = ['--out', tmp_path] if option == '--out' else [tmp_path]
    monkeypatch.setattr(sys, 'argv', [*map(str, [tool, *args, *out])])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / f'tools/{tool}.py'), run_name='__main__')
    told = f'argument {option}: {tmp_path} is a folder; name a file'
    assert told in capsys.readouterr().err


def test_names_of_outputs_are_distinct(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    from infer import name_outputs

    files = [
        Path(p) for p in ('a/x.jpg', 'b/x.jpg', 'a/x.jpg', 'b/x_2.png', 'sheet.jpg')
    ]
    outputs = name_outputs(files, tmp_path)
    assert list(outputs) == [
        Path(p) for p in ('a/x.jpg', 'b/x.jpg', 'b/x_2.png', 'sheet.jpg')
    ]
    names = [o.name for o in outputs.values()]
    assert names == ['x.png', 'x_2.png', 'x_2_2.png', 'sheet_2.png']


def test_data_root_moves_data_alone():
    cfg = Config(
        dict(
            data_root='data/coco/',
            work_dir='data/coco/out',
            test_dataloader=dict(dataset=dict(data_root='data/coco/')),
            test_evaluator=[dict(ann_file='data/coco/a.json'), dict(x='data/coco2/b')],
        )
    )
    move_data_root(cfg, 'elsewhere')
    assert cfg.test_dataloader.dataset.data_root == 'elsewhere/'
    assert cfg.test_evaluator[0].ann_file == 'elsewhere/a.json'
    assert cfg.test_evaluator[1].x == 'data/coco2/b'
    assert cfg.work_dir == 'data/coco/out'


def test_configs_of_the_frameworks_load():
    assert load_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py').model


def test_installation_report():
    report = check(run_tool('-m', 'mmrecnext'))
    for word in ('torch', 'mmengine', 'm0 m1', 'roi_align', str(ROOT / 'configs')):
        assert word in report
    for job in ('detection', 'segmentation', 'classification'):
        assert f'\n{job}: ready\n' in report


ABSENT = """
import importlib.metadata, sys
sys.modules[{module!r}] = None
version = importlib.metadata.version
def version_but(name):
    if name.removeprefix('onedl-').startswith({module!r}):
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = version_but
"""


@pytest.mark.parametrize('module', ['torch', 'mmengine', 'mmcv', 'timm', 'rich'])
def test_installation_report_names_what_is_missing(module, tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(ABSENT.format(module=module))
    done = report_of(tmp_path)
    assert done.returncode == 0, done.stderr
    jobs = {
        'mmcv': ('detection', 'segmentation'),
        'timm': ('classification',),
    }.get(module, ('detection', 'segmentation', 'classification'))
    ready = {'detection', 'segmentation', 'classification'} - {*jobs}
    assert all(f'{job}: not ready; run\n    pip' in done.stdout for job in jobs)
    assert all(f'{job}: ready\n' in done.stdout for job in ready)
    assert re.search(rf"pip install '?(onedl-)?{module}", done.stdout)


def test_installation_report_where_nothing_is_installed(tmp_path):
    done = report_of(tmp_path, '-S')  # which leaves out all packages
    assert done.returncode == 0, done.stderr
    assert "pip install 'mmengine" in done.stdout


def report_of(folder, *options):
    return subprocess.run(
        [sys.executable, *options, '-m', 'mmrecnext'],
        env={**os.environ, 'PYTHONPATH': f'{folder}{os.pathsep}{ROOT}'},
        cwd=folder,
        capture_output=True,
        text=True,
    )
