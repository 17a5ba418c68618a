"""Detectors that enlarge masks where their boxes are, quickly."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from mmrecnext.ops import fast_paths
from mmrecnext.ops.masks import paste_masks


def paste_in_boxes(model: nn.Module):
    """Have a detector paste masks in a third of the time on a CPU, in place.

    MMDetection interpolates the masks of all classes point by point. The pixels are the
    same, but where rounding decides. Heads that predict in a way of their own do so.

    Args:
        model: the detector, or what else is to stay as it is.
    """
    if 'mmdet' not in sys.modules:  # of which no model can be, then
        return
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead

    head: Any
    usual = FCNMaskHead._predict_by_feat_single
    for head in model.modules():
        if getattr(type(head), '_predict_by_feat_single', None) is usual:
            head._predict_by_feat_single = partial(_predict, head)


def _predict(
    head: Any,
    mask_preds: Tensor,
    bboxes: Tensor,
    labels: Tensor,
    img_meta: Mapping[str, Any],
    rcnn_test_cfg: Any,
    rescale: bool = False,
    activate_map: bool = False,
) -> Tensor:
    """Do what ``FCNMaskHead._predict_by_feat_single`` does, of one class a mask.

    Boxes are rescaled in place there, and so they are here.
    """
    threshold = rcnn_test_cfg.mask_thr_binary
    if (
        not fast_paths.are_on()
        or bboxes.device.type != 'cpu'
        or activate_map  # of probabilities, merged from several predictions
        or threshold < 0  # for shades, in place of what is of an object
    ):
        found: Tensor = type(head)._predict_by_feat_single(
            head, mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale,
            activate_map,
        )  # fmt: skip
        return found
    height, width = img_meta['ori_shape'][:2]
    scale = bboxes.new_tensor(img_meta['scale_factor'])
    if rescale:
        bboxes /= scale.repeat(2)
    else:
        width, height = round(width * float(scale[0])), round(height * float(scale[1]))
    if head.class_agnostic:
        masks = mask_preds[:, 0]
    else:
        masks = mask_preds[range(len(labels)), labels]
    return paste_masks(masks.sigmoid(), bboxes, (height, width), threshold)
