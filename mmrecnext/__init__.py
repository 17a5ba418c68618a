"""RecNeXt backbones for OpenMMLab: MMDetection 3.x and MMSegmentation 1.x."""

from typing import NoReturn

from mmrecnext_autoload.arguments import is_run, read_package_arguments

if is_run(__name__):
    read_package_arguments()  # first: to import the rest takes seconds

from mmrecnext.mmcv_ext import install as back_mmcv
from mmrecnext.version import __version__

try:
    from mmrecnext.archs import ARCHS, MLLA_ARCHS
    from mmrecnext.checkpoint import register_loaders
    from mmrecnext.models import MLLA, RecNeXt
    from mmrecnext.stacks import teach_mmengine
    from mmrecnext.swap import replace_depthwise, swap_backbone
except ModuleNotFoundError as error:
    # `python -m mmrecnext` tells what is missing, PyTorch and MMEngine among it.
    if (error.name or '').startswith('mmrecnext'):
        raise
    _reason = f'{error}; `python -m mmrecnext` tells what to install'

    def __getattr__(name: str) -> NoReturn:
        if name in __all__:
            raise ImportError(_reason)
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

else:
    register_loaders()
    teach_mmengine()
back_mmcv()  # after PyTorch, whose plug-ins would append further finders

__all__ = [
    'ARCHS',
    'MLLA',
    'MLLA_ARCHS',
    'RecNeXt',
    '__version__',
    'replace_depthwise',
    'swap_backbone',
]
