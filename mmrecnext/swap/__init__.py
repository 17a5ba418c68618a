"""A RecNeXt in the place of the backbone of any detector or segmentor.

Or, of a network's depthwise convolutions, recursive ones in their place.
"""

from mmrecnext.engine.configs import read_config
from mmrecnext.swap.backbone import swap_backbone
from mmrecnext.swap.depthwise import (
    DepthwiseReplacement,
    ReplacedConv,
    replace_depthwise,
)
from mmrecnext.swap.files import ABSENT, changes, plain, write_config

__all__ = [
    'ABSENT',
    'DepthwiseReplacement',
    'ReplacedConv',
    'changes',
    'plain',
    'read_config',
    'replace_depthwise',
    'swap_backbone',
    'write_config',
]
