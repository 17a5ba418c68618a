"""A small segmentor to export."""

import pytest

from tests.export.helpers import random_weights
from tests.helpers import ROOT, SMALL

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
    return str(config), random_weights(config, config.with_name('weights.pth'))
