"""The scan for operators that configs ask for, on packages made for it."""

from tests.mmcv_ext.scan import scan, table

FILES = {
    'mmcv/ops/__init__.py': 'from .pool import Pool\nfrom .nms import nms\n',
    'mmcv/ops/nms.py': """
ext_module = load(['nms', 'soft'])
def nms(x):
    return ext_module.nms(x)
def soft(x):
    return ext_module.soft(x)
""",
    'mmcv/ops/pool.py': """
ext_module = load(['nms_rotated', 'border_align_forward'])
class Function:
    def forward(x):
        return ext_module.border_align_forward(x)
@MODELS.register_module('pooling')
class Pool:
    def forward(self, x):
        return Function.apply(x)
""",
    'frame/__init__.py': '',
    'frame/heads.py': """
from mmcv.ops import nms
from .base import Base
class Unused:
    pool = dict(type='pooling')
@MODELS.register_module()
class Head(Base):
    def predict(self, x: Unused):
        return nms(x)
""",
    'frame/base.py': """
class Base:
    def __init__(self, layer=dict(type='pooling')):
        self.layer = layer
@MODELS.register_module()
class Plain:
    pass
""",
    'frame/.mim/configs/_base_/head.py': "model = dict(head=dict(type='frame.Head'))",
    'frame/.mim/configs/a.py': "_base_ = '_base_/head.py'",
    'frame/.mim/configs/b.py': "model = dict(head=dict(type='Plain'))",
}


def test_names_are_followed(tmp_path):
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = scan(tmp_path / 'frame', [tmp_path / 'mmcv'])
    assert found == {'nms': {'a.py'}, 'border_align_forward': {'a.py'}}
    assert table({'frame': found}).splitlines()[2:] == [
        '| `nms` | mmrecnext | 1 |',
        '| `border_align` | mmcv alone | 1 |',
    ]
