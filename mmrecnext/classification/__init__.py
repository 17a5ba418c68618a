"""The classifiers, registered with timm by importing this package.

``timm.create_model('recnext_m3', pretrained=True, distillation=False)`` then works as
the model cards say, and so do timm's own scripts.
"""

from mmrecnext.classification.loading import (
    classifier_of,
    load_classifier,
    replace_batchnorm,
)
from mmrecnext.classification.registration import checkpoint_filter_fn
from mmrecnext.models.classifier import MLLAClassifier, RecNeXtClassifier

__all__ = [
    'MLLAClassifier',
    'RecNeXtClassifier',
    'checkpoint_filter_fn',
    'classifier_of',
    'load_classifier',
    'replace_batchnorm',
]
