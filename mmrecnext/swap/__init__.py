"""A RecNeXt in the place of the backbone of any detector or segmentor."""

from mmrecnext.engine.configs import read_config
from mmrecnext.swap.backbone import swap_backbone
from mmrecnext.swap.files import ABSENT, changes, plain, write_config

__all__ = [
    'ABSENT',
    'changes',
    'plain',
    'read_config',
    'swap_backbone',
    'write_config',
]
