"""Pooling of regions of interest in place of mmcv's compiled operators.

Regions are (K, 5): index of the image, then x1, y1, x2, y2 in image pixels, which
``spatial_scale`` brings to pixels of the feature map. All operators write into tensors
that the caller provides; a bin without samples is 0 and passes no gradient.

Source: He et al., Mask R-CNN, https://arxiv.org/abs/1703.06870 (RoIAlign);
Girshick, Fast R-CNN, https://arxiv.org/abs/1504.08083 (RoIPool)
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from mmrecnext.mmcv_ext.precision import at_least_float32
from mmrecnext.mmcv_ext.roi_align import Pooling, mean, mean_backward

_tv = torch.ops.torchvision
_MAX_MODE = 0
# regions are max-pooled in chunks of as many samples: 256 MiB of float32
_CHUNK = 2**26


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the mean or maximum of bilinear samples in every bin into ``output``.

    Args:
        input: (B, C, H, W) features.
        rois: (K, 5).
        output: (K, C, aligned_height, aligned_width), written.
        argmax_y: Of the shape of ``output``: written with the row of the greatest
            sample on the feature map. Left alone unless ``pool_mode`` is 0.
        argmax_x: Likewise its column.
        aligned_height: Rows of bins.
        aligned_width: Columns of bins.
        spatial_scale: Feature map pixels per image pixel.
        sampling_ratio: Samples per bin and axis; 0 for one per started pixel.
        pool_mode: 0 maximum, 1 mean.
        aligned: Whether pixel centres lie at .5, as opposed to at whole numbers.
    """
    pooled = (aligned_height, aligned_width)
    pooling = Pooling(pooled, spatial_scale, sampling_ratio, aligned)
    if pool_mode != _MAX_MODE:
        mean(input, rois, output, pooling)
        return
    input, rois = at_least_float32(input, rois)
    output.zero_()
    argmax_y.fill_(-1)
    argmax_x.fill_(-1)
    start, bins = pooling.bins(rois)
    for k, per_bin, grid in grids(bins, pooling, input.size(1)):
        # the samples of a bin are the means of smaller bins of one sample each
        samples = input.new_empty(len(k), input.size(1), *grid)
        single = pooling._replace(size=grid, sampling_ratio=1)
        mean(input, rois[k], samples, single)
        values, index = F.max_pool2d(samples, per_bin, return_indices=True)
        step = bins[k] / bins.new_tensor(per_bin)
        y, x = index // grid[1] + 0.5, index % grid[1] + 0.5
        output[k] = values.to(output)
        argmax_y[k] = (_as_nchw(start[k, 0]) + y * _as_nchw(step[:, 0])).to(argmax_y)
        argmax_x[k] = (_as_nchw(start[k, 1]) + x * _as_nchw(step[:, 1])).to(argmax_x)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of the features to ``grad_input`` (B, C, H, W).

    ``grad_output`` is (K, C, aligned_height, aligned_width), ``argmax_y`` and
    ``argmax_x`` are as :func:`roi_align_forward` wrote them, the rest as it got it.
    """
    pooled, shape = (aligned_height, aligned_width), grad_input.shape
    pooling = Pooling(pooled, spatial_scale, sampling_ratio, aligned)
    if pool_mode != _MAX_MODE:
        mean_backward(grad_output, rois, grad_input, pooling)
        return
    grad, rois = at_least_float32(grad_output, rois)
    argmax_y, argmax_x = argmax_y.to(grad), argmax_x.to(grad)
    total = grad.new_zeros(shape)
    start, bins = pooling.bins(rois)
    for k, per_bin, grid in grids(bins, pooling, shape[1]):
        step = bins[k] / bins.new_tensor(per_bin)
        y = _sample_index(argmax_y[k], start[k, 0], step[:, 0], grid[0])
        x = _sample_index(argmax_x[k], start[k, 1], step[:, 1], grid[1])
        index = (y * grid[1] + x).flatten(2)
        samples = grad.new_zeros(len(k), shape[1], math.prod(grid))
        samples = samples.scatter_add_(2, index, grad[k].flatten(2)).unflatten(2, grid)
        single = pooling._replace(size=grid, sampling_ratio=1)
        mean_backward(samples, rois[k], total, single)
    grad_input += total


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Write the greatest pixel of every bin into ``output``.

    Regions run to the end of their last pixel and are not rounded; a bin takes every
    pixel it touches. torchvision rounds the corners, so its operator differs.

    Args:
        input: (B, C, H, W) features.
        rois: (K, 5).
        output: (K, C, pooled_height, pooled_width), written.
        argmax: int32 of the shape of ``output``, written with y * W + x of the first
            greatest pixel, -1 for an empty bin.
        pooled_height: Rows of bins.
        pooled_width: Columns of bins.
        spatial_scale: Feature map pixels per image pixel.
    """
    input, rois = at_least_float32(input, rois)
    height, width = input.shape[2:]
    bins = (rois[:, 2], rois[:, 4], pooled_height, spatial_scale, height)
    rows, no_rows = _pool_bins(*bins)
    bins = (rois[:, 1], rois[:, 3], pooled_width, spatial_scale, width)
    cols, no_cols = _pool_bins(*bins)
    regions = zip(rois[:, 0].long().tolist(), rows.tolist(), cols.tolist(), strict=True)
    for k, (image, rows_of_k, cols_of_k) in enumerate(regions):
        top, bottom = rows_of_k[0][0], rows_of_k[-1][1]
        values, x = _max_in_bins(input[image, :, top:bottom], cols_of_k)  # (C, h, PW)
        values, y = _max_in_bins(values.mT, (rows[k] - top).tolist())  # (C, PW, PH)
        x = x.mT.gather(2, y)
        output[k] = values.mT.to(output)
        argmax[k] = ((y + top) * width + x).mT.to(argmax)
    empty = no_rows[:, None, :, None] | no_cols[:, None, None, :]
    output.masked_fill_(empty, 0)
    argmax.masked_fill_(empty, -1)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of the features to ``grad_input`` (B, C, H, W).

    ``grad_output`` is (K, C, pooled_height, pooled_width), ``argmax`` is as
    :func:`roi_pool_forward` wrote it, the rest as it got it.
    """
    grad, rois = at_least_float32(grad_output, rois)
    bins = (pooled_height, pooled_width)
    grad_input += _tv._roi_pool_backward(
        grad, rois, argmax, spatial_scale, *bins, *grad_input.shape
    )


def grids(
    bins: Tensor, pooling: Pooling, channels: int
) -> Iterator[tuple[Tensor, list[int], tuple[int, int]]]:
    """Group regions by their grid of samples, in bounded memory.

    Yields:
        Indices of the regions, samples per bin, and samples per region, in y and x.
        Regions without extent, thus without samples, are left out.
    """
    counts = pooling.counts(bins)
    for per_bin in counts.unique(dim=0).tolist():
        grid = pooling.size[0] * per_bin[0], pooling.size[1] * per_bin[1]
        if min(grid) > 0:
            members = (counts == counts.new_tensor(per_bin)).all(1).nonzero()[:, 0]
            at_once = max(1, _CHUNK // (channels * math.prod(grid)))
            for k in members.split(at_once):
                yield k, per_bin, grid


def _sample_index(at: Tensor, start: Tensor, step: Tensor, count: int) -> Tensor:
    """Invert start + (index + 0.5) * step, for coordinates of any precision."""
    # in a region without extent all samples coincide
    step = step.where(step != 0, 1)
    index = ((at - _as_nchw(start)) / _as_nchw(step)).floor()
    return index.long().clamp(0, count - 1)


def _as_nchw(per_roi: Tensor) -> Tensor:
    return per_roi[:, None, None, None]


def _pool_bins(
    first: Tensor, last: Tensor, n: int, scale: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Pixels of n bins along one axis of every region.

    Returns:
        (K, n, 2) first pixel and end of every bin, at least one pixel long, and (K, n)
        whether the bin is empty in truth.
    """
    start = first * scale
    size = (last + 1) * scale - start
    edges = torch.arange(n + 1, device=start.device) * (size / n)[:, None]
    edges = edges + start[:, None]
    first, end = edges[:, :-1].floor(), edges[:, 1:].ceil()
    first, end = first.clamp(0, limit).long(), end.clamp(0, limit).long()
    empty = (end <= first) | (size <= 0)[:, None]
    first = first.clamp(max=limit - 1)
    return torch.stack([first, torch.maximum(end, first + 1)], 2), empty


def _max_in_bins(x: Tensor, bins: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Maxima of x (..., L) within n bins, and their first places: both (..., n)."""
    maxima = [x[..., first:end].max(-1) for first, end in bins]
    firsts = torch.tensor([first for first, _ in bins], device=x.device)
    values = torch.stack([maximum.values for maximum in maxima], -1)
    return values, torch.stack([maximum.indices for maximum in maxima], -1) + firsts
