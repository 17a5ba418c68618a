"""Operators of point clouds in place of mmcv's compiled ones.

Clouds are (B, N, 3), or stacked: (N1 + N2 + ..., 3) with the number of points of each
cloud; indices of stacked points count within their cloud. All operators write into
tensors that the caller provides, and add to gradients.

Source: Qi et al., PointNet++, https://arxiv.org/abs/1706.02413
"""

from collections.abc import Iterator

import torch
from torch import Tensor

# Distances at once, 8 bytes each and a few times over.
_DISTANCES = 2**22


def ball_query_forward(
    new_xyz_tensor: Tensor,
    xyz_tensor: Tensor,
    idx_tensor: Tensor,
    b: int,
    n: int,
    m: int,
    min_radius: float,
    max_radius: float,
    nsample: int,
) -> None:
    """Write the first points within a shell around each centre into ``idx_tensor``.

    Args:
        new_xyz_tensor: (b, m, 3) centres.
        xyz_tensor: (b, n, 3) points.
        idx_tensor: (b, m, nsample) int32, written where a centre has a point, in the
            order of the points; the first one fills what is left. A point at the
            centre counts as well.
        b: Clouds.
        n: Points.
        m: Centres.
        min_radius: Least distance.
        max_radius: Distance from which on points do not count.
        nsample: Most points.
    """
    for cloud, centres, distances in _squared(new_xyz_tensor, xyz_tensor):
        near = (distances >= min_radius**2) & (distances < max_radius**2)
        found, some = _first_of(near | (distances == 0), nsample)
        part = idx_tensor[cloud, centres]
        part.copy_(torch.where(some, found, part))


def stack_ball_query_forward(
    new_xyz_tensor: Tensor,
    new_xyz_batch_cnt: Tensor,
    xyz_tensor: Tensor,
    xyz_batch_cnt: Tensor,
    idx_tensor: Tensor,
    max_radius: float,
    nsample: int,
) -> None:
    """Write the first points within a ball around each centre into ``idx_tensor``.

    Args:
        new_xyz_tensor: (M1 + M2 + ..., 3) centres.
        new_xyz_batch_cnt: (B,) centres of each cloud.
        xyz_tensor: (N1 + N2 + ..., 3) points.
        xyz_batch_cnt: (B,) points of each cloud.
        idx_tensor: (M1 + M2 + ..., nsample) int32, written as by
            :func:`ball_query_forward`; without any point the first one becomes -1.
        max_radius: Distance from which on points do not count.
        nsample: Most points.
    """
    counts = new_xyz_batch_cnt.tolist()
    clouds = zip(
        new_xyz_tensor.split(counts),
        xyz_tensor.split(xyz_batch_cnt.tolist()),
        idx_tensor.split(counts),
        strict=True,
    )
    for new_xyz, xyz, idx in clouds:
        for _, centres, distances in _squared(new_xyz[None], xyz[None]):
            found, some = _first_of(distances < max_radius**2, nsample)
            part = idx[centres]
            part.copy_(torch.where(some, found, part))
            part[:, 0].masked_fill_(~some[:, 0], -1)


def knn_forward(
    xyz_tensor: Tensor,
    new_xyz_tensor: Tensor,
    idx_tensor: Tensor,
    dist2_tensor: Tensor,
    b: int,
    n: int,
    m: int,
    nsample: int,
) -> None:
    """Write the nearest points of each centre, the nearest one first.

    Args:
        xyz_tensor: (b, n, 3) points.
        new_xyz_tensor: (b, m, 3) centres.
        idx_tensor: (b, m, nsample) int32, written.
        dist2_tensor: (b, m, nsample), written with the squared distances. Of less than
            ``nsample`` points the rest is 0 at a squared distance of 1e10.
        b: Clouds.
        n: Points.
        m: Centres.
        nsample: Points per centre.
    """
    _write_nearest(new_xyz_tensor, xyz_tensor, idx_tensor, dist2_tensor, 1e10)


def three_nn_forward(
    unknown_tensor: Tensor,
    known_tensor: Tensor,
    dist2_tensor: Tensor,
    idx_tensor: Tensor,
    b: int,
    n: int,
    m: int,
) -> None:
    """Write the three nearest known points of each unknown one, the nearest one first.

    Args:
        unknown_tensor: (b, n, 3).
        known_tensor: (b, m, 3).
        dist2_tensor: (b, n, 3), written with the squared distances.
        idx_tensor: (b, n, 3) int32, written. Of less than three points the rest is 0
            at an infinite distance.
        b: Clouds.
        n: Unknown points.
        m: Known points.
    """
    _write_nearest(unknown_tensor, known_tensor, idx_tensor, dist2_tensor, torch.inf)


def three_interpolate_forward(
    points_tensor: Tensor,
    idx_tensor: Tensor,
    weight_tensor: Tensor,
    out_tensor: Tensor,
    b: int,
    c: int,
    m: int,
    n: int,
) -> None:
    """Write weighted sums of the features of three points into ``out_tensor``.

    Args:
        points_tensor: (b, c, m) features.
        idx_tensor: (b, n, 3) int32 points.
        weight_tensor: (b, n, 3).
        out_tensor: (b, c, n), written.
        b: Clouds.
        c: Channels.
        m: Points with features.
        n: Points to interpolate at.
    """
    grouped = _gather(points_tensor, idx_tensor)
    out_tensor.copy_((grouped * weight_tensor[:, None]).sum(-1))


def three_interpolate_backward(
    grad_out_tensor: Tensor,
    idx_tensor: Tensor,
    weight_tensor: Tensor,
    grad_points_tensor: Tensor,
    b: int,
    c: int,
    n: int,
    m: int,
) -> None:
    """Add the gradient of the features to ``grad_points_tensor`` (b, c, m).

    ``grad_out_tensor`` is (b, c, n), the rest as :func:`three_interpolate_forward` got
    it.
    """
    grad = grad_out_tensor[..., None] * weight_tensor[:, None]
    _scatter(grad_points_tensor, idx_tensor, grad)


def furthest_point_sampling_forward(
    points_tensor: Tensor,
    temp_tensor: Tensor,
    idx_tensor: Tensor,
    b: int,
    n: int,
    m: int,
) -> None:
    """Write points that are far from each other: always the farthest from those before.

    Args:
        points_tensor: (b, n, 3).
        temp_tensor: (b, n) bounds of the squared distance to the chosen ones, brought
            down.
        idx_tensor: (b, m) int32, written; the first one is point 0.
        b: Clouds.
        n: Points.
        m: Points to choose.
    """
    clouds = torch.arange(b, device=points_tensor.device)

    def squared(last: Tensor) -> Tensor:
        return (points_tensor - points_tensor[clouds, last, None]).square().sum(-1)

    _choose_far(squared, temp_tensor, idx_tensor)


def furthest_point_sampling_with_dist_forward(
    points_tensor: Tensor,
    temp_tensor: Tensor,
    idx_tensor: Tensor,
    b: int,
    n: int,
    m: int,
) -> None:
    """Write points that are far from each other by given distances.

    ``points_tensor`` is (b, n, n) distances, the rest as in
    :func:`furthest_point_sampling_forward`.
    """
    clouds = torch.arange(b, device=points_tensor.device)
    _choose_far(lambda last: points_tensor[clouds, last], temp_tensor, idx_tensor)


def gather_points_forward(
    points_tensor: Tensor,
    idx_tensor: Tensor,
    out_tensor: Tensor,
    b: int,
    c: int,
    n: int,
    npoints: int,
) -> None:
    """Write the features of some points into ``out_tensor``.

    Args:
        points_tensor: (b, c, n) features.
        idx_tensor: (b, npoints) int32.
        out_tensor: (b, c, npoints), written.
        b: Clouds.
        c: Channels.
        n: Points with features.
        npoints: Points to gather.
    """
    out_tensor.copy_(_gather(points_tensor, idx_tensor))


def gather_points_backward(
    grad_out_tensor: Tensor,
    idx_tensor: Tensor,
    grad_points_tensor: Tensor,
    b: int,
    c: int,
    n: int,
    npoints: int,
) -> None:
    """Add the gradient of the features to ``grad_points_tensor`` (b, c, n).

    ``grad_out_tensor`` is (b, c, npoints), the rest as :func:`gather_points_forward`
    got it.
    """
    _scatter(grad_points_tensor, idx_tensor, grad_out_tensor)


def group_points_forward(
    points_tensor: Tensor,
    idx_tensor: Tensor,
    out_tensor: Tensor,
    b: int,
    c: int,
    n: int,
    npoints: int,
    nsample: int,
) -> None:
    """Write the features of groups of points into ``out_tensor``.

    Args:
        points_tensor: (b, c, n) features.
        idx_tensor: (b, npoints, nsample) int32.
        out_tensor: (b, c, npoints, nsample), written.
        b: Clouds.
        c: Channels.
        n: Points with features.
        npoints: Groups.
        nsample: Points of a group.
    """
    out_tensor.copy_(_gather(points_tensor, idx_tensor))


def group_points_backward(
    grad_out_tensor: Tensor,
    idx_tensor: Tensor,
    grad_points_tensor: Tensor,
    b: int,
    c: int,
    n: int,
    npoints: int,
    nsample: int,
) -> None:
    """Add the gradient of the features to ``grad_points_tensor`` (b, c, n).

    ``grad_out_tensor`` is (b, c, npoints, nsample), the rest as
    :func:`group_points_forward` got it.
    """
    _scatter(grad_points_tensor, idx_tensor, grad_out_tensor)


def stack_group_points_forward(
    features_tensor: Tensor,
    features_batch_cnt_tensor: Tensor,
    idx_tensor: Tensor,
    idx_batch_cnt_tensor: Tensor,
    out_tensor: Tensor,
    b: int,
    c: int,
    m: int,
    nsample: int,
) -> None:
    """Write the features of groups of stacked points into ``out_tensor``.

    Args:
        features_tensor: (N1 + N2 + ..., c) features.
        features_batch_cnt_tensor: (b,) points of each cloud.
        idx_tensor: (m, nsample) int32; m is M1 + M2 + ....
        idx_batch_cnt_tensor: (b,) groups of each cloud.
        out_tensor: (m, c, nsample), written; 0 where there is no such point.
        b: Clouds.
        c: Channels.
        m: Groups.
        nsample: Points of a group.
    """
    counts = features_batch_cnt_tensor, idx_batch_cnt_tensor
    index, exists = _stacked(idx_tensor, *counts)
    grouped = features_tensor[index].where(exists[..., None], 0)
    out_tensor.copy_(grouped.mT)


def stack_group_points_backward(
    grad_out_tensor: Tensor,
    idx_tensor: Tensor,
    idx_batch_cnt_tensor: Tensor,
    features_batch_cnt_tensor: Tensor,
    grad_features_tensor: Tensor,
    b: int,
    c: int,
    m: int,
    n: int,
    nsample: int,
) -> None:
    """Add the gradient of the features to ``grad_features_tensor`` (n, c).

    ``grad_out_tensor`` is (m, c, nsample), the rest as
    :func:`stack_group_points_forward` got it.
    """
    counts = features_batch_cnt_tensor, idx_batch_cnt_tensor
    index, exists = _stacked(idx_tensor, *counts)
    grad_features_tensor.index_add_(0, index[exists], grad_out_tensor.mT[exists])


def chamfer_distance_forward(
    xyz1: Tensor,
    xyz2: Tensor,
    dist1: Tensor,
    dist2: Tensor,
    idx1: Tensor,
    idx2: Tensor,
) -> None:
    """Write the squared distance from each point to the nearest one of the other set.

    Args:
        xyz1: (B, N, 2).
        xyz2: (B, M, 2).
        dist1: (B, N), written with the squared distances from the first set.
        dist2: (B, M), likewise from the second.
        idx1: (B, N) int32, written with the nearest points.
        idx2: (B, M) int32, likewise.
    """
    for here, there, dist, idx in (
        (xyz1, xyz2, dist1, idx1),
        (xyz2, xyz1, dist2, idx2),
    ):
        _write_nearest(here, there, idx[..., None], dist[..., None], 1e10)


def chamfer_distance_backward(
    xyz1: Tensor,
    xyz2: Tensor,
    idx1: Tensor,
    idx2: Tensor,
    graddist1: Tensor,
    graddist2: Tensor,
    gradxyz1: Tensor,
    gradxyz2: Tensor,
) -> None:
    """Add the gradients of both sets to ``gradxyz1`` and ``gradxyz2``.

    ``graddist1`` and ``graddist2`` are those of the distances, the rest is as
    :func:`chamfer_distance_forward` got or wrote it.
    """
    ways = (
        (xyz1, xyz2, idx1, graddist1, gradxyz1, gradxyz2),
        (xyz2, xyz1, idx2, graddist2, gradxyz2, gradxyz1),
    )
    for here, there, idx, grad_dist, grad_here, grad_there in ways:
        index = idx.long()[..., None].expand_as(here)
        grad = 2 * grad_dist[..., None] * (here - there.gather(1, index))
        grad_here += grad.to(grad_here)
        grad_there.scatter_add_(1, index, -grad.to(grad_there))


def _squared(here: Tensor, there: Tensor) -> Iterator[tuple[int, slice, Tensor]]:
    """Squared distances from points (B, N, d) to others (B, M, d), some at a time.

    Yields:
        The cloud, some of its points (n of N), and (n, M) squared distances.
    """
    rows = max(1, _DISTANCES // max(1, there.size(1)))
    for cloud in range(len(here)):
        for begin in range(0, here.size(1), rows):
            part = slice(begin, begin + rows)
            distances = here.new_zeros(len(here[cloud, part]), there.size(1))
            for axis in range(here.size(2)):
                difference = here[cloud, part, axis, None] - there[cloud, :, axis]
                distances += difference.square_()
            yield cloud, part, distances


def _first_of(counts: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """First places of a row that count.

    Returns:
        (n, most) int32 places, filled up with the first one, and (n, 1) whether there
        is any.
    """
    size = counts.size(1)
    place = torch.arange(size, dtype=torch.int32, device=counts.device)
    place = place.where(counts, size)
    found = place.topk(min(most, size), largest=False, sorted=True).values
    first = found[:, :1]
    found = torch.where(found < size, found, first)
    missing = first.expand(-1, most - found.size(1))
    return torch.cat([found, missing], 1), first < size


def _write_nearest(
    here: Tensor, there: Tensor, idx: Tensor, dist2: Tensor, far: float
) -> None:
    """Write the nearest of ``there`` (B, M, d) for each point ``here`` (B, N, d).

    ``idx`` and ``dist2`` are (B, N, k): what M lacks is place 0 at distance ``far``.
    """
    count = min(idx.size(2), there.size(1))
    idx.zero_()
    dist2.fill_(far)
    for cloud, part, distances in _squared(here, there):
        # stable, so that of equal distances the first point comes first
        nearest = distances.sort(stable=True)
        idx[cloud, part, :count] = nearest.indices[:, :count].to(idx)
        dist2[cloud, part, :count] = nearest.values[:, :count].to(dist2)


def _choose_far(distances, bounds: Tensor, idx: Tensor) -> None:
    """Choose the farthest point, again and again.

    Args:
        distances: Function of one point per cloud (B,): (B, N) to all points.
        bounds: (B, N) least distances, brought down.
        idx: (B, m) int32, written.
    """
    idx.zero_()
    for step in range(1, idx.size(1)):
        bounds.copy_(bounds.minimum(distances(idx[:, step - 1].long())))
        idx[:, step] = bounds.argmax(1).to(idx)


def _gather(features: Tensor, idx: Tensor) -> Tensor:
    """(B, C, ...) features (B, C, N) of points (B, ...)."""
    index = idx.flatten(1).long()[:, None].expand(-1, features.size(1), -1)
    return features.gather(2, index).unflatten(2, idx.shape[1:])


def _scatter(grad: Tensor, idx: Tensor, grad_out: Tensor) -> None:
    """Add (B, C, ...) gradients of points (B, ...) to (B, C, N)."""
    index = idx.flatten(1).long()[:, None].expand(-1, grad.size(1), -1)
    grad.scatter_add_(2, index, grad_out.flatten(2).to(grad))


def _stacked(
    idx: Tensor, feature_counts: Tensor, idx_counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Places among all stacked points, and whether the cloud has such a point."""
    counts = feature_counts.long()
    ends = counts.cumsum(0).repeat_interleave(idx_counts.long())[:, None]
    starts = (counts.cumsum(0) - counts).repeat_interleave(idx_counts.long())[:, None]
    index = starts + idx.long()
    exists = (index >= starts) & (index < ends)
    return index.where(exists, 0), exists
