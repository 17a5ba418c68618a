"""Configs of a user's own: own modules, plain Python, other bands, other packages."""

import sys
from textwrap import dedent

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from torch import nn

from mmrecnext import swap_backbone
from mmrecnext.engine.configs import import_modules, load_config, read_config
from mmrecnext.engine.settings import check_settings
from mmrecnext.errors import ConfigError, OptionError
from mmrecnext.swap import plain, write_config
from mmrecnext.swap.measure import measure_backbone, measure_necks
from tests.helpers import check, more_bands, run_tool
from tests.zoo.trial import build_model

pytestmark = pytest.mark.slow

RETINANET = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
DIMS = [24, 48, 96, 192]
MODULE = """
    from mmdet.registry import MODELS
    from torch import nn

    @MODELS.register_module()
    class FromStride8(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, 4, 1)
            dims = (8, 24, 48, 96, 192)
            self.stages = nn.ModuleList(
                nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(dims, dims[1:])
            )

        def forward(self, x):
            x = self.stem(x)
            return [x := stage(x) for stage in self.stages]
"""
FROM_STRIDE_8 = f"""
    _base_ = '{RETINANET}'
    custom_imports = dict(imports=['from_stride_8'])
    model = dict(
        backbone=dict(_delete_=True, type='FromStride8'),
        neck=dict(in_channels={DIMS}, start_level=0),
    )
"""
PLAIN_PYTHON_BASE = """
    import string
    from functools import partial

    from mmengine.hooks import CheckpointHook
    from mmdet.datasets import CocoDataset

    default_scope = None
    default_hooks = dict(checkpoint=dict(type=CheckpointHook, interval=1))
    metainfo = CocoDataset.METAINFO
    letters = string.digits
"""
PLAIN_PYTHON = """
    import torch
    from mmengine.config import read_base
    from mmengine.optim import OptimWrapper
    from mmdet.models import (
        FPN, DetDataPreprocessor, FocalLoss, L1Loss, ResNet, RetinaHead, RetinaNet
    )
    from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder
    from torch.nn import SyncBatchNorm
    from torch.optim import AdamW

    with read_base():
        from .base import *

    model = dict(
        type=RetinaNet,
        data_preprocessor=dict(type=DetDataPreprocessor, mean=[0.0], std=[255.0]),
        backbone=dict(type=ResNet, depth=50, norm_cfg=dict(type=SyncBatchNorm)),
        neck=dict(
            type=FPN,
            in_channels=[256, 512, 1024, 2048],
            out_channels=16,
            num_outs=5,
            norm_cfg=dict(type=torch.nn.BatchNorm2d),
        ),
        bbox_head=dict(
            type=RetinaHead,
            num_classes=3,
            in_channels=16,
            feat_channels=16,
            anchor_generator=dict(
                type=AnchorGenerator,
                octave_base_scale=4,
                scales_per_octave=3,
                ratios=[0.5, 1.0, 2.0],
                strides=[4, 8, 16, 32, 64],
            ),
            bbox_coder=dict(type=DeltaXYWHBBoxCoder),
            loss_cls=dict(type=FocalLoss, use_sigmoid=True),
            loss_bbox=dict(type=L1Loss),
        ),
    )
    optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-4))
"""


def strides_of(model):
    maps = measure_backbone(model, 'model', 'mmdet')
    return [m.stride for m in measure_necks(maps, [model.neck], 'model', 'mmdet')]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a config whose backbone is in a module beside it."""
    (tmp_path / 'from_stride_8.py').write_text(dedent(MODULE))
    (tmp_path / 'mine.py').write_text(dedent(FROM_STRIDE_8))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop('from_stride_8', None)
    MODELS.module_dict.pop('FromStride8', None)


class TestOwnModule:
    def test_it_is_imported_and_measured_by_path_and_in_python(
        self, folder, monkeypatch
    ):
        with pytest.raises(
            ConfigError, match=r'custom_imports: from_stride_8 .*PYTHONPATH'
        ) as error:
            swap_backbone('mine.py', 'm0', pretrained=False)
        assert '\n' not in str(error.value)
        with pytest.raises(ConfigError, match='custom_imports: from_stride_8'):
            load_config('mine.py')
        monkeypatch.syspath_prepend(folder)
        new = swap_backbone('mine.py', 'm0', pretrained=False)
        read = swap_backbone(Config.fromfile('mine.py'), 'm0', pretrained=False)
        assert plain(new) == plain(read)
        # The anchors of the old one began at stride 8, as this backbone's maps did.
        assert new.model.backbone.out_indices == (1, 2, 3)
        assert strides_of(new.model) == [8, 16, 32, 64, 128]
        t = swap_backbone('mine.py', 't', pretrained=False).model
        assert strides_of(t) == t.bbox_head.anchor_generator.strides

    def test_what_a_module_does_wrong_is_told_in_a_line(self, folder, monkeypatch):
        monkeypatch.syspath_prepend(folder)
        (folder / 'from_stride_8.py').write_text('1 / 0')
        with pytest.raises(ConfigError, match=r'from_stride_8.*ZeroDivisionError'):
            swap_backbone('mine.py', 'm0', pretrained=False)

    @pytest.mark.parametrize('wrong', [['a'], dict(imports=3), dict(imports=[1])])
    def test_imports_of_another_form(self, wrong):
        with pytest.raises(ConfigError, match=r'custom_imports: .* is not as dict'):
            import_modules(Config(dict(custom_imports=wrong)))


class Net(nn.Module):
    """Takes images of four bands, by timm's name, and no other option."""

    def __init__(self, in_chans=4):
        super().__init__()
        self.conv = nn.Conv2d(in_chans, 8, 3, 4, 1)

    def forward(self, x):
        return (self.conv(x),)


def with_backbone(backbone, channels):
    cfg = read_config(RETINANET)
    cfg.model.backbone = ConfigDict(backbone)
    cfg.model.neck.in_channels = channels
    cfg.model.neck.start_level = 0
    return cfg


class Shaped(nn.Module):
    """Gives what a function makes of one map of eight channels."""

    def __init__(self, make):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 4, 1)
        self.make = make

    def forward(self, x):
        return self.make(self.conv(x))


NO_MAPS = {
    'a vector': (lambda x: x.mean((2, 3)), r'list of \[1, 8\]'),
    'vectors': (lambda x: (x.mean((2, 3)),), r'tuple of \[1, 8\]'),
    'tokens': (lambda x: [x.flatten(2).mT], r'list of \[1, 16384, 8\]'),
    'a row of tokens': (lambda x: [x.flatten(2)[:, :, None]], r'\[1, 8, 1, 16384\]'),
    'tokens as a map': (lambda x: [x.flatten(2).mT[:, None]], r'\[1, 1, 16384, 8\]'),
    'more than the image': (lambda x: [x.tile(1, 1, 16, 16)], r'\[1, 8, 2048, 2048\]'),
    'no pixels': (lambda x: [x[..., :0, :0]], r'\[1, 8, 0, 0\]'),
    'nothing': (lambda x: (), 'tuple of nothing'),
    'maps in lists': (lambda x: [[x]], r'list of list of \[1, 8, 128, 128\]'),
    'maps by name': (lambda x: dict(res2=x), 'a dict'),
}


class TestMeasuredOrRefused:
    @pytest.mark.parametrize('what', NO_MAPS)
    def test_what_gives_no_maps(self, what):
        make, described = NO_MAPS[what]
        cfg = with_backbone(dict(type=Shaped, make=make), [8])
        message = (
            f'^model.backbone: Shaped gives .*{described} for an image of 512 x 512, '
            'not maps'
        )
        with pytest.raises(ConfigError, match=message):
            swap_backbone(cfg, 'm0', pretrained=False)

    @pytest.mark.parametrize('wrong', [[0], [4, 8, 16, -32], [], [4.0], '4', 4])
    def test_strides_that_are_none(self, wrong):
        with pytest.raises(OptionError, match=r'^strides are positive integers, got'):
            swap_backbone(RETINANET, 'm0', pretrained=False, strides=wrong)

    def test_strides_that_are_not_known_are_asked_for(self):
        cfg = with_backbone(dict(type='mmyolo.Unknown'), DIMS)
        with pytest.raises(ConfigError, match=r'Unknown cannot be built.*--strides'):
            swap_backbone(cfg, 'm0', pretrained=False)
        given = swap_backbone(cfg, 'm0', pretrained=False, strides=[8, 16, 32, 64])
        assert given.model.backbone.out_indices == (1, 2, 3)
        with pytest.raises(ConfigError, match='lists the channels of its 2 maps'):
            swap_backbone(cfg, 'm0', pretrained=False, strides=[8, 16])
        with pytest.raises(ConfigError, match=r'\[4, 8, 16, 32\], not \[8, 16, 32'):
            swap_backbone(RETINANET, 'm0', pretrained=False, strides=[8, 16, 32, 64])

    @pytest.mark.parametrize('package', ['mmpretrain', 'mmcls'])
    def test_mmpretrain_need_not_be_installed(self, package):
        backbone = dict(
            type=f'{package}.ConvNeXt',
            arch='tiny',
            out_indices=(1, 2, 3),
            gap_before_final_norm=False,
        )
        cfg = with_backbone(backbone, [192, 384, 768])
        cfg.custom_imports = dict(imports=[f'{package}.models'])
        new = swap_backbone(cfg, 'm0', pretrained=False)
        assert new.model.backbone.out_indices == (1, 2, 3)
        assert new.custom_imports is None
        cfg.model.backbone.dilations = (1, 1, 1, 2)
        with pytest.raises(ConfigError, match='ConvNeXt cannot be built'):
            swap_backbone(cfg, 'm0', pretrained=False)

    def test_weights_are_not_looked_for(self):
        cfg = read_config('mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py')
        cfg.model.pretrained = None
        cfg.model.backbone = ConfigDict(
            type='TIMMBackbone', model_name='resnet18', out_indices=(1, 2, 3, 4)
        )
        cfg.model.decode_head.in_channels = 512
        cfg.model.auxiliary_head.in_channels = 256
        new = swap_backbone(cfg, 'm0', pretrained=False)
        assert new.model.decode_head.in_channels == 320


class TestBands:
    @pytest.mark.parametrize(
        'bands', [1, *(pytest.param(n, marks=more_bands) for n in (2, 4, 5))]
    )
    @pytest.mark.parametrize('conversion', [False, True])
    def test_normalisation_stays(self, bands, conversion):
        cfg = read_config('mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py')
        mean, std = [[start + i for i in range(bands)] for start in (100.0, 50.0)]
        cfg.model.pretrained = None
        cfg.model.backbone.in_channels = bands
        cfg.model.data_preprocessor.update(mean=mean, std=std, bgr_to_rgb=conversion)
        new = swap_backbone(cfg, 'm0', pretrained=False).model
        assert new.backbone.in_channels == bands
        preprocessor = new.data_preprocessor
        assert (preprocessor.mean, preprocessor.std) == (mean, std)
        assert not preprocessor.bgr_to_rgb
        model = build_model(swap_backbone(cfg, 'm0', pretrained=False)).eval()
        image = torch.randint(0, 255, (bands, 64, 64), dtype=torch.uint8)
        batch = model.data_preprocessor(dict(inputs=[image]), False)
        assert batch['inputs'].shape == (1, bands, 64, 64)

    def test_numbers_for_other_bands(self):
        cfg = with_backbone(dict(type=Net), [8])
        with pytest.raises(ConfigError, match=r'mean: 3 values .* give 1 or 4'):
            swap_backbone(cfg, 'm0', pretrained=False)
        cfg.model.data_preprocessor.update(mean=[7.0], std=[9.0])
        new = swap_backbone(cfg, 'm0', pretrained=False)
        assert new.model.backbone.in_channels == 4
        assert new.model.data_preprocessor.mean == [7.0]


@pytest.mark.parametrize('kind', [list, tuple])
def test_a_list_of_initialisations(kind):
    cfg = read_config(RETINANET)
    xavier = dict(type='Xavier', layer='Conv2d')
    inits = [xavier, dict(type='Pretrained', checkpoint='mine.pth')]
    cfg.model.init_cfg = kind(inits)
    cfg.model.backbone.init_cfg = kind(inits)
    new = swap_backbone(cfg, 'm0', pretrained=False)
    assert new.model.init_cfg == [xavier]
    build_model(new).init_weights()
    cfg.model.init_cfg = kind(inits[1:])
    new = swap_backbone(cfg, 'm0', pretrained=False)
    assert new.model.init_cfg == []
    build_model(new).init_weights()


def test_networks_of_trackers_stay():
    name = (
        'mmdet::deepsort/deepsort_faster-rcnn_r50_fpn_8xb2-4e_'
        'mot17halftrain_test-mot17halfval.py'
    )
    old = read_config(name)
    old.model.reid.data_preprocessor.update(
        mean=[1.0, 2.0, 3.0],
        std=[4.0, 5.0, 6.0],
        to_rgb=True,
        pad_size_divisor=32,
        steps=[dict(type='Normalize', mean=[0.0], std=[1.0])],
    )
    for arch in ('m0', 't'):
        new = swap_backbone(old, arch, pretrained=False)
        assert plain(new)['model']['reid'] == plain(old)['model']['reid']


@pytest.fixture
def plain_python(tmp_path):
    """A config with ``read_base`` and classes in the place of their names."""
    (tmp_path / 'base.py').write_text(dedent(PLAIN_PYTHON_BASE))
    (tmp_path / 'mine.py').write_text(dedent(PLAIN_PYTHON))
    return tmp_path / 'mine.py'


class TestPlainPython:
    def test_it_is_read_by_names_and_values(self, plain_python):
        cfg = load_config(plain_python)
        assert cfg.default_scope == 'mmdet'
        assert cfg.model.type == 'mmdet.models.RetinaNet'
        assert cfg.model.neck.norm_cfg.type == 'torch.nn.BatchNorm2d'
        assert cfg.optim_wrapper.optimizer.type == 'torch.optim.AdamW'
        assert len(cfg.metainfo['classes']) == 80
        assert set(cfg) == {
            *('default_scope', 'default_hooks', 'metainfo', 'letters', 'model'),
            'optim_wrapper',
        }
        shapes = {k: v.shape for k, v in build_model(cfg).state_dict().items()}
        lazy = Config.fromfile(plain_python)
        lazy.model.backbone.norm_cfg = dict(type='BN')
        expected = MODELS.build(lazy.model).state_dict()
        assert shapes == {k: v.shape for k, v in expected.items()}

    def test_swapped_written_and_read_back(self, plain_python):
        new = swap_backbone(plain_python, 'm0', pretrained=False)
        assert plain(new) == plain(
            swap_backbone(Config.fromfile(plain_python), 'm0', pretrained=False)
        )
        assert new.model.backbone.norm_cfg.type == 'SyncBN'
        out = plain_python.with_name('new.py')
        assert write_config(new, out) == ''
        text = out.read_text()
        assert 'with read_base():\n    from .mine import *\n' in text
        assert 'from mmrecnext import RecNeXt\n' in text and 'type=RecNeXt' in text
        assert plain(read_config(out)) == plain(new)
        model = Config.fromfile(out).model
        model.backbone.norm_cfg = dict(type='BN')
        assert list(MODELS.build(model).state_dict()) == list(
            build_model(new).state_dict()
        )

    def test_from_another_folder(self, plain_python):
        new = swap_backbone(plain_python, 'm0', pretrained=False)
        folder = plain_python.parent / 'a' / 'b'
        assert write_config(new, folder / 'new.py') == ''
        assert 'from ...mine import *' in (folder / 'new.py').read_text()
        again = swap_backbone(folder / 'new.py', 'm1', pretrained=False)
        assert write_config(again, folder / 'newer.py') == ''
        assert 'from .new import *' in (folder / 'newer.py').read_text()
        assert plain(read_config(folder / 'newer.py')) == plain(again)

    def test_what_python_cannot_import_is_written_entirely(self, plain_python):
        dashed = plain_python.rename(plain_python.with_name('my-own.py'))
        new = swap_backbone(dashed, 'm0', pretrained=False)
        out = plain_python.with_name('new.py')
        assert write_config(new, out) == 'my-own.py is nothing that Python can import'
        text = out.read_text()
        assert 'read_base' not in text
        for line in (
            '    DetDataPreprocessor, FPN, FocalLoss, L1Loss, RetinaHead, RetinaNet,',
            'from mmengine.hooks import CheckpointHook',
            'from torch.nn import BatchNorm2d',
            '        type=DetDataPreprocessor,',
        ):
            assert line in text
        assert plain(read_config(out)) == plain(new)

    def test_a_setting_that_is_gone_is_written_entirely(self, plain_python):
        new = swap_backbone(plain_python, 'm0', pretrained=False)
        new.pop('letters')
        out = plain_python.with_name('new.py')
        assert 'do not read back' in write_config(new, out)
        assert plain(read_config(out)) == plain(new)

    def test_weights_by_the_class_that_reads_them(self, plain_python):
        text = plain_python.read_text()
        weights = "init_cfg=dict(type=PretrainedInit, checkpoint='mine.pth')"
        text = text.replace('type=RetinaNet,', f'type=RetinaNet, {weights},')
        head = 'from mmengine.model.weight_init import PretrainedInit\n'
        plain_python.write_text(head + text)
        assert swap_backbone(plain_python, 'm0').model.init_cfg is None

    @pytest.mark.parametrize('name', ['mine', 'base'])
    def test_no_config_that_is_read_is_overwritten(self, plain_python, name):
        new = swap_backbone(plain_python, 'm0', pretrained=False)
        with pytest.raises(ConfigError, match='or one that it inherits from'):
            write_config(new, plain_python.with_name(f'{name}.py'))

    def test_what_text_cannot_say(self, plain_python):
        plain_python.write_text(f'{plain_python.read_text()}dtype = torch.float16\n')
        new = swap_backbone(plain_python, 'm0', pretrained=False)
        with pytest.raises(ConfigError, match=r'^dtype: float16 cannot be written'):
            write_config(new, plain_python.with_name('new.py'))

    def test_the_tool(self, plain_python):
        out = plain_python.with_name('new.py')
        options = ['--arch', 'm0', '--from-scratch', '--out', out]
        said = check(run_tool('tools/swap_backbone.py', plain_python, *options))
        assert 'mmrecnext.RecNeXt' in said and f'Written to {out}\n' in said

    def test_a_model_alone_is_not_run(self, plain_python):
        cfg = load_config(plain_python)
        message = '^mine.py has no train_dataloader and no train_cfg: add it$'
        with pytest.raises(ConfigError, match=message):
            check_settings(cfg, ('train', 'val'), 'mine.py')
