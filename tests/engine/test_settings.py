"""What a config says of a run that cannot be: told in a line, before it begins."""

import tempfile
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import Registry
from mmseg.datasets.transforms import LoadAnnotations
from torch import nn

from mmrecnext import RecNeXt
from mmrecnext.cli import chosen_device
from mmrecnext.engine.build import build_runner
from mmrecnext.engine.channels import check_channels
from mmrecnext.engine.configs import read_config
from mmrecnext.engine.data.samples import CheckedPipeline
from mmrecnext.engine.misbuilt import describe_misbuilt
from mmrecnext.engine.outputs import deploy
from mmrecnext.engine.overrides import check_overrides
from mmrecnext.engine.precision import use_amp
from mmrecnext.engine.prepare import prepare
from mmrecnext.engine.runner import Runner, ValuesHook
from mmrecnext.engine.saving import CheckpointHook
from mmrecnext.engine.settings import check_settings
from mmrecnext.errors import CheckpointError, ConfigError, DataError, OptionError
from tests.helpers import files_ended


def config(**changes):
    loader = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler'),
        dataset=dict(type='CocoDataset'),
    )
    cfg = Config(
        dict(
            train_dataloader=loader,
            val_dataloader=loader,
            val_cfg=dict(),
            val_evaluator=dict(type='CocoMetric'),
            train_cfg=dict(by_epoch=True, max_epochs=1, val_interval=1),
            optim_wrapper=dict(type='OptimWrapper'),
            default_hooks=dict(checkpoint=dict(interval=1), timer=dict()),
        )
    )
    cfg.merge_from_dict({k.replace('__', '.'): v for k, v in changes.items()})
    return cfg


@pytest.mark.parametrize(
    ('field', 'value', 'choices'),
    [
        ('train_dataloader.batch_size', 0, '1 or more, got 0'),
        ('train_dataloader.batch_size', 2.5, '1 or more, got 2.5'),
        ('val_dataloader.batch_size', None, '1 or more, got None'),
        ('train_dataloader.num_workers', -1, '0 or more, got -1'),
        ('val_dataloader.num_workers', 1.5, '0 or more, got 1.5'),
        ('train_dataloader.prefetch_factor', 0, '1 or more, got 0'),
        ('train_cfg.max_epochs', 0, '1 or more, got 0'),
        ('train_cfg.max_iters', True, '1 or more, got True'),
        ('train_cfg.val_begin', -5, '0 or more, got -5'),
        ('train_cfg.val_interval', 0, r'1 or more, got 0\. To leave validation out'),
        ('default_hooks.checkpoint.interval', 0, r'1 or more, or -1 \(never\), got 0'),
        ('randomness.seed', -1, 'None or from 0 to 4294967295, got -1'),
    ],
)
def test_impossible_numbers_are_told_by_their_field(field, value, choices):
    with pytest.raises(ConfigError, match=rf'^{field} is {choices}'):
        check_settings(config(**{field: value}), ('train', 'val'), 'mine.py')


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('persistent_workers', True, r'num_workers of 1 or more.* or set .*=False$'),
        ('prefetch_factor', 2, r'num_workers of 1 or more.* or set .*=None$'),
        ('shuffle', True, r'shuffle is up to train_dataloader\.sampler\.shuffle'),
        ('dataset', None, r'dataloader\.dataset is a dict of settings, got None'),
    ],
)
def test_what_loaders_cannot_have_together_is_told(field, value, message):
    cfg = config(**{f'train_dataloader__{field}': value})
    with pytest.raises(ConfigError, match=message):
        check_settings(cfg, ('train', 'val'), 'mine.py')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            dict(val_evaluator=None),
            r'val_cfg, val_evaluator go together: mine\.py has no val_evaluator\. Add',
        ),
        (dict(model='mask_rcnn'), "^model is a dict of settings, got 'mask_rcnn'"),
        (dict(log_level='LOUD'), "^log_level is one of CRITICAL, .*, got 'LOUD'"),
        (dict(test_cfg=dict()), 'no test_dataloader and no test_evaluator'),
        (
            dict(model=dict(type='EncoderDecoder', test_cfg=dict(mode='slid'))),
            r"^test_cfg\.mode is whole or slide, got 'slid'",
        ),
        (dict(custom_hooks=['EMAHook']), "list of dicts, got 'EMAHook' in it"),
        (dict(custom_hooks=5), 'list of dicts, got 5 in it'),
        (dict(default_scope=['mmdet']), r"^default_scope is a text, got \['mmdet'\]"),
        (dict(load_from=5), '^load_from is a text, got 5'),
        (dict(randomness=5), '^randomness is a dict of settings, got 5'),
        (dict(randomness=None), '^randomness is a dict of settings, got None'),
        (dict(randomness=dict(sed=5)), '^randomness has no sed; it has seed, '),
        (dict(env_cfg=['spawn']), r"^env_cfg is a dict .* got \['spawn'\]"),
        (dict(default_hooks=[]), r'^default_hooks is a dict .* got \[\]'),
        (dict(auto_scale_lr=True), '^auto_scale_lr is a dict of settings, got True'),
        (dict(optim_wrapper='AdamW'), "^optim_wrapper is a dict .* got 'AdamW'"),
        (dict(param_scheduler=[1]), r'^param_scheduler is a dict .* got \[1\]'),
        (dict(model__data_preprocessor=dict(std=[0, 1, 1])), r'positive.* \[0, 1, 1\]'),
        (dict(model__data_preprocessor=dict(std=58)), 'positive, one .* got 58'),
        (
            dict(val_evaluator=[dict(type='IoUMetric', iou_metrics=['mIou'])]),
            r"^val_evaluator\.iou_metrics are of mIoU, .* got \['mIou'\]",
        ),
    ],
)
def test_what_would_be_found_out_late_is_told_at_once(changes, message):
    with pytest.raises(ConfigError, match=message):
        check_settings(config(**changes), ('train', 'val'), 'mine.py')


def test_possible_settings_pass():
    cfg = config(
        custom_hooks=[dict(type='EMAHook')],
        model__data_preprocessor=dict(std=[58.4, 57.1, 57.4]),
        model__init_cfg=dict(type='Normal', mean=0, std=0.01),
        model__depth=dict(type='DepthEstimator', test_cfg=dict(mode='slide_flip')),
        val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU', 'mDice']),
        train_cfg__max_epochs=12.0,
        train_cfg__val_begin=0,
        train_dataloader__num_workers=2,
        train_dataloader__persistent_workers=True,
        train_dataloader__prefetch_factor=None,
        default_hooks__checkpoint__interval=-1,
        default_hooks__timer=None,
        randomness=dict(seed=None),
        auto_scale_lr=None,
        load_from=None,
        work_dir=Path('runs'),
        param_scheduler=dict(type='LinearLR'),
    )
    check_settings(cfg, ('train', 'val'), 'mine.py')


def test_start_methods_are_named():
    cfg = config(env_cfg=dict(mp_cfg=dict(mp_start_method='forkk')))
    with pytest.raises(ConfigError, match=r'mp_start_method is one of .*fork.*forkk'):
        check_settings(cfg, ('train',), 'mine.py')


@pytest.mark.parametrize(
    ('pipeline', 'expected'),
    [
        ([], 'train_dataloader.dataset.pipeline is empty: name the transforms'),
        ([dict(type='Resize', scale=0)], 'scale of Resize is positive, got 0'),
        ([dict(type='Resize', scale=(64, -1))], 'scale of Resize is positive'),
        (
            [dict(type='Some', transforms=[[dict(type='RandomCrop', crop_size=0)]])],
            'crop_size of RandomCrop is positive, got 0',
        ),
    ],
    ids=str,
)
def test_pipelines_leave_something_of_a_picture(pipeline, expected):
    cfg = config()
    cfg.train_dataloader.dataset.pipeline = pipeline
    with pytest.raises(ConfigError, match=expected):
        check_settings(cfg, ('train',), 'mine.py')


def test_an_unknown_runner_is_told():
    cfg = config(runner_type='RecNextRunner')
    with pytest.raises(
        ConfigError, match=r'^runner_type: .*did you mean RecNeXtRunner'
    ):
        build_runner(cfg)


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_a_launcher_that_has_started_nothing_is_told(launcher, monkeypatch):
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=f'no {launcher} launcher .* Use .*run'):
        prepare(config(), 'mine.py', ('train',), launcher=launcher)


@pytest.mark.parametrize('name', ['gpu', '0', 'cuda:99'])
def test_devices_are_checked(name):
    with pytest.raises(OptionError, match=f'--device {name} cannot be used'):
        chosen_device(name)


@pytest.mark.parametrize('module', ['', 'mmengine.', 'mmengine.optim.'])
@pytest.mark.parametrize('kind', ['OptimWrapper', 'AmpOptimWrapper'])
def test_wrappers_are_known_whatever_module_names_them(module, kind):
    """As in a config of plain Python; and one of a work dir takes the option again."""
    cfg = Config(dict(optim_wrapper=dict(type=module + kind)))
    for _ in range(2):
        use_amp(cfg, None)
        assert cfg.optim_wrapper.type.endswith('AmpOptimWrapper')
    cfg.optim_wrapper.type = f'{module}ApexOptimWrapper'
    with pytest.raises(ConfigError, match=r'is wrapped by .*ApexOptimWrapper'):
        use_amp(cfg, None)


@pytest.mark.parametrize('module', ['', 'mmengine.hooks.'])
def test_averages_are_left_out_whatever_module_names_their_hook(module):
    """Their hook would exchange the weights of unlike forms."""
    cfg = Config(dict(custom_hooks=[dict(type=f'{module}EMAHook')]))
    deploy(cfg)
    assert [hook.type for hook in cfg.custom_hooks] == ['DeployHook']


@pytest.mark.parametrize(
    ('name', 'current'), [('cuda:1', ['cuda:1']), ('cuda', []), ('cpu', [])]
)
def test_the_gpu_that_is_named_is_the_current_one(name, current, monkeypatch):
    """What measures waits for that, and Triton launches there."""
    told = []
    monkeypatch.setattr(torch, 'empty', lambda *_, device: device)
    monkeypatch.setattr(torch.cuda, 'set_device', told.append)
    assert chosen_device(name) == name
    assert told == current


class TestParts:
    """Parts of a config that their framework cannot build."""

    parts = Registry('part', scope='mmrecnext')

    @parts.register_module()
    class Wheel:
        def __init__(self, spokes: int = 8):
            if spokes < 3:
                raise ValueError(f'{spokes} spokes do not hold')

    @parts.register_module()
    class Tyre(Wheel):
        def __init__(self, width, **options):
            super().__init__(**options)

    Wheel.__module__ = 'mmdet.parts'

    def told(self, **settings):
        with pytest.raises(Exception) as caught:
            self.parts.build(settings)
        return describe_misbuilt(caught.value)

    def test_unknown_names_are_told_with_those_that_are_close(self):
        assert self.told(type='Whel') == (
            "mmrecnext has no part 'Whel'; did you mean Wheel?"
        )

    def test_unknown_options_are_told_with_those_there_are(self):
        assert self.told(type='Wheel', spoke=9) == (
            "part 'Wheel' has no option spoke; did you mean spokes?"
        )
        assert self.told(type='Wheel', colour=9).endswith('colour; it has spokes')
        assert self.told(type='Tyre', width=1, spoke=9) is None  # raised further in

    def test_faults_of_own_modules_keep_their_traceback(self):
        assert self.told(type='Wheel', spokes=1) is None

    def test_refusals_of_the_frameworks_are_told_in_a_line(self, monkeypatch):
        monkeypatch.setattr(
            'mmrecnext.engine.misbuilt.LIBRARIES', {__name__.split('.')[0]}
        )
        assert self.told(type='Wheel', spokes=1) == (
            "part 'Wheel' cannot be built: 1 spokes do not hold"
        )
        assert self.told(type='Tyre', width=1, spoke=9) == (
            "part 'Tyre' has no option spoke; did you mean spokes?"
        )

    def test_the_parts_around_are_named(self):
        class Car:
            def __init__(self, wheel):
                TestParts.parts.build(wheel)

        wheel = dict(type='Whel')
        assert self.told(type=Car, wheel=wheel).endswith('mean Wheel? (in Car)')

    def test_a_name_in_place_of_settings_is_told(self):
        with pytest.raises(TypeError) as caught:
            self.parts.build('Wheel')
        assert "has 'Wheel' in place of settings" in describe_misbuilt(caught.value)

    def test_what_comes_later_is_none_of_it(self):
        with pytest.raises(ZeroDivisionError) as caught:
            1 / 0  # noqa: B018
        assert describe_misbuilt(caught.value) is None


class TestChannels:
    """Maps of a RecNeXt beside what follows it takes."""

    def model(self, **parts):
        class Part(nn.Module):
            def __init__(self, **settings):
                super().__init__()
                vars(self).update(settings)

        model = nn.Module()
        model.backbone = RecNeXt('m0')
        for name, settings in parts.items():
            setattr(model, name, Part(**settings))
        return model

    @pytest.mark.parametrize(
        'parts',
        [
            dict(neck=dict(in_channels=[40, 80, 160, 320], lateral_convs=())),
            dict(neck=dict(in_channels=[512])),  # of another kind
            dict(decode_head=dict(in_channels=320, in_index=-1, input_transform=None)),
            dict(
                decode_head=dict(
                    in_channels=240, in_index=[1, 2], input_transform='resize_concat'
                )
            ),
        ],
    )
    def test_the_same_passes(self, parts):
        check_channels(self.model(**parts))

    @pytest.mark.parametrize(
        ('parts', 'message'),
        [
            (
                dict(neck=dict(in_channels=[64, 128], lateral_convs=())),
                r'^model\.neck\.in_channels=\[64, 128\], .* of \[40, 80, 160, 320\]',
            ),
            (
                dict(
                    decode_head=dict(in_channels=2048, in_index=3, input_transform=None)
                ),
                r'^model\.decode_head\.in_channels=\[2048\], .* of \[320\] channels',
            ),
            (
                dict(
                    auxiliary_head=dict(
                        in_channels=[80, 64],
                        in_index=[1, 2],
                        input_transform='multiple_select',
                    )
                ),
                r'^model\.auxiliary_head\.in_channels=\[80, 64\], .* of \[80, 160\]',
            ),
            (
                dict(
                    neck=dict(num_outs=5),
                    rpn_head=dict(prior_generator=Namespace(num_levels=2)),
                ),
                r'anchors of model\.rpn_head have 2 strides, .*\.neck gives 5 maps',
            ),
            (
                dict(decode_head=dict(in_channels=320, in_index=4)),
                r'^model\.decode_head\.in_index=4, .* 4 maps, counted from 0',
            ),
            (
                dict(neck=dict(num_outs=4), decode_head=dict(in_index=[0, 1, 2, 7])),
                r'^model\.decode_head\.in_index=\[0, 1, 2, 7\], .* 4 maps, ',
            ),
        ],
    )
    def test_others_are_told_with_the_right_ones(self, parts, message):
        with pytest.raises(ConfigError, match=message):
            check_channels(self.model(**parts))


def test_fine_tuning_from_what_does_not_fit_at_all_is_refused():
    runner = Namespace(
        model=nn.Linear(2, 2), strict=False, _resume=False, _load_from='x.pth'
    )
    ValuesHook().after_load_checkpoint(runner, {'weight': torch.zeros(2, 2)})
    for weights in ({'head.weight': torch.zeros(2)}, {'weight': torch.zeros(3, 3)}):
        with pytest.raises(CheckpointError, match=r'nothing in x\.pth fits .*init_cfg'):
            ValuesHook().after_load_checkpoint(runner, weights)


def test_label_maps_counted_in_two_ways_are_not_called_unreadable(tmp_path):
    path = str(tmp_path / 'map.png')
    cv2.imwrite(path, np.ones((8, 8), np.uint8))
    results = dict(seg_map_path=path, reduce_zero_label=False, seg_fields=[])
    steps = [LoadAnnotations(reduce_zero_label=True)]
    with pytest.raises(DataError, match=r'map\.png .*`reduce_zero_label` is True'):
        CheckedPipeline(steps, 2, {255})(results)


def test_what_no_data_loader_takes_is_told():
    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return 4

    loader = dict(dataset=Data(), sampler=None, batch_size=2, workers=4)
    with pytest.raises(ConfigError, match=r"cannot be built: .* argument 'workers'"):
        Runner.build_dataloader(loader)


def test_the_best_by_a_figure_that_is_not_measured_is_told():
    hook = CheckpointHook(save_best='mAP', rule='greater')
    with pytest.raises(ConfigError, match=r'no figure mAP; it is auto or .*bbox_mAP'):
        hook._save_best_checkpoint(None, {'coco/bbox_mAP': 0.5})


class TestOverrides:
    """Settings of the command line that the config has made use of already."""

    cfg = Config(
        dict(
            data_root='data/',
            max_epochs=3,
            width=3,
            pipeline=[dict(type='Resize')],
            model=dict(width=64),
            train_dataloader=dict(
                dataset=dict(data_root='data/', pipeline=[dict(type='Resize')])
            ),
            train_cfg=dict(max_epochs=3),
            param_scheduler=[dict(T_max=3)],
        )
    )

    @pytest.mark.parametrize(
        ('option', 'right'),
        [
            ('max_epochs', r'train_cfg\.max_epochs; set that$'),
            ('pipeline.0.scale', r'train_dataloader\.dataset\.pipeline; set that$'),
            ('data_root', r'train_dataloader\.dataset\.data_root; .*--data-root$'),
        ],
    )
    def test_they_are_told_with_what_was_made_of_them(self, option, right):
        with pytest.raises(ConfigError, match=f'changes nothing: .* is {right}'):
            check_overrides(self.cfg, {option: 1})

    @pytest.mark.parametrize(
        'options',
        [
            {'width': 5},  # perhaps of a hook of the user's own
            {'max_epochs': 5, 'train_cfg.max_epochs': 5},
            {'train_cfg.max_epochs': 5},
        ],
    )
    def test_others_pass(self, options):
        check_overrides(self.cfg, options)


def test_a_full_folder_of_temporary_files_is_named():
    told = f'too large in {tempfile.gettempdir()}'
    with pytest.raises(ConfigError, match=told), files_ended():
        read_config('mask_rcnn_recnext_m0_shapes.py')
