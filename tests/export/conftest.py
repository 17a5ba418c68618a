"""A small segmentor to export."""

import pytest
import torch
from torch import nn

from mmrecnext.engine.build import build_network, fit_cpu
from mmrecnext.engine.configs import load_config
from tests.helpers import ROOT, SMALL, randomise

CONFIG = ROOT / 'configs/sem_fpn_recnext_m0_shapes.py'
SMALL_SEGMENTOR = f"""
_base_ = {str(CONFIG)!r}
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=32)),
    backbone=dict(
        _delete_=True, type='mmrecnext.RecNeXt', arch=dict({SMALL['m0']})
    ),
    neck=dict(in_channels=[16, 32, 64, 128]),
)
"""


@pytest.fixture(scope='session')
def segmentor(tmp_path_factory):
    """A small segmentor: the file of its config, and that of its weights."""
    config = tmp_path_factory.mktemp('segmentor') / 'small.py'
    config.write_text(SMALL_SEGMENTOR)
    cfg = load_config(str(config))
    fit_cpu(cfg)
    torch.manual_seed(0)
    model = randomise(build_network(cfg.model, 'mmseg'))
    nn.init.normal_(model.decode_head.conv_seg.weight)
    weights = config.with_name('weights.pth')
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, weights)
    return str(config), str(weights)
