"""The heads of segmentors, equal to the ``test_step`` of MMSegmentation."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from torch import nn

from mmrecnext.engine.build import build_network
from mmrecnext.export import HEADS, export
from mmrecnext.export.heads import subject_maker
from mmrecnext.export.images import preparation_of
from mmrecnext.export.layers import averaged
from mmrecnext.export.proof import try_pictures
from mmrecnext.export.recording import record
from tests.export.helpers import Strides
from tests.helpers import SMALL, randomise

pytestmark = pytest.mark.filterwarnings('ignore')  # of the exporter's own affairs

PREPROCESSOR = dict(
    type='SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
)
ONE = dict(in_channels=8, in_index=0)
BOTH = dict(in_channels=[8, 8], in_index=[0, 1])
# What the config of each type of head has besides.
OPTIONS = {
    'ANNHead': dict(BOTH, project_channels=4, query_scales=[1], key_pool_scales=[1, 3]),
    'APCHead': dict(ONE, pool_scales=[1, 3]),
    'ASPPHead': dict(ONE, dilations=[1, 3]),
    'CCHead': ONE,
    'DAHead': dict(ONE, pam_channels=4),
    'DNLHead': ONE,
    'DepthwiseSeparableASPPHead': dict(
        in_channels=8, in_index=1, c1_in_channels=8, c1_channels=4
    ),
    'DepthwiseSeparableFCNHead': ONE,
    'EMAHead': dict(ONE, ema_channels=8, num_bases=4, num_stages=2),
    'EncHead': dict(BOTH, num_codes=4, add_lateral=True),
    'FCNHead': ONE,
    'FPNHead': dict(BOTH, feature_strides=[8, 16]),
    'GCHead': ONE,
    'ISAHead': dict(ONE, isa_channels=4, down_factor=[2, 3]),
    'LRASPPHead': dict(
        in_channels=[8, 8, 8],
        in_index=[0, 1, 0],
        input_transform='multiple_select',
        branch_channels=(4, 4),
    ),
    'NLHead': ONE,
    'OCRHead': dict(ONE, ocr_channels=4),
    'PSPHead': dict(ONE, pool_scales=[1, 3]),
    'SETRMLAHead': dict(
        in_channels=[8, 8], in_index=[1, 1], mla_channels=4, up_scale=2
    ),
    'SETRUPHead': dict(ONE, up_scale=2),
    'STDCHead': dict(ONE, boundary_threshold=0.1),
    'SegformerHead': BOTH,
    'UPerHead': dict(BOTH, pool_scales=[1, 3]),
}
# One takes means over 49 x 49 places; another pads maps, or does not, by their size.
SIZES = {'LRASPPHead': (400, 416), 'ISAHead': (160, 192)}


def subject_of(head, **options):
    """A small segmentor with a type of head, none of whose layers adds nothing."""
    common = dict(channels=8, num_classes=4, norm_cfg=dict(type='BN'))
    node = dict(type=head, **common, **OPTIONS[head], **options)
    cascade = dict(type='CascadeEncoderDecoder', num_stages=2)
    torch.manual_seed(0)
    model = build_network(
        ConfigDict(
            **(cascade if head == 'OCRHead' else dict(type='EncoderDecoder')),
            data_preprocessor=PREPROCESSOR,
            backbone=dict(type='mmrecnext.RecNeXt', arch=SMALL['m0']),
            decode_head=[dict(type='FCNHead', **common, **ONE), node]
            if head == 'OCRHead'
            else node,
            test_cfg=dict(mode='whole'),
        ),
        'mmseg',
    )
    model.backbone = Strides()
    for name, weight in randomise(model).named_parameters():
        if not weight.any() or 'conv_seg' in name:
            nn.init.normal_(weight)
    make = subject_maker(model, 'mmseg')
    return make(model, preparation_of(PREPROCESSOR), logits=True)


@pytest.mark.parametrize('head', [head for scope, head in HEADS if scope == 'mmseg'])
def test_heads(head):
    """Recorded with pictures of one size, and run with others."""
    subject = subject_of(head)
    size = SIZES.get(head)
    recording = record(subject, size, 'uint8', torch.uint8)
    trials = try_pictures(
        recording, subject.reference, subject.compare, size, torch.uint8
    )
    assert all(trial.fits for trial in trials)


@pytest.mark.slow
def test_any_size(tmp_path):
    """Of maps that are averaged into grids, enlarged and added."""
    report = export(subject_of('UPerHead', align_corners=True), tmp_path / 'x.onnx')
    assert all(trial.fits for trial in report.trials)


@pytest.mark.parametrize('grid', [(1, 2), (3, 3), (6, None), (None, 5)])
def test_maps_are_averaged_as_by_pytorch(grid):
    for height, width in ((12, 18), (7, 5), (4, 3)):
        x = torch.randn(2, 3, height, width, dtype=torch.double)
        expected = F.adaptive_avg_pool2d(x, grid)
        assert (averaged(x, grid) - expected).abs().max() < 1e-12
