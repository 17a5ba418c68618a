"""Comparison of detections: which are the same, and why some may be missing."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmrecnext.export.proof import LIMIT, Difference, Results
from mmrecnext.ops.masks import paste_masks

PADDING = (0.0, 0.0, 0.0, 0.0, -1.0)
"""Corners and score in rows of ``dets`` that are left over; their label is -1."""

CLOSE = 1e-2
"""Largest difference of two detections that are taken for the same, right or wrong:
of scores, and of corners as a share of the largest one."""

OVERLAP = 1e-3
"""By how much overlaps may differ: boxes are suppressed in places far apart, where
numbers of single precision are coarse."""

AGAIN = 0.5
"""Least overlap of two detections that are the same, where weights are coarser."""

DECIDED = 0.1
"""Largest share of all detections that rounding may decide on."""

ALIKE = 4
"""How many may be others for each that the network does not find again: as many are
missing as are there in their place, and another choice may be of as many again."""


@dataclass(frozen=True)
class Detections:
    """What is found in a picture.

    Args:
        boxes: ``[n, 4]``, corners in pixels.
        scores: ``[n]``.
        labels: ``[n]``.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def per_picture(results: Results) -> list[Detections]:
    """Split ``dets`` ``[N, K, 5]`` and ``labels`` ``[N, K]``, without the padding."""
    found = []
    for dets, labels in zip(results['dets'], results['labels'], strict=True):
        rows = dets[labels >= 0]
        found.append(Detections(rows[:, :4], rows[:, 4], labels[labels >= 0]))
    return found


def compare_detections(
    found: Results, expected: Results, cfg: Mapping[str, Any]
) -> list[Difference]:
    """Compare the detections of pictures: all of them, in their order.

    One may be missing where rounding decides on it: its score is that of the threshold
    or of the last place, or its overlap with a better box that at which boxes are
    suppressed, or two that overlap have the same score, or what suppressed it is
    missing itself. Where the network itself does not find all of them again, as in a
    picture with nothing in it, where all regions are alike, some more may be others.

    Args:
        found: ``dets`` ``[N, K, 5]``, ``labels`` ``[N, K]``, and perhaps ``masks``.
        expected: likewise; of masks ``masks_least`` and ``masks_most``; and perhaps
            ``unstable`` ``[N]``, how many of them the network does not find again.
        cfg: the ``test_cfg``, for its thresholds.

    Returns:
        Of ``dets`` the largest difference of scores, or of corners as a share of the
        largest one; of ``masks`` the share of pixels that differ.
    """
    if wrong_shape := _wrong_shape(found, expected):
        return [wrong_shape]
    dets, labels = found['dets'], found['labels']
    largest = pixels = 0.0
    same = others = wrong = 0
    kept = []
    for own, other in zip(per_picture(found), per_picture(expected), strict=True):
        matched = pairs(own, other)
        kept.append(matched)
        for i, j in matched:
            distance, score = _distances(own, i, other, j)
            largest = max(largest, distance / reach(other), score)
            pixels = max(pixels, distance)
        same += len(matched)
        others += len(own) + len(other) - 2 * len(matched)
        wrong += sum(1 for _ in unexplained(own, other, matched, cfg))
    total = int((expected['labels'] >= 0).sum())
    note = f'{same} of {total}, boxes within {pixels:.1e} px'
    more = min(ALIKE * _unstable(expected), total)
    fits = wrong <= more and others <= max(2, DECIDED * total) + more
    if others:
        note += f', {others} decided by rounding' if fits else f', {others} others'
    if not in_order(dets, labels):
        fits, note = False, f'{note}, not in order'
    differences = [Difference('dets', largest if fits else torch.inf, note)]
    if 'masks' in found:
        differences.append(compare_masks(found, expected, kept, cfg))
    return differences


def compare_roughly(
    found: Results, expected: Results, cfg: Mapping[str, Any]
) -> list[Difference]:
    """Compare the detections of coarser weights: how many are found again, how well.

    Those are the same whose labels are and whose boxes overlap by half or more.

    Args:
        found: see :func:`compare_detections`.
        expected: likewise.
        cfg: likewise.

    Returns:
        Of ``dets`` the median difference of all detections of either, where one that
        the other has not counts 1, but for as many as the network itself does not find
        again; of ``masks`` the share of pixels that differ beyond a tenth, since any
        digit may decide whether a pixel of a small mask passes the threshold.
    """
    if wrong_shape := _wrong_shape(found, expected):
        return [wrong_shape]
    values, scores, pixels, kept = [], [], [], []
    others = 0
    for own, other in zip(per_picture(found), per_picture(expected), strict=True):
        matched = overlapping(own, other)
        kept.append(matched)
        others += len(own) - len(matched)
        for i, j in matched:
            distance, score = _distances(own, i, other, j)
            values.append(max(distance / reach(other), score))
            pixels.append(distance)
            scores.append(score)
    total = int((expected['labels'] >= 0).sum())
    alone = others + total - len(values)
    alone -= min(ALIKE * _unstable(expected), alone)
    note = f'{len(scores)} of {total} found again'
    if scores:
        note += (
            f', in the median {_median(scores):.1e} off in score and '
            f'{_median(pixels):.1e} px'
        )
    note += f', {others} others' * bool(others)
    value = _median([*values, *[1.0] * alone])
    if not in_order(found['dets'], found['labels']):
        value, note = torch.inf, f'{note}, not in order'
    differences = [Difference('dets', value, note)]
    if 'masks' in found:
        masks = compare_masks(found, expected, kept, cfg)
        beyond = max(masks.value - DECIDED, 0.0)
        differences.append(replace(masks, value=beyond))
    return differences


def _wrong_shape(found: Results, expected: Results) -> Difference | None:
    shape, right = found['dets'].shape, expected['dets'].shape
    if shape == right and found['labels'].shape == shape[:2]:
        return None
    note = f'of shape {list(shape)}, not {list(right)}'
    return Difference('dets', float('inf'), note)


def _distances(
    own: Detections, i: int, other: Detections, j: int
) -> tuple[float, float]:
    """Return how far two detections are apart: corners, in pixels, and scores."""
    corners = (own.boxes[i] - other.boxes[j]).abs().max()
    return float(corners), float((own.scores[i] - other.scores[j]).abs())


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def _unstable(expected: Results) -> int:
    return int(expected['unstable'].sum()) if 'unstable' in expected else 0


def compare_masks(
    found: Results,
    expected: Results,
    matched: Sequence[Sequence[tuple[int, int]]],
    cfg: Mapping[str, Any],
) -> Difference:
    """Compare the masks of detections that are the same, in each picture.

    Args:
        found: ``masks``, bool ``[N, K, H, W]``, or probabilities in boxes.
        expected: ``masks_least`` and ``masks_most``, ``[N, K, H, W]``.
        matched: indices of detections, of both.
        cfg: the ``test_cfg``, for the threshold.
    """
    least, most = expected['masks_least'], expected['masks_most']
    masks = found['masks']
    pasted = masks.dtype == torch.bool
    if pasted and masks.shape != least.shape:
        note = f'of shape {list(masks.shape)}, not {list(least.shape)}'
        return Difference('masks', float('inf'), note)
    wrong = undecided = total = 0
    for picture, each in enumerate(matched):
        for i, j in each:
            own = masks[picture, i]
            if not pasted:
                box = found['dets'][picture, i, :4]
                size = (least.shape[2], least.shape[3])
                (own,) = paste_masks(own[None], box[None], size, cfg['mask_thr_binary'])
            low, high = least[picture, j], most[picture, j]
            wrong += int(((own & ~high) | (low & ~own)).sum())
            undecided += int((low ^ high).sum())
            total += int(high.sum())
    note = f'{wrong} of {total} pixels differ'
    if undecided:
        note += f', but for {undecided} at the threshold'
    return Difference('masks', wrong / max(total, 1), note)


def count_missing(results: Results, again: Results) -> Tensor:
    """Return how many detections of each picture, ``[N]``, are not found again."""
    both = zip(per_picture(results), per_picture(again), strict=True)
    return torch.tensor([len(own) - len(pairs(own, other)) for own, other in both])


def in_order(dets: Tensor, labels: Tensor) -> bool:
    """Tell whether scores fall, and what is left over comes last."""
    rest = labels < 0
    padding = dets.new_tensor(PADDING)
    falling = dets[:, 1:, 4] <= dets[:, :-1, 4]
    return bool(falling.all() and (dets[rest] == padding).all() and _last(rest))


def _last(rest: Tensor) -> bool:
    return bool((rest[:, 1:] >= rest[:, :-1]).all())


def reach(detections: Detections) -> float:
    """Return the largest coordinate, of 1 or more."""
    return max(1.0, float(detections.boxes.abs().max()))


def pairs(own: Detections, other: Detections) -> list[tuple[int, int]]:
    """Return the indices of detections that are the same, of either list.

    The closest go first; what differs by more than ``CLOSE`` is none.
    """
    if not len(own) or not len(other):
        return []
    corners = (own.boxes[:, None] - other.boxes).abs().amax(-1) / reach(other)
    cost = torch.maximum(corners, (own.scores[:, None] - other.scores).abs())
    return _closest(cost, (cost <= CLOSE) & (own.labels[:, None] == other.labels))


def overlapping(own: Detections, other: Detections) -> list[tuple[int, int]]:
    """Return the indices of detections whose boxes overlap most, of either list.

    Those of another label, and overlaps below ``AGAIN``, are none.
    """
    if not len(own) or not len(other):
        return []
    from torchvision.ops import box_iou  # here: tools that export nothing start sooner

    overlap = box_iou(own.boxes, other.boxes)
    near = (overlap >= AGAIN) & (own.labels[:, None] == other.labels)
    return _closest(1 - overlap, near)


def _closest(cost: Tensor, near: Tensor) -> list[tuple[int, int]]:
    """Return pairs of rows and columns, those of the least cost first."""
    matched: list[tuple[int, int]] = []
    taken: tuple[set[int], set[int]] = set(), set()
    candidates = near.nonzero()
    for i, j in candidates[cost[near].argsort()].tolist():
        if i not in taken[0] and j not in taken[1]:
            matched.append((i, j))
            taken[0].add(i)
            taken[1].add(j)
    return matched


def unexplained(
    own: Detections,
    other: Detections,
    matched: list[tuple[int, int]],
    cfg: Mapping[str, Any],
) -> Iterator[tuple[int, int]]:
    """Yield what is in one list alone for no reason: which list, and the index there.

    What scores higher goes first: it may have suppressed what follows.
    """
    lists = own, other
    alone = [
        set(range(len(each))) - {pair[side] for pair in matched}
        for side, each in enumerate(lists)
    ]
    order = [(float(lists[s].scores[i]), s, i) for s in (0, 1) for i in alone[s]]
    decided: tuple[set[int], set[int]] = set(), set()
    for _, side, i in sorted(order, reverse=True):
        if _may_miss(lists[side], i, lists[1 - side], decided[1 - side], cfg):
            decided[side].add(i)
        else:
            yield side, i


def _may_miss(
    own: Detections, i: int, other: Detections, gone: set[int], cfg: Mapping[str, Any]
) -> bool:
    """Tell whether rounding may have kept a detection from another list.

    Args:
        own: the list that it is in.
        i: its index there.
        other: the list that it is not in.
        gone: what is in that list alone, and may be.
        cfg: the ``test_cfg``.
    """
    score = own.scores[i]
    if score <= cfg.get('score_thr', 0) + LIMIT:
        return True
    if len(other) == cfg['max_per_img'] and score <= other.scores.min() + LIMIT:
        return True
    if not len(other):
        return False
    from torchvision.ops import box_iou  # here: tools that export nothing start sooner

    limit = cfg['nms']['iou_threshold']
    overlap = box_iou(own.boxes[i : i + 1], other.boxes)[0]
    rivals = (other.labels == own.labels[i]) & (overlap >= limit - OVERLAP)
    close = (overlap <= limit + OVERLAP) & (other.scores >= score - LIMIT)
    equal = (other.scores - score).abs() <= LIMIT
    missing = torch.tensor([j in gone for j in range(len(other))])
    return bool((rivals & (close | equal | missing)).any())
