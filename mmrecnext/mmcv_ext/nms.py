"""Non-maximum suppression in place of mmcv's compiled operators."""

import math

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from mmrecnext.mmcv_ext.precision import at_least_float32


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that no better box overlaps by more than a threshold.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: Overlap above which the lower score is dropped.
        offset: 0 or 1, added to every width and height.

    Returns:
        (M,) int64, by descending score.
    """
    boxes, scores = at_least_float32(boxes, scores)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # mmcv compares in float32, in which an overlap of 3/10 does not exceed 0.3
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return torch.ops.torchvision.nms(boxes, scores, threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS: decay the scores of overlapping boxes instead of dropping them.

    The best remaining box is kept, the others decay by their overlap with it, those
    that fall below ``min_score`` are dropped, and so on.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2.
        scores: (N,).
        dets: (N, 5); its first M rows are filled with the kept boxes and their
            decayed scores.
        iou_threshold: Overlap from which on methods 0 and 1 act.
        sigma: Width of method 2.
        min_score: Scores below it are dropped.
        method: 0 naive (to zero), 1 linear (by 1 - IoU) or 2 gaussian
            (by exp(-IoU^2 / sigma)).
        offset: 0 or 1, added to every width and height.

    Returns:
        (M,) int64 indices of the kept boxes, in the order of ``dets``.

    Raises:
        ValueError: If ``method`` is none of 0, 1, 2.

    Source:
        Bodla et al., Soft-NMS: Improving Object Detection With One Line of Code,
        https://arxiv.org/abs/1704.04503
    """
    boxes, scores = at_least_float32(boxes, scores)
    x1, y1, x2, y2 = boxes.unbind(1)
    areas = (x2 - x1 + offset) * (y2 - y1 + offset)
    table = torch.stack([x1, y1, x2, y2, scores, areas])
    order = torch.arange(len(boxes), device=boxes.device)
    done, kept = 0, len(boxes)
    while done < kept:
        best = done + _first_best(table[4, done:kept])
        _swap(table, done, best)
        _swap(order, done, best)
        rest = table[:, done + 1 : kept]
        iou = _iou(table[:, done, None], rest, offset)
        rest[4] *= _decay(iou, iou_threshold, sigma, method)
        done += 1
        dropped = rest[4] < min_score
        _fill_gaps(rest, dropped)
        _fill_gaps(order[done:kept], dropped)
        kept -= int(dropped.sum())
    dets[:kept] = table[:5, :kept].T
    return order[:kept]


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group each box that NMS keeps with those that it drops for it.

    Args:
        dets: (N, 5) corners x1, y1, x2, y2 and score.
        iou_threshold: Overlap from which on the lower score is dropped.

    Returns:
        Indices per group, by descending score, that of the kept box first.
    """
    (dets,) = at_least_float32(dets)
    x1, y1, x2, y2, scores = dets.unbind(1)
    table = torch.stack([x1, y1, x2, y2, scores, (x2 - x1) * (y2 - y1)])
    rest = scores.sort(descending=True).indices
    groups = []
    while len(rest):
        overlap = _iou(table[:, rest[:1]], table[:, rest], offset=0)
        member = overlap >= iou_threshold
        member[0] = True  # even of a box without extent
        groups.append(rest[member].tolist())
        rest = rest[~member]
    return groups


def _first_best(scores: Tensor) -> int:
    """Place of the greatest score, as a loop of mmcv's comparisons finds it.

    Two boxes without extent have no overlap, but 0 / 0: their scores decay to NaN.
    """
    best = int(scores.argmax())
    if not scores[best].isnan():
        return best
    return 0 if scores[0].isnan() else int(scores.nan_to_num(-math.inf).argmax())


def _swap(table: Tensor, i: int, j: int) -> None:
    """Exchange two places of the last dimension."""
    former = table[..., i].clone()
    table[..., i] = table[..., j]
    table[..., j] = former


def _iou(box: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """Overlap of columns of x1, y1, x2, y2, score and area."""
    width = torch.minimum(box[2], boxes[2]) - torch.maximum(box[0], boxes[0])
    height = torch.minimum(box[3], boxes[3]) - torch.maximum(box[1], boxes[1])
    intersection = (width + offset).clamp(min=0) * (height + offset).clamp(min=0)
    return intersection / (box[5] + boxes[5] - intersection)


def _decay(iou: Tensor, iou_threshold: float, sigma: float, method: int) -> Tensor:
    if method == 0:
        return (~(iou >= iou_threshold)).to(iou)
    if method == 1:
        return torch.where(iou >= iou_threshold, 1 - iou, 1)
    if method == 2:
        return torch.exp(-iou.square() / sigma)
    raise ValueError(f'method must be 0 naive, 1 linear or 2 gaussian, got {method}')


def _fill_gaps(table: Tensor, dropped: Tensor) -> None:
    """Move the last boxes into the places of the dropped ones.

    Among equal scores the first one wins, so the places decide ties as in mmcv.
    """
    kept = len(dropped) - int(dropped.sum())
    gaps = dropped[:kept].nonzero()[:, 0]
    movers = kept + (~dropped[kept:]).nonzero()[:, 0].flip(0)
    table[..., gaps] = table[..., movers]
