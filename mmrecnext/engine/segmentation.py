"""Segmentors that label pixels without enlarging the logits of every class."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mmengine.structures import PixelData
from torch import Tensor, nn

from mmrecnext.ops.labels import Enlargement, label_map


def bound_memory(model: nn.Module):
    """Have a segmentor label pixels without enlarging all logits, in place.

    MMSegmentation enlarges them to what the network saw, then to the image: twice 216
    MB of 150 classes and 512 x 683 pixels. The label maps are the same; the predictions
    hold no logits any more. Where a segmentor or its head predicts in a way of its
    own, or by a window that slides, the first step is left to it; where it
    post-processes so, and in detectors, both are.

    Args:
        model: the segmentor, or what else is to stay as it is.
    """
    if 'mmseg' not in sys.modules:  # of which no model can be, then
        return
    from mmseg.models.segmentors import BaseSegmentor

    segmentor: Any = model
    is_usual = isinstance(model, BaseSegmentor) and (
        type(segmentor).postprocess_result is BaseSegmentor.postprocess_result
    )
    if is_usual and hasattr(model, 'decode_head') and hasattr(model, 'align_corners'):
        segmentor.postprocess_result = partial(_postprocess, segmentor)
        if _predicts_as_usual(segmentor):
            segmentor.predict = partial(_predict, segmentor)


def _predicts_as_usual(model: Any) -> bool:
    """Tell whether predictions are what one head returns, and no more."""
    from mmseg.models import EncoderDecoder
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    steps = ('predict', 'inference', 'whole_inference', 'encode_decode', '_forward')
    return all(
        getattr(type(part), step, None) is getattr(usual, step)
        for part, usual, steps in (
            (model, EncoderDecoder, steps),
            (model.decode_head, BaseDecodeHead, ('predict', 'predict_by_feat')),
        )
        for step in steps
    )


def _predict(model: Any, inputs: Tensor, data_samples: Any = None) -> Any:
    """Do what ``EncoderDecoder.predict`` does, but enlarge no logits in between."""
    if data_samples is None or model.test_cfg.get('mode', 'whole') != 'whole':
        return type(model).predict(model, inputs, data_samples)
    # The size that the first picture of a batch was padded to is that of all.
    meta = data_samples[0].metainfo
    seen = meta['pad_shape'] if 'pad_shape' in meta else meta['img_shape']
    return _label(model, model._forward(inputs), data_samples, seen[:2])


def _postprocess(model: Any, seg_logits: Tensor, data_samples: Any = None) -> Any:
    """Do what ``BaseSegmentor.postprocess_result`` does, but keep no logits."""
    if data_samples is None:
        return type(model).postprocess_result(model, seg_logits)
    return _label(model, seg_logits, data_samples)


def _label(
    model: Any,
    seg_logits: Tensor,
    data_samples: Any,
    seen: Sequence[int] | None = None,
) -> Any:
    """Label the pixels of a batch; see :class:`~mmrecnext.ops.labels.Enlargement`."""
    threshold = getattr(model.decode_head, 'threshold', None)
    # Each in a batch of its own, with the memory format of them all.
    for logits, sample in zip(seg_logits.split(1), data_samples, strict=True):
        enlarge = _enlargement(sample.metainfo, model.align_corners, seen)
        labels = label_map(logits, enlarge, threshold)
        sample.set_data({'pred_sem_seg': PixelData(data=labels[None])})
    return data_samples


def _enlargement(
    meta: Mapping[str, Any], align_corners: bool, seen: Sequence[int] | None
) -> Enlargement:
    height, width = meta['ori_shape'][:2]
    padding = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
    left, right, top, bottom = padding
    return Enlargement(
        (height, width),
        align_corners,
        None if seen is None else (seen[0], seen[1]),
        (left, right, top, bottom),
        meta['flip_direction'] if meta.get('flip') else None,
    )
