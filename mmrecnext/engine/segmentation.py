"""Label maps of segmentors, without logits of every class at the size of the image."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from torch import Tensor, nn

ENLARGED_BYTES = 128 * 2**20
"""Of the logits that are held at the size of the image at once."""


def bound_memory(model: nn.Module):
    """Have a segmentor enlarge its logits a few classes at a time, in place.

    MMSegmentation enlarges all of them: 7 GB of 150 classes and 12 million pixels. The
    label maps are the same; the predictions hold no logits any more. Segmentors that
    post-process in a way of their own, and detectors, stay as they are.
    """
    if 'mmseg' not in sys.modules:  # of which no model can be, then
        return
    from mmseg.models.segmentors import BaseSegmentor

    segmentor: Any = model
    is_usual = isinstance(model, BaseSegmentor) and (
        type(segmentor).postprocess_result is BaseSegmentor.postprocess_result
    )
    if is_usual and hasattr(model, 'decode_head') and hasattr(model, 'align_corners'):
        segmentor.postprocess_result = MethodType(_postprocess, segmentor)


def _postprocess(model: Any, seg_logits: Tensor, data_samples: Any = None):
    """Do what ``BaseSegmentor.postprocess_result`` does, but keep no logits."""
    if data_samples is None:
        return type(model).postprocess_result(model, seg_logits)
    for logits, sample in zip(seg_logits, data_samples, strict=True):
        meta = sample.metainfo
        padding = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
        left, right, top, bottom = padding
        height, width = logits.shape[1:]
        logits = logits[:, top : height - bottom, left : width - right]
        if meta.get('flip'):
            logits = logits.flip(2 if meta['flip_direction'] == 'horizontal' else 1)
        labels = label_map(
            logits,
            meta['ori_shape'][:2],
            model.align_corners,
            getattr(model.decode_head, 'threshold', None),
        )
        sample.set_data({'pred_sem_seg': PixelData(data=labels[None])})
    return data_samples


def label_map(
    logits: Tensor,
    size: Sequence[int],
    align_corners: bool,
    threshold: float | None = None,
) -> Tensor:
    """Return the most likely class of each pixel of an image.

    Args:
        logits: ``[C, h, w]``, of ``C`` classes, or of the second of two where ``C`` is
            1.
        size: height and width of the image.
        align_corners: how logits are enlarged to it, as of ``F.interpolate``.
        threshold: the least probability, between 0 and 1, of the second class of two.

    Returns:
        ``[H, W]``, int64.
    """
    at_once = max(1, ENLARGED_BYTES // (4 * size[0] * size[1]))
    best: Tensor | None = None
    labels: Tensor | None = None
    for first in range(0, len(logits), at_once):
        some = F.interpolate(
            logits[None, first : first + at_once],
            size=tuple(size),
            mode='bilinear',
            align_corners=align_corners,
        )[0]
        if len(logits) == 1:
            assert threshold is not None
            return (some[0].sigmoid() > threshold).long()
        value, index = some.max(0)
        if best is None or labels is None:
            best, labels = value, index
        else:
            # Of equal logits, the first class, as `argmax` takes it.
            labels = torch.where(value > best, index + first, labels)
            best = torch.maximum(value, best)
    assert labels is not None  # for there is a class
    return labels
