"""Rotated boxes, quadrilaterals and point sets in place of mmcv's compiled operators.

A rotated box is (5,) centre x, centre y, width, height and an angle in radians that
turns the x axis towards the y axis; a quadrilateral is (8,) x and y of its corners in
order; a point set is (18,) x and y of nine points, and stands for their convex hull.
Areas are computed in double precision, results have the dtype of the input.
"""

import math

import numpy as np
import torch
from torch import Tensor

from mmrecnext.mmcv_ext.polygons import (
    area,
    hull,
    pairs_that_meet,
    rectangles,
    shared_area,
)

_IOU = 0
# Boxes of a smaller area overlap with nothing.
_LEAST_AREA = 1e-14
# Of a box in space.
_FROM_ABOVE = [0, 1, 3, 4, 6]
# Point sets at once, 1.5 KiB each.
_SETS = 2**13
# Places in mmcv's list of vertices: the corners of both boxes, then the crossings.
_CORNERS = 8
_PLACES = 9
# Vertices are one if they are nearer than this part of the polygon's size.
_SAME = 1e-6


def box_iou_rotated(
    boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool
) -> None:
    """Write the overlaps of rotated boxes into ``ious``.

    Args:
        boxes1: (N, 5).
        boxes2: (M, 5).
        ious: (N * M,), or (N,) if ``aligned``, written.
        mode_flag: 0 for the shared area over that of the union, 1 over that of the
            first box.
        aligned: Whether boxes1[i] is compared with boxes2[i] alone.
    """
    _write_overlaps(rectangles(boxes1), rectangles(boxes2), ious, mode_flag, aligned)


def box_iou_quadri(
    boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool
) -> None:
    """Write the overlaps of quadrilaterals into ``ious``.

    ``boxes1`` is (N, 8) and ``boxes2`` (M, 8), the rest as in
    :func:`box_iou_rotated`.
    """
    _write_overlaps(_points(boxes1), _points(boxes2), ious, mode_flag, aligned)


def convex_iou(pointsets: Tensor, polygons: Tensor, ious: Tensor) -> None:
    """Write the overlaps of hulls of point sets with quadrilaterals into ``ious``.

    Args:
        pointsets: (N, 18).
        polygons: (M, 8).
        ious: (N, M), written.
    """
    points = _points(pointsets)
    hulls = points.take_along_dim(hull(points)[..., None], 1)
    _write_overlaps(hulls, _points(polygons), ious.view(-1), _IOU, aligned=False)


def convex_giou(pointsets: Tensor, polygons: Tensor, output: Tensor) -> None:
    """Write generalised overlaps of pairs, and their gradients, into ``output``.

    The generalised overlap is IoU - 1 + union / hull of both, by which gradients flow
    between polygons that are apart.

    Args:
        pointsets: (N, 18).
        polygons: (N, 8).
        output: (N, 19), written with the gradient of the overlap for each coordinate
            of the point set and, last, the overlap.

    Source:
        Rezatofighi et al., Generalized Intersection over Union,
        https://arxiv.org/abs/1902.09630
    """
    with torch.enable_grad():
        points = _points(pointsets).detach().requires_grad_()
        quads = _points(polygons).detach()
        both = torch.cat([points, quads], 1)
        wrapped, wrapped_both = (
            x.take_along_dim(hull(x.detach())[..., None], 1) for x in (points, both)
        )
        shared = shared_area(wrapped, quads)
        union = area(wrapped) + area(quads) - shared
        giou = shared / union - 1 + union / area(wrapped_both)
        (grad,) = torch.autograd.grad(giou.sum(), points)
    output[:, :-1] = grad.flatten(1).to(output)
    output[:, -1] = giou.detach().to(output)


def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: bool,
) -> Tensor:
    """Indices of rotated boxes that no better one overlaps by more than a threshold.

    Labels do not matter, as in mmcv's kernels: ``batched_nms`` moves boxes of unlike
    classes apart.

    Args:
        dets: (N, 5), or (N, 6) with the label last.
        scores: (N,).
        order: (N,) int64 places by descending score.
        dets_sorted: ``dets`` in that order.
        labels: (N,).
        iou_threshold: Overlap above which the lower score is dropped.
        multi_label: Whether there are labels.

    Returns:
        (M,) int64, by descending score.
    """
    return order[_best(rectangles(dets_sorted[:, :5]), iou_threshold)]


def nms_quadri(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    iou_threshold: float,
    multi_label: bool,
) -> Tensor:
    """Indices of the quadrilaterals that no better one overlaps.

    ``dets`` is (N, 8), or (N, 9) with the label last, the rest as in
    :func:`nms_rotated`.
    """
    return order[_best(_points(dets_sorted[:, :8]), iou_threshold)]


def iou3d_boxes_overlap_bev_forward(
    boxes_a: Tensor, boxes_b: Tensor, ans_overlap: Tensor
) -> None:
    """Write the areas that boxes in space share as seen from above.

    Args:
        boxes_a: (N, 7) centre x, y, z, sizes along them, and the angle, in radians,
            that turns the x axis towards the y axis.
        boxes_b: (M, 7).
        ans_overlap: (N, M), written.
    """
    a, b = (rectangles(boxes[:, _FROM_ABOVE]) for boxes in (boxes_a, boxes_b))
    ans_overlap.zero_()
    for i, j, shared in pairs_that_meet(a, b):
        ans_overlap[i, j] = shared.to(ans_overlap)


def iou3d_nms3d_forward(
    boxes: Tensor, keep: Tensor, num_out: Tensor, nms_overlap_thresh: float
) -> None:
    """Write the places of boxes in space that no better one overlaps, from above.

    Args:
        boxes: (N, 7), the best one first.
        keep: (N,) int64, its first places written.
        num_out: () int64, written with how many.
        nms_overlap_thresh: Overlap above which the later box is dropped.
    """
    best = _best(rectangles(boxes[:, _FROM_ABOVE]), nms_overlap_thresh)
    keep[: len(best)] = best.to(keep)
    num_out.fill_(len(best))


def iou3d_nms3d_normal_forward(
    boxes: Tensor, keep: Tensor, num_out: Tensor, nms_overlap_thresh: float
) -> None:
    """Do as :func:`iou3d_nms3d_forward`, as if no box was turned."""
    upright = torch.cat([boxes[:, :6], torch.zeros_like(boxes[:, 6:])], 1)
    iou3d_nms3d_forward(upright, keep, num_out, nms_overlap_thresh)


def min_area_polygons(pointsets: Tensor, polygons: Tensor) -> None:
    """Write the smallest rectangle around each point set into ``polygons``.

    One of its sides runs along an edge of the hull.

    Args:
        pointsets: (N, 18).
        polygons: (N, 8), written. In a frame turned by less than a right angle the
            corners are right upper, left upper, left lower, right lower, with y
            downwards.
    """
    points = _points(pointsets)
    for part, out in zip(points.split(_SETS), polygons.split(_SETS), strict=True):
        outline = part.take_along_dim(hull(part)[..., None], 1)
        arms = outline.roll(-1, 1) - outline
        angle = torch.atan2(arms[..., 1], arms[..., 0]).remainder(math.pi / 2)
        along = torch.stack([angle.cos(), angle.sin()], -1)
        across = torch.stack([-along[..., 1], along[..., 0]], -1)
        x, y = ((part[:, None] @ axis[..., None])[..., 0] for axis in (along, across))
        size = (x.amax(-1) - x.amin(-1)) * (y.amax(-1) - y.amin(-1))
        repeated = (arms == 0).all(-1) & (size > 0)
        # of equal areas, but for rounding, the first one
        best = size.where(~repeated, torch.inf).float().argmin(1)[:, None, None]
        x, y, along, across = (z.take_along_dim(best, 1) for z in (x, y, along, across))
        left, right, top, bottom = x.amin(-1), x.amax(-1), y.amin(-1), y.amax(-1)
        u = torch.cat([right, left, left, right], 1)[..., None]
        v = torch.cat([top, top, bottom, bottom], 1)[..., None]
        out.copy_((u * along + v * across).flatten(1))


def points_in_polygons_forward(
    points: Tensor, polygons: Tensor, output: Tensor
) -> None:
    """Write whether points lie within quadrilaterals into ``output``.

    Args:
        points: (N, 2) x, y.
        polygons: (M, 8).
        output: (N, M), written with 1 inside, and 0 outside or on an edge.
    """
    x, y = points.double()[..., None].unbind(1)
    inside, on_edge = torch.zeros((2, *output.shape), dtype=torch.bool, device=x.device)
    corners = _points(polygons)
    for (x1, y1), (x2, y2) in zip(
        corners.permute(1, 2, 0), corners.roll(-1, 1).permute(1, 2, 0), strict=True
    ):
        turn = (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)
        within = (x1.minimum(x2) <= x) & (x <= x1.maximum(x2))
        within &= (y1.minimum(y2) <= y) & (y <= y1.maximum(y2))
        on_edge |= within & (turn == 0)
        # a ray to the right crosses the edge
        inside ^= ((y1 < y) != (y2 < y)) & ((turn > 0) == (y2 > y1))
    output.copy_(inside & ~on_edge)


def diff_iou_rotated_sort_vertices_forward(
    vertices: Tensor, mask: Tensor, num_valid: Tensor
) -> Tensor:
    """Places of the vertices of shared polygons in their order around the centre.

    Args:
        vertices: (B, N, 24, 2) corners of one box, corners of the other, crossings of
            their edges, relative to the centre of those that count.
        mask: (B, N, 24) which of them count.
        num_valid: (B, N) how many count.

    Returns:
        (B, N, 9) int32: the polygon, closed by its first vertex, then the place of a
        crossing that does not count. Vertices that coincide are one; of less than
        three there is no polygon.
    """
    x, y = vertices.double().unbind(-1)
    size = vertices.abs().amax((-2, -1)).double()[..., None, None]
    apart = (x[..., :, None] - x[..., None, :]).abs()
    apart = apart.maximum((y[..., :, None] - y[..., None, :]).abs())
    earlier = torch.ones_like(apart, dtype=torch.bool).tril(-1) & mask[..., None, :]
    valid = mask & ~((apart <= _SAME * size) & earlier).any(-1)
    # more than eight are a matter of rounding
    valid &= valid.cumsum(-1) <= _PLACES - 1
    angle = torch.atan2(y, x).remainder(2 * math.pi)
    order = angle.where(valid, torch.inf).argsort(stable=True)[..., :_PLACES]
    count = valid.sum(-1, keepdim=True)
    unused = _CORNERS + mask[..., _CORNERS:].long().argmin(-1, keepdim=True)
    place = torch.arange(_PLACES, device=vertices.device)
    order = torch.where(place < count, order, unused)
    order = torch.where(place == count, order[..., :1], order)
    return torch.where(count < 3, unused, order).int()


def _points(flat: Tensor) -> Tensor:
    return flat.double().unflatten(-1, (-1, 2))


def _write_overlaps(
    a: Tensor, b: Tensor, ious: Tensor, mode_flag: int, aligned: bool
) -> None:
    """Write the overlaps of polygons (N, n, 2) and (M, m, 2) into flat ``ious``."""
    areas_a, areas_b = area(a), area(b)
    ious.zero_()
    for i, j, shared in pairs_that_meet(a, b, aligned):
        overlap = _overlap(shared, areas_a[i], areas_b[j], mode_flag)
        ious[i if aligned else i * len(b) + j] = overlap.to(ious)


def _overlap(shared: Tensor, area_a: Tensor, area_b: Tensor, mode_flag: int) -> Tensor:
    base = area_a + area_b - shared if mode_flag == _IOU else area_a
    some = (area_a >= _LEAST_AREA) & (area_b >= _LEAST_AREA)
    return (shared / base).where(some, 0)


def _best(polygons: Tensor, iou_threshold: float) -> Tensor:
    """Places of the polygons, in their order, that no kept one before overlaps."""
    areas = area(polygons)
    firsts, seconds = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for i, j, shared in pairs_that_meet(polygons, polygons):
        overlap = _overlap(shared, areas[i], areas[j], _IOU)
        rival = (i < j) & (overlap > iou_threshold)
        firsts.append(i[rival].cpu().numpy())
        seconds.append(j[rival].cpu().numpy())
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    begins = np.searchsorted(first, np.arange(len(polygons) + 1))
    kept = np.ones(len(polygons), bool)
    for i in np.unique(first):
        if kept[i]:
            kept[second[begins[i] : begins[i + 1]]] = False
    return torch.from_numpy(kept.nonzero()[0]).to(polygons.device)
