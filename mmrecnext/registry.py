"""The model registry of mmrecnext, a child of MMEngine's.

``locations`` makes ``type='mmrecnext.RecNeXt'`` resolve from the registry of any
OpenMMLab framework, with no ``custom_imports``.
"""

from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

MODELS = Registry(
    'model', parent=MMENGINE_MODELS, scope='mmrecnext', locations=['mmrecnext.models']
)
