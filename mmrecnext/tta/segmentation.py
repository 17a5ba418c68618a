"""Test-time augmentation of segmentors of one output channel as well."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmengine.structures import PixelData
from mmseg.models import DepthEstimator, SegTTAModel
from mmseg.registry import MODELS as SEGMENTORS

from mmrecnext.errors import ConfigError
from mmrecnext.registry import MODELS


def check_mergeable(model: Mapping):
    """Refuse a model whose predictions cannot be merged.

    Args:
        model: its config.

    Raises:
        ConfigError: naming what it predicts.
    """
    kind = SEGMENTORS.get(model['type']) if isinstance(model['type'], str) else None
    kind = kind or model['type']
    if issubclass(kind, DepthEstimator):
        raise ConfigError(
            f'--tta merges probabilities of classes; a {kind.__name__} predicts depths'
        )


def default_settings(model: Mapping) -> dict:
    """Return settings of :class:`SegmentorTTAModel`."""
    return {}


@MODELS.register_module()
class SegmentorTTAModel(SegTTAModel):
    """Averages the probabilities of all views, be they of several classes or of one.

    What a segmentor of one output channel calls logits has been through the sigmoid,
    which MMSegmentation's own takes again: no probability is then below a half.
    """

    def merge_preds(self, data_samples_list: list) -> list:
        """Merge the views of each image."""
        if self.module.out_channels > 1:
            return super().merge_preds(data_samples_list)
        merged = []
        for views in data_samples_list:
            mean = torch.stack([view.seg_logits.data for view in views]).mean(0)
            labels = (mean > self.module.decode_head.threshold).to(mean)
            views[0].set_data({'pred_sem_seg': PixelData(data=labels)})
            merged.append(views[0])
        return merged
