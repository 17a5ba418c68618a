"""RecNeXt backbones for OpenMMLab: MMDetection 3.x and MMSegmentation 1.x.

``RecNeXt`` itself is imported together with ``mmengine.model``, on which it stands and
which takes many times as long to import as the rest, or when it is first asked for.
"""

from functools import partial
from importlib import import_module

from mmrecnext.deferred import after_import
from mmrecnext.mmcv_ext import install as back_mmcv
from mmrecnext.version import __version__

try:
    from mmrecnext.checkpoint import register_loaders
    from mmrecnext.registry import offer_to_mmengine
except ModuleNotFoundError as error:
    # Without MMEngine or PyTorch there is nothing to plug into: what needs them fails
    # when it is asked for, and `python -m mmrecnext` tells how to add them.
    if (error.name or '').startswith('mmrecnext'):
        raise
else:
    offer_to_mmengine()
    after_import('mmengine.model', partial(import_module, 'mmrecnext.models'))
    after_import('mmengine.runner.checkpoint', register_loaders)
back_mmcv()  # after PyTorch, whose plug-ins would append further finders

__all__ = ['ARCHS', 'RecNeXt', '__version__', 'swap_backbone']

WHERE = {'ARCHS': 'archs', 'RecNeXt': 'models', 'swap_backbone': 'swap'}


def __getattr__(name: str):
    """Import the models, and the swap, once they are asked for."""
    if name == 'models':
        return import_module('mmrecnext.models')
    if name in WHERE:
        return getattr(import_module(f'mmrecnext.{WHERE[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
