"""Regions of pictures: those that count alone, and what maps show there.

How many count depends on the numbers in a picture. One more is always looked at, and
forgotten: some formats cannot hold what may be empty.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NOWHERE = (0.0, 0.0, 0.0, 1.0, 1.0)
"""The region that is always looked at: of the first picture, and its corners."""


def counted(valid: Tensor) -> Tensor:
    """Return the indices ``[R]`` of the true values in ``[N, P]``, and N * P."""
    index = valid.flatten().nonzero()[:, 0]
    return torch.cat([index, index.new_full((1,), valid.shape[0] * valid.shape[1])])


def regions(boxes: Tensor, index: Tensor) -> Tensor:
    """Return regions ``[R, 5]``, picture and corners, of boxes ``[N, P, 4]``.

    Args:
        boxes: corners in pixels.
        index: as :func:`counted` returns it.
    """
    pictures = torch.arange(boxes.shape[0], device=boxes.device).to(boxes)
    pictures = pictures[:, None, None].expand(-1, boxes.shape[1], 1)
    rows = torch.cat([pictures, boxes], -1).flatten(0, 1)
    return torch.cat([rows, boxes.new_tensor([NOWHERE])])[index]


def spread(values: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    """Put what is known of regions back in the places of these.

    Args:
        values: ``[R, ...]``.
        index: as :func:`counted` returns it.
        valid: ``[N, P]``.

    Returns:
        ``[N, P, ...]``; where not valid, those of any region.
    """
    pictures, places = valid.shape
    order = index.new_zeros(pictures * places + 1)
    order = order.scatter(0, index, torch.arange(index.shape[0], device=index.device))
    return values[order[:-1]].unflatten(0, (pictures, places))


def aligned(extractor: Any, maps: Any, rois: Tensor) -> Tensor:
    """Return what maps show at regions, as a ``SingleRoIExtractor`` of MMDetection.

    Args:
        extractor: it.
        maps: those of the neck.
        rois: ``[R, 5]``, picture and corners in pixels; of the last, anything will do.

    Returns:
        ``[R, C, h, w]``.
    """
    layers = extractor.roi_layers
    if len(layers) == 1:
        return _aligned(layers[0], maps[0], rois)
    count = rois.shape[0]
    levels = extractor.map_roi_levels(rois, len(layers))
    ends = torch.arange(len(layers), device=rois.device) + count
    found, indices = [], []
    for level, layer in enumerate(layers):
        index = (levels == level).nonzero()[:, 0]
        index = torch.cat([index, ends[level : level + 1]])
        chosen = rois[index.clamp(max=count - 1)]
        found.append(_aligned(layer, maps[level], chosen))
        indices.append(index)
    index = torch.cat(indices)
    order = index.new_zeros(count + len(layers))
    order = order.scatter(0, index, torch.arange(index.shape[0], device=index.device))
    return torch.cat(found)[order[:count]]


def _aligned(layer: Any, x: Tensor, rois: Tensor) -> Tensor:
    # MMCV's layer would be written as an operator that other engines do not know.
    found: Tensor = torch.ops.torchvision.roi_align(
        x,
        rois,
        layer.spatial_scale,
        *layer.output_size,
        layer.sampling_ratio,
        layer.aligned,
    )
    return found
