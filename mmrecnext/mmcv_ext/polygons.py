"""Areas that polygons share, exact and for many pairs at once.

Everything is computed in double precision. A polygon is (n, 2) corners x, y in order,
in either direction; a corner may be repeated.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

# Pairs of polygons whose shared areas are computed at once, 2 KiB each if they have
# four corners; and pairs whose bounds are compared at once, a byte each.
_PAIRS = 2**13
_BOUNDS = 2**22


def rectangles(boxes: Tensor) -> Tensor:
    """Corners of rotated boxes.

    Args:
        boxes: (..., 5) centre x, centre y, width, height and the angle, in radians,
            that turns the x axis towards the y axis.

    Returns:
        (..., 4, 2), double.
    """
    x, y, width, height, angle = boxes.double().unbind(-1)
    cos, sin = angle.cos() / 2, angle.sin() / 2
    along = torch.stack([cos * width, sin * width], -1)
    across = torch.stack([-sin * height, cos * height], -1)
    arms = torch.stack([-along - across, along - across], -2)
    return torch.stack([x, y], -1)[..., None, :] + torch.cat([arms, -arms], -2)


def area(polygons: Tensor) -> Tensor:
    """Area of polygons (..., n, 2)."""
    arms = polygons - polygons[..., :1, :]
    return _cross(arms, arms.roll(-1, -2)).sum(-1).abs() / 2


def shared_area(a: Tensor, b: Tensor) -> Tensor:
    """Area that pairs of polygons have in common.

    A polygon is what lies below its upper edges, less what lies below its lower ones.
    So is the area of a pair, a sum over pairs of edges: each adds what lies below
    both of them. It depends continuously on every corner, also where edges coincide.

    Args:
        a: (..., n, 2).
        b: (..., m, 2).

    Returns:
        (...), differentiable; where an edge of b is upright, for a alone.
    """
    origin = b.detach().mean(-2, keepdim=True)
    # edges of a along the last dimension but one, edges of b along the last one
    x, y, run, rise = (z.unsqueeze(-1) for z in _edges(a - origin))
    x_b, y_b, run_b, rise_b = (z.unsqueeze(-2) for z in _edges(b - origin))
    slope_b = rise_b / run_b.where(run_b != 0, 1)
    ends_b = x_b.minimum(x_b + run_b), x_b.maximum(x_b + run_b)
    above, heights_b, at = [], [], []
    for end in (0, 1):
        at.append((x + end * run).clamp(*ends_b))
        along = (at[end] - x) / run.where(run != 0, 1)
        height = y + along.where(run != 0, end) * rise
        heights_b.append(y_b + slope_b * (at[end] - x_b))
        above.append(height - heights_b[end])
    below = above[0].clamp(max=0) + above[1].clamp(max=0)
    spread = (above[0].abs() + above[1].abs()).clamp(min=torch.finfo(x.dtype).tiny)
    lower = (heights_b[0] + heights_b[1] - below.square() / spread) / 2
    # an edge that leads to the left is an upper one, if corners go round that way
    return (run_b.sign() * (at[1] - at[0]) * lower).sum((-2, -1)).abs()


def _edges(polygons: Tensor) -> tuple[Tensor, ...]:
    """First x and y of every edge, and how far it runs and rises, each (..., n)."""
    return *polygons.unbind(-1), *(polygons.roll(-1, -2) - polygons).unbind(-1)


def pairs_that_meet(
    a: Tensor, b: Tensor, aligned: bool = False
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Shared areas of the pairs whose bounds overlap, in bounded memory.

    Args:
        a: (N, n, 2) polygons.
        b: (M, m, 2).
        aligned: Whether a[i] is compared with b[i] alone, as opposed to all of b.

    Yields:
        Indices into a and into b, and the shared area, of some pairs; the pairs come
        in ascending order of a and then of b.
    """
    bounds_a, bounds_b = a.aminmax(dim=1), b.aminmax(dim=1)
    rows = len(a) if aligned else max(1, _BOUNDS // max(1, len(b)))
    for begin in range(0, len(a), rows):
        part = slice(begin, begin + rows)
        low, high = bounds_a.min[part], bounds_a.max[part]
        if aligned:
            meet = ((low < bounds_b.max) & (bounds_b.min < high)).all(1)
            i = j = meet.nonzero()[:, 0]
        else:
            meet = torch.ones(len(low), len(b), dtype=torch.bool, device=a.device)
            for axis in range(2):
                meet &= low[:, None, axis] < bounds_b.max[:, axis]
                meet &= bounds_b.min[:, axis] < high[:, None, axis]
            i, j = meet.nonzero(as_tuple=True)
        for some_i, some_j in zip(i.split(_PAIRS), j.split(_PAIRS), strict=True):
            yield begin + some_i, some_j, shared_area(a[begin + some_i], b[some_j])


def hull(points: Tensor) -> Tensor:
    """Indices of the points on the convex hull, by wrapping a line around them.

    Args:
        points: (N, n, 2).

    Returns:
        (N, n) int64, in order; the first one is repeated in the end.
    """
    count = points.size(1)
    rows = torch.arange(len(points), device=points.device)
    x, y = points.unbind(-1)
    lowest = y == y.amin(1, keepdim=True)
    start = x.where(lowest, torch.inf).argmin(1)
    order = [start]
    closed = torch.zeros_like(start, dtype=torch.bool)
    for _ in range(count - 1):
        here = points[rows, order[-1]]
        best = torch.zeros_like(start)
        arm = points[:, 0] - here
        for k in range(1, count):
            other = points[:, k] - here
            turn = _cross(arm, other)
            farther = other.square().sum(1) > arm.square().sum(1)
            better = (turn < 0) | ((turn == 0) & farther)
            best = best.masked_fill(better, k)
            arm = torch.where(better[:, None], other, arm)
        # without extent from here: all that is left are copies of this point
        best = torch.where((arm == 0).all(1), start, best)
        closed |= (points[rows, best] == points[rows, start]).all(1)
        order.append(torch.where(closed, start, best))
    return torch.stack(order, 1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
