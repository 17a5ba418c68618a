"""A swapped config, written and read back."""

import pytest
from mmengine.config import Config

from mmrecnext.errors import ConfigError
from mmrecnext.swap import changes, plain, read_config, swap_backbone, write_config
from mmrecnext.swap.files import ABSENT, delta, render
from tests.helpers import run_tool
from tests.zoo.trial import build_model

SOFT_TEACHER = (
    'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
)
SAMPLE = {
    'mmdet::mask_rcnn/mask-rcnn_r50-caffe_fpn_1x_coco.py': 25,
    'mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py': 60,
    'mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py': 30,
    'mmdet::libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py': 30,
    SOFT_TEACHER: 40,
    'mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py': 120,
    'mmseg::ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024.py': 80,
    'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py': 25,
    'mmseg::fastfcn/fastfcn_r50-d32_jpu_psp_4xb2-80k_cityscapes-512x1024.py': 25,
}
"""Configs, and how many lines their deltas may take."""


def weights_of(cfg):
    return {k: v.shape for k, v in build_model(cfg, weights=False).state_dict().items()}


@pytest.mark.parametrize('name', SAMPLE)
def test_written_and_read_back_it_is_the_same(name, tmp_path):
    new = swap_backbone(name, 'm1')
    out = tmp_path / 'new' / 'swapped.py'
    assert write_config(new, out) == ''
    text = out.read_text()
    assert text.startswith(f'_base_ = {name!r}\n')
    assert len(text.splitlines()) <= SAMPLE[name]
    back = Config.fromfile(out)
    assert plain(back) == plain(new)
    assert weights_of(back) == weights_of(new)


def test_a_config_in_a_file_of_ones_own(tmp_path):
    (tmp_path / 'mine.py').write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n"
        'model = dict(bbox_head=dict(num_classes=3))\n'
    )
    new = swap_backbone(tmp_path / 'mine.py', 'm0')
    out = tmp_path / 'out' / 'swapped.py'
    assert write_config(new, out) == ''
    assert out.read_text().startswith("_base_ = '../mine.py'\n")
    assert Config.fromfile(out).model.bbox_head.num_classes == 3


def test_a_config_in_no_file_is_written_entirely(tmp_path):
    cfg = plain(read_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'))
    new = swap_backbone(cfg, 'm0')
    out = tmp_path / 'swapped.py'
    assert 'in no file' in write_config(new, out)
    assert not out.read_text().startswith('_base_')
    assert plain(Config.fromfile(out)) == plain(new)


def test_a_config_changed_after_it_was_read_is_written_with_the_change(tmp_path):
    cfg = read_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    cfg.model.bbox_head.num_classes = 3
    out = tmp_path / 'swapped.py'
    assert write_config(swap_backbone(cfg, 'm0'), out) == ''
    assert Config.fromfile(out).model.bbox_head.num_classes == 3


def test_a_setting_that_is_gone_is_written_entirely(tmp_path):
    new = swap_backbone('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'm0')
    new.pop('auto_scale_lr')  # which no delta can take back
    out = tmp_path / 'swapped.py'
    assert 'do not read back' in write_config(new, out)
    assert plain(Config.fromfile(out)) == plain(new)


@pytest.fixture
def family(tmp_path):
    """A config of one's own, the file that it inherits from, and links to both."""
    (tmp_path / 'parent.py').write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n"
    )
    (tmp_path / 'child.py').write_text("_base_ = '{{ fileDirname }}/parent.py'\n")
    for name in ('parent', 'child'):
        (tmp_path / f'link_to_{name}.py').symlink_to(f'{name}.py')
    return tmp_path


@pytest.mark.parametrize(
    'out',
    ['child.py', 'parent.py', './child.py', 'link_to_child.py', 'link_to_parent.py'],
)
def test_no_config_that_is_read_is_overwritten(out, family, monkeypatch):
    monkeypatch.chdir(family)
    before = {file: file.read_text() for file in family.iterdir()}
    new = swap_backbone('child.py', 'm0')
    with pytest.raises(
        ConfigError, match='the config to swap, or one that it inherits'
    ):
        write_config(new, out, 'child.py')
    assert {file: file.read_text() for file in family.iterdir()} == before


@pytest.mark.parametrize('out', ['new', 'new/', 'new.txt', 'new.pth'])
def test_what_is_named_like_no_config_is_not_written(out, family):
    new = swap_backbone(family / 'child.py', 'm0')
    with pytest.raises(ConfigError, match=r'no name of a config, which ends in \.py, '):
        write_config(new, f'{family}/{out}')


def test_what_cannot_be_read_back_replaces_nothing(family):
    new = swap_backbone(family / 'child.py', 'm0')
    new.model.backbone.norm_cfg = object()  # whose code is none
    out = family / 'mine.py'
    out.write_text('mine = 1\n')
    before = sorted(family.iterdir())
    with pytest.raises(ConfigError, match=r'norm_cfg: <object.* cannot be written'):
        write_config(new, out)
    assert out.read_text() == 'mine = 1\n'
    assert sorted(family.iterdir()) == before


def test_changes_name_every_field_once():
    old = dict(a=1, b=dict(type='x', c=[dict(d=1), dict(d=2)], e=3), f=dict(type='y'))
    new = dict(a=1, b=dict(type='x', c=[dict(d=1), dict(d=5)], g=4), f=dict(type='z'))
    assert list(changes(old, new)) == [
        ('b.c[1].d', 2, 5),
        ('b.e', 3, ABSENT),
        ('b.g', ABSENT, 4),
        ('f', dict(type='y'), dict(type='z')),
    ]


def test_delta_keeps_tuples_and_deletes():
    assert delta(dict(a=(1,), b=2), dict(a=[1], b=2)) == dict(a=[1])
    assert delta(dict(a=dict(x=1, y=2)), dict(a=dict(x=1))) == dict(
        a=dict(_delete_=True, x=1)
    )


@pytest.mark.parametrize(
    'value',
    [
        (1,),
        [],
        {},
        'text',
        {'a.b': 1, 'c': (2, [3])},
        dict(long=['word' * 5] * 9, empty=(), nested=dict(more=['word' * 5] * 9)),
    ],
    ids=str,
)
def test_rendered_settings_are_code(value):
    code = render(value, {})
    assert eval(code) == value
    assert max(map(len, code.splitlines())) <= 88


class TestTool:
    @pytest.mark.slow
    def test_shows_and_writes(self, tmp_path):
        name = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
        out = tmp_path / 'swapped.py'
        result = run_tool(
            'tools/swap_backbone.py', name, '--arch', 'm0', '--out', out, COLUMNS='40'
        )
        assert result.returncode == 0, result.stderr
        for name in ('model.neck.in_channels', 'torchvision://resnet50', "arch='m0'"):
            assert name in result.stdout
        assert '[40, 80, 160, 320]' in result.stdout
        assert f'Written to {out}\n' in result.stdout
        assert Config.fromfile(out).model.backbone.arch == 'm0'

    @pytest.mark.slow
    def test_tells_what_it_cannot_do_in_a_line(self):
        result = run_tool('tools/swap_backbone.py', 'mmdet::ssd/ssd300_coco.py')
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1].startswith(
            'swap_backbone.py: error: model.backbone: SSDVGG cannot be swapped'
        )
        assert 'Traceback' not in result.stderr
