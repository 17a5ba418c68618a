"""RecNeXt backbones for OpenMMLab: MMDetection 3.x and MMSegmentation 1.x."""

from mmrecnext.archs import ARCHS
from mmrecnext.checkpoint import allow_mmengine_checkpoints, register_loaders
from mmrecnext.mmcv_ext import install as back_mmcv
from mmrecnext.models import RecNeXt
from mmrecnext.version import __version__

back_mmcv()
allow_mmengine_checkpoints()
register_loaders()

__all__ = ['ARCHS', 'RecNeXt', '__version__']
