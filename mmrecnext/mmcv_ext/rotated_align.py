"""Sampling of features within rotated and deformed regions, in place of mmcv's.

Regions of :func:`roi_align_rotated_forward` are (K, 6): index of the image, centre x,
centre y, width, height in image pixels, and an angle in radians. All operators write
into tensors that the caller provides, and add to gradients.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mmrecnext.mmcv_ext.precision import at_least_float32
from mmrecnext.mmcv_ext.roi import grids
from mmrecnext.mmcv_ext.roi_align import Pooling
from mmrecnext.mmcv_ext.sampling import (
    Taps,
    bilinear_taps,
    from_table,
    sum_matrix,
    to_table,
)

# Numbers that a sample takes, against the channels of :func:`grids`.
_PER_SAMPLE = 64


def roi_align_rotated_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Write the mean of bilinear samples in every bin of turned regions.

    Args:
        input: (B, C, H, W) features.
        rois: (K, 6).
        output: (K, C, pooled_height, pooled_width), written.
        pooled_height: Rows of bins.
        pooled_width: Columns of bins.
        spatial_scale: Feature map pixels per image pixel.
        sampling_ratio: Samples per bin and axis; 0 for one per started pixel.
        aligned: Whether pixel centres lie at .5, as opposed to at whole numbers.
        clockwise: Whether the angle turns the x axis towards the y axis, as opposed to
            away from it.
    """
    size = pooled_height, pooled_width
    pooling = Pooling(size, spatial_scale, sampling_ratio, aligned)
    output.zero_()
    features, rois = at_least_float32(input, rois)
    table = to_table(features)
    for k, matrix in _matrices(rois, features.shape, pooling, clockwise):
        bins = (matrix @ table).unflatten(0, (len(k), *size))
        output[k] = bins.permute(0, 3, 1, 2).to(output)


def roi_align_rotated_backward(
    top_grad: Tensor,
    rois: Tensor,
    bottom_grad: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Add the gradient of the features to ``bottom_grad`` (B, C, H, W).

    ``top_grad`` is (K, C, pooled_height, pooled_width), the rest as
    :func:`roi_align_rotated_forward` got it.
    """
    size = pooled_height, pooled_width
    pooling = Pooling(size, spatial_scale, sampling_ratio, aligned)
    grad, rois = at_least_float32(top_grad, rois)
    height, width = bottom_grad.shape[2:]
    for k, matrix in _matrices(rois, bottom_grad.shape, pooling, clockwise):
        bins = to_table(grad[k])
        bottom_grad += from_table(matrix.t() @ bins, height, width).to(bottom_grad)


def riroi_align_rotated_forward(
    features: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    num_samples: int,
    num_orientations: int,
    clockwise: bool,
) -> None:
    """Align turned regions, and turn the orientations of their channels as well.

    Channel ``c * num_orientations + o`` of the features answers to orientation o.

    Args:
        features: (B, C, H, W).
        rois: (K, 6).
        output: (K, C, pooled_height, pooled_width), written.
        pooled_height: Rows of bins.
        pooled_width: Columns of bins.
        spatial_scale: Feature map pixels per image pixel.
        num_samples: Samples per bin and axis; 0 for one per started pixel.
        num_orientations: Orientations in a full turn, at even distances.
        clockwise: As in :func:`roi_align_rotated_forward`.

    Source:
        Han et al., ReDet, https://arxiv.org/abs/2103.07733
    """
    size = pooled_height, pooled_width
    settings = (*size, spatial_scale, num_samples, False, clockwise)
    aligned = torch.empty_like(output)
    roi_align_rotated_forward(features, rois, aligned, *settings)
    turns = _turns(rois, num_orientations).to(output)
    aligned = aligned.unflatten(1, (-1, num_orientations))
    output.copy_(torch.einsum('koi,kcihw->kcohw', turns, aligned).flatten(1, 2))


def riroi_align_rotated_backward(
    top_grad: Tensor,
    rois: Tensor,
    bottom_grad: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    num_samples: int,
    num_orientations: int,
    clockwise: bool,
) -> None:
    """Add the gradient of the features to ``bottom_grad`` (B, C, H, W).

    ``top_grad`` is (K, C, pooled_height, pooled_width), the rest as
    :func:`riroi_align_rotated_forward` got it.
    """
    size = pooled_height, pooled_width
    settings = (*size, spatial_scale, num_samples, False, clockwise)
    turns = _turns(rois, num_orientations).to(top_grad)
    grad = top_grad.unflatten(1, (-1, num_orientations))
    grad = torch.einsum('koi,kcohw->kcihw', turns, grad).flatten(1, 2)
    roi_align_rotated_backward(grad, rois, bottom_grad, *settings)


def rotated_feature_align_forward(
    features: Tensor,
    best_bboxes: Tensor,
    output: Tensor,
    spatial_scale: float,
    points: int,
) -> None:
    """Add to every pixel the features at the centre, or also corners, of its box.

    Args:
        features: (B, C, H, W).
        best_bboxes: (B, H, W, 5) or (B, H * W, 5) boxes in image pixels: centre **y**,
            centre **x**, width, height and the angle that turns the x axis towards the
            y axis.
        output: (B, C, H, W), written.
        spatial_scale: Feature map pixels per image pixel.
        points: 1 for the centre, 5 for the corners as well.

    Source:
        Yang et al., R3Det, https://arxiv.org/abs/1908.05612
    """
    features, best_bboxes = at_least_float32(features, best_bboxes)
    height, width = features.shape[2:]
    for image, boxes in enumerate(best_bboxes.view(-1, height, width, 5)):
        matrix = _box_matrix(boxes, spatial_scale, points)
        table = to_table(features[image : image + 1])
        sampled = from_table(table + matrix @ table, height, width)
        output[image] = sampled[0].to(output)


def rotated_feature_align_backward(
    top_grad: Tensor,
    best_bboxes: Tensor,
    bottom_grad: Tensor,
    spatial_scale: float,
    points: int,
) -> None:
    """Add the gradient of the features to ``bottom_grad`` (B, C, H, W).

    ``top_grad`` is (B, C, H, W), the rest as :func:`rotated_feature_align_forward` got
    it.
    """
    grad, best_bboxes = at_least_float32(top_grad, best_bboxes)
    height, width = grad.shape[2:]
    for image, boxes in enumerate(best_bboxes.view(-1, height, width, 5)):
        matrix = _box_matrix(boxes, spatial_scale, points)
        table = to_table(grad[image : image + 1])
        sampled = from_table(table + matrix.t() @ table, height, width)
        bottom_grad[image] += sampled[0].to(bottom_grad)


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Write the mean of bilinear samples in every bin, each moved by itself.

    Args:
        input: (B, C, H, W) features.
        rois: (K, 5) index of the image, then x1, y1, x2, y2 in image pixels.
        offset: (K, 2, pooled_height, pooled_width) by which bins are moved in x and y,
            in parts of the region's size times ``gamma``; without any number, no bin is
            moved.
        output: (K, C, pooled_height, pooled_width), written.
        pooled_height: Rows of bins.
        pooled_width: Columns of bins.
        spatial_scale: Feature map pixels per image pixel.
        sampling_ratio: Samples per bin and axis; 0 for one per started pixel.
        gamma: How far offsets reach.

    Source:
        Dai et al., Deformable Convolutional Networks, https://arxiv.org/abs/1703.06211
    """
    size = pooled_height, pooled_width
    pooling = Pooling(size, spatial_scale, sampling_ratio, aligned=True)
    output.zero_()
    features, rois, offset = at_least_float32(input, rois, offset)
    table = to_table(features)
    for k, taps in _moved_taps(rois, offset, features.shape, pooling, gamma):
        matrix = sum_matrix(taps.pixels, taps.weights, len(table))
        bins = (matrix @ table).unflatten(0, (len(k), *size))
        output[k] = bins.permute(0, 3, 1, 2).to(output)


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Add gradients to ``grad_input`` and, if there are offsets, to ``grad_offset``.

    ``grad_output`` is (K, C, pooled_height, pooled_width), the gradients have the
    shapes of ``input`` and ``offset``, the rest is as
    :func:`deform_roi_pool_forward` got it.
    """
    size = pooled_height, pooled_width
    pooling = Pooling(size, spatial_scale, sampling_ratio, aligned=True)
    grad, features, rois, offset = at_least_float32(grad_output, input, rois, offset)
    height, width = features.shape[2:]
    table = to_table(features)
    extent = gamma * spatial_scale * (rois[:, 3:5] - rois[:, 1:3])
    for k, taps in _moved_taps(rois, offset, features.shape, pooling, gamma):
        bins = to_table(grad[k])
        matrix = sum_matrix(taps.pixels, taps.weights, len(table))
        grad_input += from_table(matrix.t() @ bins, height, width).to(grad_input)
        if offset.numel():
            for axis, slopes in enumerate((taps.slopes_x, taps.slopes_y)):
                matrix = sum_matrix(taps.pixels, slopes, len(table))
                moved = ((matrix @ table) * bins).sum(1).view(len(k), *size)
                moved = moved * extent[k, axis, None, None]
                grad_offset[k, axis] += moved.to(grad_offset)


def _matrices(
    rois: Tensor, shape: torch.Size, pooling: Pooling, clockwise: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of regions, and the matrix that sums their bins from all pixels."""
    extent = rois[:, 3:5].flip(1) * pooling.scale
    if not pooling.aligned:
        extent = extent.clamp(min=1)
    centre = rois[:, 1:3].flip(1) * pooling.scale - (0.5 if pooling.aligned else 0)
    angle = rois[:, 5] if clockwise else -rois[:, 5]
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    bins = extent / extent.new_tensor(pooling.size)
    for k, per_bin, grid in grids(bins, pooling, _PER_SAMPLE):
        v, u = (
            ((_samples(n, rois) / n - 0.5) * extent[k, axis, None])
            for axis, n in enumerate(grid)
        )
        v, u = v[:, :, None], u[:, None, :]
        y = centre[k, 0, None, None] + u * sin[k] + v * cos[k]
        x = centre[k, 1, None, None] + u * cos[k] - v * sin[k]
        taps = bilinear_taps(y, x, *shape[2:])
        pixels = taps.pixels + _first_pixels(rois[k], shape)[:, None, None, None]
        pixels, weights = (
            _by_bin(z, pooling.size, per_bin) for z in (pixels, taps.weights)
        )
        yield k, sum_matrix(pixels, weights / math.prod(per_bin), _pixels(shape))


def _moved_taps(
    rois: Tensor, offset: Tensor, shape: torch.Size, pooling: Pooling, gamma: float
) -> Iterator[tuple[Tensor, Taps]]:
    """Indices of regions, and the taps of their bins, (bins, taps of a bin) each."""
    start, bins = pooling.bins(rois)
    extent = bins * bins.new_tensor(pooling.size)
    for k, per_bin, grid in grids(bins, pooling, _PER_SAMPLE):
        y, x = (
            start[k, axis, None] + _samples(n, rois) / n * extent[k, axis, None]
            for axis, n in enumerate(grid)
        )
        y, x = torch.broadcast_tensors(y[:, :, None], x[:, None, :])
        if offset.numel():
            moved = gamma * offset[k].flip(1) * extent[k, :, None, None]
            for axis, n in enumerate(per_bin):
                moved = moved.repeat_interleave(n, 2 + axis)
            y, x = y + moved[:, 0], x + moved[:, 1]
        taps = bilinear_taps(y, x, *shape[2:])
        pixels = taps.pixels + _first_pixels(rois[k], shape)[:, None, None, None]
        count = math.prod(per_bin)
        yield (
            k,
            Taps(
                _by_bin(pixels, pooling.size, per_bin),
                *(_by_bin(z, pooling.size, per_bin) / count for z in taps[1:]),
            ),
        )


def _samples(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, dtype=like.dtype, device=like.device) + 0.5


def _first_pixels(rois: Tensor, shape: torch.Size) -> Tensor:
    """Row in the table of the first pixel of each region's image."""
    return rois[:, 0].long() * (shape[2] * shape[3])


def _pixels(shape: torch.Size) -> int:
    return shape[0] * shape[2] * shape[3]


def _by_bin(taps: Tensor, size: tuple[int, int], per_bin: list[int]) -> Tensor:
    """Bring (K, rows of samples, columns, 4) to (K * bins, samples of a bin * 4)."""
    taps = taps.unflatten(2, (size[1], per_bin[1])).unflatten(1, (size[0], per_bin[0]))
    return taps.transpose(2, 3).flatten(3).flatten(0, 2)


def _turns(rois: Tensor, orientations: int) -> Tensor:
    """(K, orientations, orientations) weights of the channels that are turned."""
    whole = rois[:, 5] * (orientations / (2 * math.pi))
    after = (whole - whole.floor())[:, None, None]
    to = torch.arange(orientations, device=rois.device)
    before = (to - whole.floor().long()[:, None]) % orientations
    unit = torch.eye(orientations, dtype=rois.dtype, device=rois.device)
    return (1 - after) * unit[before] + after * unit[(before + 1) % orientations]


def _box_matrix(boxes: Tensor, scale: float, points: int) -> Tensor:
    """(H * W, H * W) matrix that sums the samples of boxes (H, W, 5)."""
    y, x, width, height = (boxes[..., :4] * scale).unbind(-1)
    angle = boxes[..., 4]
    v, u = boxes.new_zeros(2, points)
    if points > 1:
        v[1:] = v.new_tensor([0.5, 0.5, -0.5, -0.5])
        u[1:] = u.new_tensor([0.5, -0.5, -0.5, 0.5])
    v, u = v * height[..., None], u * width[..., None]
    sin, cos = angle.sin()[..., None], angle.cos()[..., None]
    taps = bilinear_taps(
        y[..., None] + u * sin + v * cos, x[..., None] + u * cos - v * sin, *y.shape
    )
    pixels, weights = (z.flatten(2).flatten(0, 1) for z in (taps.pixels, taps.weights))
    return sum_matrix(pixels, weights, y.numel())
