"""Maps of the stages, as timm's ``features_only`` and ``feature_cls`` ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models._features import (
    FeatureDictNet,
    FeatureGetterNet,
    FeatureHookNet,
    FeatureListNet,
)
from timm.models._features_fx import FeatureGraphNet
from torch import Tensor, nn

from mmrecnext.errors import OptionError
from mmrecnext.models.backbone import Backbone, traced


class StageList(FeatureGetterNet):
    """Turns images into a list of maps."""

    model: Backbone
    out_indices: tuple[int, ...]

    def __prepare_scriptable__(self) -> nn.Module:
        """Give ``torch.jit.script`` a trace, see :class:`~mmrecnext.models.RecNeXt`."""
        return traced(self, self.model)


class StageDict(StageList):
    """Turns images into maps by the numbers of their stages, as strings."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the maps of images ``[N, in_chans, H, W]``."""
        names = map(str, self.out_indices)
        return dict(zip(names, super().forward(x), strict=True))


CLASSES = {
    'getter': StageList,
    'list': StageList,
    'dict': StageDict,
    'hook': FeatureHookNet,
    'fx': FeatureGraphNet,
}
# timm's own put a model together anew, of its immediate parts: a stage is not one.
REPLACED = {
    FeatureGetterNet: StageList,
    FeatureListNet: StageList,
    FeatureDictNet: StageDict,
}

MODES = dict(frozen_stages=-1, norm_eval=False, with_cp=False, deploy=False)
"""Options that a model follows and a graph of its layers does not, and defaults."""


def feature_class(feature_cls: str | type, options: Mapping[str, Any]) -> type:
    """Return the class that gives the maps.

    Args:
        feature_cls: a key of ``CLASSES``, or a class as timm has them.
        options: of the model.

    Raises:
        OptionError: for another name, or an option that the class would ignore.
    """
    if isinstance(feature_cls, str):
        found = CLASSES.get(feature_cls.lower())
    else:
        found = REPLACED.get(feature_cls, feature_cls)
    if found is None:
        raise OptionError(
            f'feature_cls is one of {", ".join(CLASSES)}, got {feature_cls!r}'
        )
    ignored = [k for k, default in MODES.items() if options.get(k, default) != default]
    if found is FeatureGraphNet and ignored:
        raise OptionError(
            f"feature_cls='fx' is a graph of the layers, which ignores "
            f"{', '.join(ignored)}: leave that out, or take feature_cls='getter'"
        )
    return found
