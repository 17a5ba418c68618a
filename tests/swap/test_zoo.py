"""The swap over a config of every type of detector and segmentor, and its report."""

import re
import sys
from importlib.util import find_spec
from math import nan

import pytest
import torch
from mmengine.model import BaseModel

from mmrecnext import RecNeXt
from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.errors import OptionError
from mmrecnext.swap import read_config
from tests.helpers import ON_FORK, ROOT, run_tool
from tests.zoo.configs import SIDE, Training, check, swap, zoo
from tests.zoo.gather import Options, elsewhere
from tests.zoo.report import interpreters, parse_args, report
from tests.zoo.trial import Trial, attempt, batch_for, train_step

pytestmark = [pytest.mark.usefixtures('quiet'), pytest.mark.slow]

TINY = dict(base='m0', depths=(1, 1, 1, 1))
REPORT = (ROOT / 'docs' / 'zoo_report.md').read_text()
TYPES = [
    'mmdet::atss/atss_r50_fpn_1x_coco.py',
    'mmdet::autoassign/autoassign_r50-caffe_fpn_1x_coco.py',
    'mmdet::bytetrack/bytetrack_yolox_x_8xb4-80e_crowdhuman-mot20train_test-mot20test.py',
    'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    'mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py',
    'mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py',
    'mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
    'mmdet::crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman.py',
    'mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py',
    'mmdet::ddod/ddod_r50_fpn_1x_coco.py',
    'mmdet::ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py',
    'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'mmdet::detr/detr_r18_8xb2-500e_coco.py',
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    'mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py',
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'mmdet::foveabox/fovea_r50_fpn_4xb4-1x_coco.py',
    'mmdet::fsaf/fsaf_r50_fpn_1x_coco.py',
    'mmdet::gfl/gfl_r50_fpn_1x_coco.py',
    'mmdet::grid_rcnn/grid-rcnn_r50_fpn_gn-head_1x_coco.py',
    'mmdet::htc/htc_r50_fpn_1x_coco.py',
    'mmdet::lad/lad_r101-paa-r50_fpn_2xb8_coco_1x.py',
    'mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py',
    'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    'mmdet::mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2019.py',
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'mmdet::maskformer/maskformer_r50_ms-16xb1-75e_coco.py',
    'mmdet::masktrack_rcnn/masktrack-rcnn_mask-rcnn_r50_fpn_8xb1-12e_youtubevis2019.py',
    'mmdet::ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py',
    'mmdet::nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco.py',
    'mmdet::ocsort/ocsort_yolox_x_8xb4-amp-80e_crowdhuman-mot20train_test-mot20test.py',
    'mmdet::paa/paa_r50_fpn_1x_coco.py',
    'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
    'mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py',
    'mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_4e_base.py',
    'mmdet::queryinst/queryinst_r50_fpn_1x_coco.py',
    'mmdet::reppoints/reppoints-moment_r50_fpn_1x_coco.py',
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'mmdet::rpn/rpn_r50_fpn_1x_coco.py',
    'mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py',
    'mmdet::scnet/scnet_r50_fpn_1x_coco.py',
    'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
    'mmdet::solo/solo_r50_fpn_1x_coco.py',
    'mmdet::solov2/solov2_r50_fpn_1x_coco.py',
    'mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
    'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
    'mmdet::tood/tood_r50_fpn_1x_coco.py',
    'mmdet::vfnet/vfnet_r50_fpn_1x_coco.py',
    'mmdet::yolact/yolact_r50_1xb8-55e_coco.py',
    'mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py',
    'mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py',
    'mmdet::yolox/yolox_l_8xb8-300e_coco.py',
    'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    'mmseg::ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512.py',
]
"""One config of each type that needs no package beyond the frameworks."""

TRAINED = [
    'mmdet::detr/detr_r18_8xb2-500e_coco.py',
    'mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py',
    'mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py',
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
    'mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_4e_base.py',
    'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    'mmseg::dmnet/dmnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    'mmseg::ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512.py',
]


@pytest.mark.parametrize('name', TYPES)
def test_every_type_is_swapped_and_built(name):
    row = check((name, ['m0'], {}))
    if absent := re.search(
        r'before the swap as well: \w+: (\w+) is not installed', row.problem
    ):
        assert find_spec(absent[1]) is None  # a tracker's own need
        return
    assert row.problem == ''
    assert row.swapped and row.built and row.counts


@pytest.mark.parametrize('name', TRAINED)
def test_they_train_and_predict(name):
    trial = attempt(swap(name, read_config(name), ['m0'], {}), SIDE)
    assert trial.faults == ()
    assert 0 < trial.loss < 1e4
    assert trial.predictions >= 1


def test_panoptic_pictures_come_with_masks():
    for name, masks in (
        ('mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py', True),
        ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', False),
    ):
        batch = batch_for(read_config(name), 64, training=True)
        assert ('masks' in batch['data_samples'][0].gt_instances) is masks


class Stuck(BaseModel):
    """Learns from the first map alone, if at all."""

    def __init__(self, factor):
        super().__init__()
        self.backbone = RecNeXt(TINY)
        self.factor = factor

    def forward(self, inputs, mode):
        return dict(loss=self.factor * self.backbone(inputs)[0].square().mean())


def test_what_is_wrong_is_seen():
    batch = dict(inputs=torch.randn(2, 3, 64, 64))
    _, faults = train_step(Stuck(1.0), batch)
    assert 'backbone.stages.1.blocks.0.norm.weight has no finite gradient' in faults
    assert not any('stages.0' in fault for fault in faults)
    _, faults = train_step(Stuck(float('nan')), batch)
    assert 'loss is nan' in faults
    assert any('stem' in fault for fault in faults)


@pytest.mark.parametrize(
    ('name', 'swapped', 'counts', 'problem'),
    [
        ('mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py', False, True, 'Trident'),
        (
            'mmseg::mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py',
            *[False] * 2,
            'MAE',
        ),
        ('mmdet::common/ms_3x_coco.py', False, False, 'part of other configs'),
        (
            'mmdet::reid/reid_r50_8xb32-6e_mot15train80_test-mot15val20.py',
            *[False] * 2,
            'classifier of whole pictures',
        ),
        (
            'mmdet::sort/faster-rcnn_r50_fpn_8xb2-4e_mot17train_test-mot17train.py',
            *[False] * 2,
            'does not exist',
        ),
    ],
)
def test_what_does_not_pass_says_why(name, swapped, counts, problem):
    row = check((name, ['m0'], {}))
    assert (row.swapped, row.counts, row.built) == (swapped, counts, False)
    assert problem in row.problem


def test_the_first_that_fits_is_taken():
    name = 'mmdet::rtmdet/rtmdet_x_p6_4xb8-300e_coco.py'  # strides of 8 to 64
    row = check((name, ['m0', 't'], {}))
    assert (row.swapped, row.built) == (True, True)
    row = check((name, ['m0', 'a0'], {}))
    assert 'those of this RecNeXt are [4, 8, 16, 32]' in row.problem


def test_the_tool_reports(tmp_path):
    out = tmp_path / 'report.md'
    command = ('-m', 'tests.zoo.report', '--only', 'mmdet::tridentnet', '--out', out)
    here = ('--frameworks', 'mmdet', '--jobs', '1')
    elsewhere = ('--python', f'mmseg={sys.executable}')  # in a process of its own
    result = run_tool(*command, *here, *elsewhere)
    assert result.returncode == 0, result.stderr
    text = out.read_text()
    assert '| MMDetection | 3 | 3 | 0 | 0.0 % | 0 | 0.0 % | 0 | 0 | 0 | 0 |' in text
    names = [n.partition('::')[2] for n in zoo(['mmdet']) if 'mmdet::trident' in n]
    (line,) = [line for line in text.splitlines() if 'triple the batch' in line]
    assert line.startswith(f'| 3 | {", ".join(f"`{name}`" for name in names)} | ')
    assert f'- mmseg: {FRAMEWORKS["mmseg"].distribution} ' in text
    assert '## MMSegmentation' not in text


def test_names_of_no_config():
    with pytest.raises(
        OptionError, match=r'^--only nothing: in the name of no config$'
    ):
        report([], Options(['m3'], 'nothing', 1))


@pytest.mark.parametrize('given', ['mmdet', 'mmdet=', 'other=python'])
def test_environments_of_no_framework(given):
    with pytest.raises(OptionError, match=r'^--python .* not as NAME=FILE'):
        interpreters([given])


def test_an_environment_that_fails(tmp_path):
    options = Options(['m3'], '', 1)
    with pytest.raises(OptionError, match=r'^--python mmdet=.*/none: .*No such file'):
        elsewhere(f'{tmp_path}/none', ['mmdet'], options)


def test_the_report_is_written_to_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['report.py', '--out', str(tmp_path)])
    with pytest.raises(SystemExit):
        parse_args()
    told = f'argument --out: {tmp_path} is a folder; name a file'
    assert told in capsys.readouterr().err


def training(trial, before):
    return Training('mmdet', 'Kind', 'mmdet::kind.py', trial, before)


FINE = Trial(1.0, (), 2)
ERROR = Trial(nan, ('one',), 0, 'two')
ZEROS = Trial(1.0, ('a has a gradient of zeros', 'b is nan'), 2)


@pytest.mark.parametrize(
    ('trial', 'before', 'lost', 'trained', 'predicted'),
    [
        (FINE, None, False, 'yes: `mmdet::kind.py`, loss 1', 'yes'),
        (ERROR, FINE, True, 'no: one', 'no: two'),
        (
            *(ERROR, ERROR, False),
            'not before the swap either: one',
            'not before the swap either: two',
        ),
        (
            *(ZEROS, ERROR, False),
            'not before the swap either: one; after it: a has a gradient of zeros, '
            'and 1 more',
            'yes',
        ),
        # It ran then, if not without fault.
        (ERROR, ZEROS, True, 'no: one', 'no: two'),
    ],
)
def test_what_fails_is_held_against_what_failed_before(
    trial, before, lost, trained, predicted
):
    told = training(trial, before)
    assert told.is_lost is lost
    assert (told.trained, told.predicted) == (trained, predicted)


FLOORS = {
    'MMPose': 95,
    'MMPretrain': 95,
    'MMYOLO': 90,
    'MMDetection3D': 100,
    'MMRotate': 90,
}
"""Per cent of the configs with a hierarchical backbone that are swapped and built."""


class TestCommittedReport:
    @pytest.fixture
    def rows(self):
        """Numbers by framework: configs, hierarchical, swapped, built, ..., lost."""
        row = (
            r'^\| (MM\w+) \| (\d+) \| (\d+) \| (\d+) \| .+? % '
            r'\| (\d+) \| .+? % \| (.+) \|$'
        )
        return {
            name: [*map(int, (*numbers, *types.split(' | ')))]
            for name, *numbers, types in re.findall(row, REPORT, re.M)
        }

    @pytest.mark.skipif(ON_FORK, reason='the page is of the configs of upstream')
    def test_covers_the_zoo(self, rows):
        assert rows['MMDetection'][0] == len(zoo(['mmdet']))
        assert rows['MMSegmentation'][0] == len(zoo(['mmseg']))
        assert rows.keys() == {row.name for row in FRAMEWORKS.values()}

    def test_shares(self, rows):
        for name, floor in FLOORS.items():
            _, hierarchical, _, built, *_ = rows[name]
            assert 100 * built / hierarchical >= floor, name
        both = zip(rows['MMDetection'], rows['MMSegmentation'], strict=True)
        _, hierarchical, swapped, built, *_ = map(sum, both)
        assert round(100 * swapped / hierarchical, 1) >= 99.3
        assert round(100 * built / hierarchical, 1) >= 98.8

    def test_what_trained_or_predicted_before_the_swap_does_after_it(self, rows):
        for name, (*_, lost) in rows.items():
            assert lost == 0, name

    def test_every_type_trains_or_says_why(self):
        lines = re.findall(
            r'^\| ([\w ]+) (?:\| \d+ ){3}\| (yes|no|not before the swap either): '
            r'(.+) \| (yes|no.*) \|$',
            REPORT,
            re.M,
        )
        types = {check((name, ['m0'], {})).model for name in TYPES[:3]}
        assert types <= {kind for kind, *_ in lines}
        passed = [(trained, predicted) for _, trained, _, predicted in lines]
        assert passed.count(('yes', 'yes')) >= 50
        assert all(reason for _, _, reason, _ in lines)

    def test_every_config_that_is_left_out_is_listed(self, rows):
        end = REPORT.partition('## Configs that are not swapped, or not built')[2]
        listed = re.findall(r'^\| (\d+) \| (.*?) \| ', end, re.M)
        for count, names in listed:
            assert len(names.split(', ')) == int(count)
        left_out = sum(row[1] - row[3] for row in rows.values())
        assert sum(int(count) for count, _ in listed) >= left_out > 0
