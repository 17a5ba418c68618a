"""Non-maximum suppression in place of mmcv's compiled operators."""

from collections.abc import Sequence

import numpy as np
import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from mmrecnext.mmcv_ext.precision import at_least_float32

# As many boxes are worth looking for parts, and as many make a part.
_MANY = 1000
_SOME = 50


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
    whole = boxes.is_cuda or torch.compiler.is_compiling() or threshold < 0
    parts = () if whole or len(boxes) < _MANY else _apart(boxes)
    if len(parts) < 2:
        return torch.ops.torchvision.nms(boxes, scores, threshold)
    order = scores.sort(descending=True, stable=True).indices
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    for part in parts:
        of_part = torch.ops.torchvision.nms(boxes[part], scores[part], threshold)
        kept[part[of_part]] = True
    return order[kept[order]]


def _apart(boxes: Tensor) -> Sequence[Tensor]:
    """Indices of boxes by parts between which none overlaps, from left to right.

    Boxes of unlike classes are such parts: mmcv moves them apart before it suppresses
    all at once, which takes a time that grows with the square of their number.
    """
    left, order = boxes[:, 0].sort()
    right = boxes[order, 2].cummax(0).values
    ends, begin = [], 0
    for end in ((left[1:] > right[:-1]).nonzero()[:, 0] + 1).tolist():
        if end - begin >= _SOME:
            ends.append(end)
            begin = end
    return order.tensor_split(ends)


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
    single = at_least_float32(boxes, scores)
    # numpy starts on a thousand numbers in a fraction of PyTorch's time
    corners, values = (tensor.cpu().numpy() for tensor in single)
    x1, y1, x2, y2 = corners.T
    areas = (x2 - x1 + offset) * (y2 - y1 + offset)
    table = np.stack([x1, y1, x2, y2, values, areas])
    order = np.arange(len(corners))
    done, kept = 0, len(corners)
    while done < kept:
        best = done + _first_best(table[4, done:kept])
        _swap(table, done, best)
        _swap(order, done, best)
        rest = table[:, done + 1 : kept]
        with np.errstate(divide='ignore', invalid='ignore'):
            iou = _iou(table[:, done, None], rest, offset)
        rest[4] *= _decay(iou, iou_threshold, sigma, method)
        done += 1
        dropped = rest[4] < min_score
        if dropped.any():
            _fill_gaps(rest, dropped)
            _fill_gaps(order[done:kept], dropped)
            kept -= int(dropped.sum())
    dets[:kept] = torch.from_numpy(table[:5, :kept].T).to(dets)
    return torch.from_numpy(order[:kept]).to(boxes.device)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group each box that NMS keeps with those that it drops for it.

    Args:
        dets: (N, 5) corners x1, y1, x2, y2 and score.
        iou_threshold: Overlap from which on the lower score is dropped.

    Returns:
        Indices per group, by descending score, that of the kept box first.
    """
    table = at_least_float32(dets)[0].cpu().numpy().T
    areas = (table[2] - table[0]) * (table[3] - table[1])
    table = np.concatenate([table, areas[None]])
    rest = np.argsort(-table[4], kind='stable')
    groups = []
    while len(rest):
        with np.errstate(divide='ignore', invalid='ignore'):
            overlap = _iou(table[:, rest[:1]], table[:, rest], offset=0)
        member = overlap >= iou_threshold
        member[0] = True  # even of a box without extent
        groups.append(rest[member].tolist())
        rest = rest[~member]
    return groups


def _first_best(scores: np.ndarray) -> int:
    """Place of the greatest score, as a loop of mmcv's comparisons finds it.

    Two boxes without extent have no overlap, but 0 / 0: their scores decay to NaN.
    """
    best = int(scores.argmax())
    if not np.isnan(scores[best]):
        return best
    return 0 if np.isnan(scores[0]) else int(np.nanargmax(scores))


def _swap(table: np.ndarray, i: int, j: int) -> None:
    """Exchange two places of the last dimension."""
    former = table[..., i].copy()
    table[..., i] = table[..., j]
    table[..., j] = former


def _iou(box: np.ndarray, boxes: np.ndarray, offset: int) -> np.ndarray:
    """Overlap of columns of x1, y1, x2, y2, score and area."""
    width = np.minimum(box[2], boxes[2]) - np.maximum(box[0], boxes[0])
    height = np.minimum(box[3], boxes[3]) - np.maximum(box[1], boxes[1])
    shared = np.maximum(width + offset, 0) * np.maximum(height + offset, 0)
    return shared / (box[5] + boxes[5] - shared)


def _decay(
    iou: np.ndarray, iou_threshold: float, sigma: float, method: int
) -> np.ndarray:
    if method == 0:
        return ~(iou >= iou_threshold)
    if method == 1:
        return np.where(iou >= iou_threshold, 1 - iou, 1)
    if method == 2:
        return np.exp(-np.square(iou) / sigma)
    raise ValueError(f'method must be 0 naive, 1 linear or 2 gaussian, got {method}')


def _fill_gaps(table: np.ndarray, dropped: np.ndarray) -> None:
    """Move the last boxes into the places of the dropped ones.

    Among equal scores the first one wins, so the places decide ties as in mmcv.
    """
    kept = len(dropped) - int(dropped.sum())
    gaps = dropped[:kept].nonzero()[0]
    movers = kept + (~dropped[kept:]).nonzero()[0][::-1]
    table[..., gaps] = table[..., movers]
