"""RecNeXt backbones for OpenMMLab: MMDetection 3.x and MMSegmentation 1.x.

``RecNeXt`` itself is imported together with ``mmengine.model``, on which it stands and
which takes many times as long to import as the rest, or when it is first asked for.
"""

from functools import partial
from importlib import import_module

from mmrecnext.archs import ARCHS
from mmrecnext.checkpoint import allow_common_checkpoints, register_loaders
from mmrecnext.deferred import after_import
from mmrecnext.mmcv_ext import install as back_mmcv
from mmrecnext.registry import offer_to_mmengine
from mmrecnext.version import __version__

back_mmcv()
allow_common_checkpoints()
offer_to_mmengine()
after_import('mmengine.model', partial(import_module, 'mmrecnext.models'))
after_import('mmengine.runner.checkpoint', register_loaders)

__all__ = ['ARCHS', 'RecNeXt', '__version__', 'swap_backbone']


def __getattr__(name: str):
    """Import the models, and the swap, once they are asked for."""
    if name == 'RecNeXt':
        return import_module('mmrecnext.models').RecNeXt
    if name == 'models':
        return import_module('mmrecnext.models')
    if name == 'swap_backbone':
        return import_module('mmrecnext.swap').swap_backbone
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
