"""Test-time augmentation of segmentors of one output channel as well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from mmengine.structures import PixelData
from mmseg.models import DepthEstimator, SegTTAModel
from torch import Tensor

from mmrecnext.errors import ConfigError
from mmrecnext.ops.labels import ENLARGED_BYTES
from mmrecnext.registry import MODELS

MODEL = 'SegmentorTTAModel'
"""The model that merges, by its registered name."""


def check_mergeable(kind: type, model: Mapping):
    """Refuse a model whose predictions cannot be merged.

    Args:
        kind: its type.
        model: its config.

    Raises:
        ConfigError: naming what it predicts.
    """
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
    Probabilities are added up view by view, so that no two views' logits, of every
    class at the size of the image, are held at once.
    """

    def test_step(self, data: Mapping[str, list]) -> list:
        """Predict the views of a batch in turn, and merge them.

        Args:
            data: of each of its values, one entry per view, each of all images.
        """
        views = zip(*data.values(), strict=True)
        return self._merge(
            self.module.test_step(dict(zip(data, view, strict=True))) for view in views
        )

    def merge_preds(self, data_samples_list: list) -> list:
        """Merge the views of each image."""
        return self._merge(zip(*data_samples_list, strict=True))

    def _merge(self, views: Iterable[Sequence]) -> list:
        """Merge views, each of all images; the first of an image has its truth."""
        merged, sums, count = [], [], 0
        for samples in views:
            if not count:
                merged = [*samples]
                sums = [torch.zeros_like(x.seg_logits.data) for x in samples]
            for total, sample in zip(sums, samples, strict=True):
                self._add(total, sample.seg_logits.data)
                del sample.seg_logits
            count += 1
        for total, sample in zip(sums, merged, strict=True):
            labels = self._labels(total.div_(count))
            sample.set_data({'pred_sem_seg': PixelData(data=labels)})
        return merged

    def _add(self, total: Tensor, logits: Tensor):
        """Add the probabilities of a view ``[C, H, W]`` to ``total``, in place."""
        if len(logits) == 1:
            total += logits
            return
        rows = max(1, ENLARGED_BYTES // logits[:, :1].nbytes)
        for part, of_view in zip(
            total.split(rows, 1), logits.split(rows, 1), strict=True
        ):
            part += of_view.softmax(0)

    def _labels(self, mean: Tensor) -> Tensor:
        """Return a label map ``[1, H, W]`` of mean probabilities ``[C, H, W]``."""
        if len(mean) == 1:
            return (mean > self.module.decode_head.threshold).to(mean)
        return mean.argmax(0, keepdim=True)
