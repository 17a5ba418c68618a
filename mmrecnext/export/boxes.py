"""Boxes by operators that a graph of any size can hold.

Nothing here has a shape that depends on numbers, but for what suppression keeps; and
that is never empty, which some formats cannot hold.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

FAR = ((-2e6, -2e6, -1e6, -1e6), (-4e6, -4e6, -3e6, -3e6))
"""Two boxes far from all others, for a picture with nothing in it: exporters take what
suppression keeps to be two or more."""

MOST = math.log(1000 / 16)
"""Logarithm of how much larger or smaller a side becomes at most, as in MMDetection."""


def from_deltas(anchors: Tensor, deltas: Tensor, coder: Any) -> Tensor:
    """Move and scale boxes.

    Args:
        anchors: ``[..., 4]``, corners in pixels.
        deltas: ``[..., 4]``, of the centre in sides, and of the sides in logarithms.
        coder: of type ``DeltaXYWHBBoxCoder``, which has their means and deviations.

    Returns:
        ``[..., 4]``, corners in pixels.
    """
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    low, high = anchors[..., :2], anchors[..., 2:]
    sides = high - low
    centre = (low + high) * 0.5 + sides * deltas[..., :2]
    half = sides * deltas[..., 2:].clamp(-MOST, MOST).exp() * 0.5
    return torch.cat([centre - half, centre + half], -1)


def from_distances(points: Tensor, distances: Tensor) -> Tensor:
    """Return boxes around points.

    Args:
        points: ``[..., 2]``, in pixels.
        distances: ``[..., 4]``, to the left, the top, the right and the bottom.
    """
    left_top = points[..., :2] - distances[..., :2]
    return torch.cat([left_top, points[..., :2] + distances[..., 2:]], -1)


def clip(boxes: Tensor, height: Any, width: Any) -> Tensor:
    """Cut boxes ``[..., 4]`` at the borders of a picture; its sides may be symbols."""
    x1, y1, x2, y2 = boxes.clamp(min=0).unbind(-1)
    x1, x2 = (x.clamp(max=width) for x in (x1, x2))
    y1, y2 = (y.clamp(max=height) for y in (y1, y2))
    return torch.stack([x1, y1, x2, y2], -1)


def best(scores: Tensor, count: int, whole: bool = False) -> tuple[Tensor, Tensor]:
    """Return the highest scores, and where they stand.

    Args:
        scores: ``[N, P]``.
        count: how many.
        whole: whether to return as many even where there are fewer.

    Returns:
        Scores and indices, both ``[N, count]``; where P is a number and smaller, and
        not the whole is asked for, ``[N, P]``. Scores that are missing are -1.
    """
    places = scores.shape[1]
    if isinstance(places, int) and (places >= count or not whole):
        top = scores.topk(min(count, places))
        return top.values, top.indices
    filling = scores.new_full((1, count), -1).expand(scores.shape[0], count)
    top = torch.cat([scores, filling], 1).topk(count)
    return top.values, top.indices.clamp(max=places - 1)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Return the rows ``[N, K, C]`` of ``[N, P, C]`` that ``[N, K]`` points to."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def unsuppressed(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float
) -> Tensor:
    """Tell which boxes no better one of their picture and group overlaps too much.

    Groups and pictures are shifted apart, so that one suppression does for all; those
    of the first picture as MMDetection shifts them, to the same rounding.

    Args:
        boxes: ``[N, P, 4]``, corners in pixels.
        scores: ``[N, P]``.
        groups: ``[N, P]``, integers from 0.
        valid: ``[N, P]``; others neither are kept nor suppress any.
        threshold: overlap above which the lower score goes.

    Returns:
        ``[N, P]``, bool.
    """
    pictures, places = scores.shape
    held = boxes.masked_fill(~valid[..., None], 0)
    high = held.max()
    x = groups.to(boxes) * (high + 1)
    picture = torch.arange(pictures, device=boxes.device).to(boxes)[:, None]
    y = x + picture * (high - held.min() + 1)
    apart = boxes + torch.stack([x, y, x, y], -1)
    index = valid.flatten().nonzero()[:, 0]
    apart = torch.cat([apart.flatten(0, 1)[index], boxes.new_tensor(FAR)])
    ranks = torch.cat([scores.flatten()[index], scores.new_full((2,), -1)])
    # MMCV compares with a threshold of single precision.
    threshold = torch.tensor(threshold, dtype=torch.float32).item()
    kept = torch.ops.torchvision.nms(apart, ranks, threshold)
    ends = torch.arange(2, device=boxes.device) + pictures * places
    flags = scores.new_zeros(pictures * places + 2)
    flags = flags.scatter(0, torch.cat([index, ends])[kept], 1.0)
    return flags[:-2].view(pictures, places) > 0
