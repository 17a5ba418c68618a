"""The registries of mmrecnext, children of MMEngine's.

``locations`` makes ``type='mmrecnext.RecNeXt'`` resolve from the registry of any
OpenMMLab framework, with no ``custom_imports``.
"""

from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
)
from mmengine.registry import Registry

MODELS = Registry(
    'model', parent=MMENGINE_MODELS, scope='mmrecnext', locations=['mmrecnext.models']
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmrecnext',
    locations=['mmrecnext.optim'],
)


def offer_to_mmengine():
    """Have MMEngine's own registry import the models when it is asked for a name.

    It has no public way to be given a place to look in.
    """
    if 'mmrecnext.models' not in MMENGINE_MODELS._locations:
        MMENGINE_MODELS._locations.append('mmrecnext.models')
        MMENGINE_MODELS._imported = False
