"""RoIAlign on a CPU, as weighted sums of rows of a table.

The table has a row per pixel, its channels. The mean of the bilinear samples in a bin
is a weighted sum of rows, and the weight of a pixel is that of its row in the map times
that of its column: both axes are weighed by themselves, and a pixel that several
samples share is read once. The gradient is the same sum transposed.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from mmrecnext.mmcv_ext.precision import at_least_float32

_tv = torch.ops.torchvision
# Entries of the sums at once, 12 bytes each. A forward pass has no use for more, each
# of a backward pass writes the whole gradient once.
_ENTRIES = 2**18
_ENTRIES_BACKWARD = 2**23
# Pixels of a gradient at once: few enough to stay in the cache.
_PIXELS = 2**12
# While sums are prepared torchvision computes so many bins times channels, or brings as
# many numbers into its layout; its backward pass is the slower one. Numbers are brought
# into rows _ROWS times as fast.
_PREPARED = 2**19
_PREPARED_BACKWARD = 2**16
_ROWS = 4


class Pooling(NamedTuple):
    """How regions are pooled.

    Args:
        size: Rows and columns of bins.
        scale: Feature map pixels per image pixel.
        sampling_ratio: Samples per bin and axis; 0 for one per started pixel.
        aligned: Whether pixel centres lie at .5, as opposed to at whole numbers.
    """

    size: tuple[int, int]
    scale: float
    sampling_ratio: int
    aligned: bool

    def bins(self, rois: Tensor) -> tuple[Tensor, Tensor]:
        """First corner and bin size of every region, (K, 2) of y, x on the map."""
        corners = rois[:, 1:].unflatten(1, (2, 2)).flip(2) * self.scale
        start, end = (corners - (0.5 if self.aligned else 0)).unbind(1)
        size = end - start if self.aligned else (end - start).clamp(min=1)
        return start, size / size.new_tensor(self.size)

    def counts(self, bins: Tensor) -> Tensor:
        """Samples per bin, (K, 2) of y, x, none of them positive where there are none.

        ``bins`` are their sizes.
        """
        if self.sampling_ratio > 0:
            return torch.full_like(bins, self.sampling_ratio, dtype=torch.int64)
        return bins.ceil().long()


def mean(input: Tensor, rois: Tensor, output: Tensor, pooling: Pooling) -> None:
    """Write the mean of the samples of every bin into ``output``.

    Args:
        input: (B, C, H, W) features.
        rois: (K, 5).
        output: (K, C, *pooling.size), written.
        pooling: How.
    """
    channels_last = input.is_contiguous(memory_format=torch.channels_last)
    layout = -input.numel() if channels_last else input.numel() // _ROWS
    if not _are_summed(output, _PREPARED + layout):
        whole, rois = at_least_float32(input, rois)
        ratio, aligned = pooling.sampling_ratio, pooling.aligned
        output.copy_(
            _tv.roi_align(whole, rois, pooling.scale, *pooling.size, ratio, aligned)
        )
        return
    table = input.permute(0, 2, 3, 1).flatten(0, 2).contiguous()
    empty = torch.ones(len(rois), dtype=torch.bool)
    for k, pixels, weights in _sums(input, rois, pooling, _ENTRIES):
        bins = F.embedding_bag(
            pixels.flatten(3).flatten(0, 2),
            table,
            per_sample_weights=weights.flatten(3).flatten(0, 2),
            mode='sum',
        )
        bins = bins.unflatten(0, (len(k), *pooling.size))
        output[k] = bins.permute(0, 3, 1, 2).to(output)
        empty[k] = False
    if empty.any():
        output[empty] = 0


def mean_backward(
    grad: Tensor, rois: Tensor, grad_input: Tensor, pooling: Pooling
) -> None:
    """Add the gradient of the features to ``grad_input`` (B, C, H, W).

    ``grad`` is (K, C, *pooling.size), ``rois`` and ``pooling`` as :func:`mean` got
    them.
    """
    shape = grad_input.shape
    if not _are_summed(grad, _PREPARED_BACKWARD):
        grad, rois = at_least_float32(grad, rois)
        ratio, aligned = pooling.sampling_ratio, pooling.aligned
        settings = (pooling.scale, *pooling.size, *shape, ratio, aligned)
        grad_input += _tv._roi_align_backward(grad, rois, *settings)
        return
    table = grad.permute(0, 2, 3, 1).flatten(0, 2).contiguous()
    bins = torch.arange(len(table), dtype=torch.int32).view(len(rois), *pooling.size)
    entries: list[tuple[Tensor, Tensor, Tensor]] = []
    held = 0
    for k, pixels, weights in _sums(grad_input, rois, pooling, _ENTRIES):
        of_bin = bins[k, ..., None, None].expand(pixels.shape)
        entries.append((pixels.flatten(), of_bin.flatten(), weights.flatten()))
        held += pixels.numel()
        if held > _ENTRIES_BACKWARD:
            _add_transposed(entries, table, grad_input)
            entries, held = [], 0
    if entries:
        _add_transposed(entries, table, grad_input)


def _are_summed(bins: Tensor, least: int) -> bool:
    """Tell whether bins (K, C, h, w) of more than ``least`` numbers become sums.

    On other devices torchvision is fast, and in graphs its operator is understood.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return bins.device.type == 'cpu' and bins.numel() > least


def _add_transposed(
    entries: list[tuple[Tensor, Tensor, Tensor]], table: Tensor, grad_input: Tensor
) -> None:
    """Add the weighted sum of those rows of ``table`` that have a pixel, per pixel.

    Args:
        entries: Pixel, row and weight of each, in parts.
        table: (R, C).
        grad_input: (B, C, H, W).
    """
    per_image = grad_input.shape[2] * grad_input.shape[3]
    pixels, rows, weights = map(torch.cat, zip(*entries, strict=True))
    pixels, order = pixels.sort()
    rows, weights = rows[order], weights[order]
    counts = torch.bincount(pixels, minlength=len(grad_input) * per_image)
    ends = counts.cumsum(0)
    starts = (ends - counts).int()
    for image, grad in enumerate(grad_input):
        for first in range(0, per_image, _PIXELS):
            last = min(first + _PIXELS, per_image)
            a, b = image * per_image + first, image * per_image + last
            begin, end = int(starts[a]), int(ends[b - 1])
            if begin == end:
                continue
            sums = F.embedding_bag(
                rows[begin:end],
                table,
                starts[a:b] - begin,
                per_sample_weights=weights[begin:end],
                mode='sum',
            )
            # PyTorch adds tensors of unlike layouts several times slower.
            grad.flatten(1)[:, first:last] += sums.t().contiguous()


def _sums(
    features: Tensor, rois: Tensor, pooling: Pooling, limit: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What the bins of regions are sums of.

    Regions come in groups of the same number of samples, as many at once as have
    ``limit`` entries, at least one. Those without samples are left out.

    Args:
        features: Of the shape (B, C, H, W) and the type of the features.
        rois: (K, 5).
        pooling: How.
        limit: Entries.

    Yields:
        Indices of k regions; for each of their bins pixels, as rows of a table of all
        images, int32, and their weights, both (k, h, w, pixels high, pixels wide).
    """
    height, width = features.shape[2:]
    _, rois = at_least_float32(features[:0], rois)
    start, bins = pooling.bins(rois)
    counts = pooling.counts(bins)
    members = (counts > 0).all(1).nonzero()[:, 0]
    grids, group, sizes = counts[members].unique(
        dim=0, return_inverse=True, return_counts=True
    )
    # Groups are side by side, so that parts of them are views.
    members = members[group.argsort(stable=True)]
    first_row = rois[members, 0].int()[:, None, None] * (height * width)
    for band in _bands(grids.tolist(), sizes.tolist(), pooling, limit):
        begin, end = band[0][0], band[-1][1]
        k = members[begin:end]
        axes = (
            _weigh(start[k, i], bins[k, i], counts[k, i], pooling, i, features.shape)
            for i in range(2)
        )
        (y, y_weight), (x, x_weight) = axes
        y = y * width + first_row[begin:end]
        y_weight, x_weight = y_weight.to(features.dtype), x_weight.to(features.dtype)
        for a, b, high, wide in band:
            part = slice(a - begin, b - begin)
            rows, columns = y[part, :, None, :high, None], x[part, None, :, None, :wide]
            of_rows = y_weight[part, :, None, :high, None]
            of_columns = x_weight[part, None, :, None, :wide]
            yield k[part], rows + columns, of_rows * of_columns


def _bands(
    grids: list[list[int]], sizes: list[int], pooling: Pooling, limit: int
) -> Iterator[list[tuple[int, int, int, int]]]:
    """Divide regions in groups into bands of at most ``limit`` entries.

    Args:
        grids: Samples per bin of each group, in y and x.
        sizes: Regions of each.
        pooling: How.
        limit: Entries.

    Yields:
        Parts of groups: first region, end, and pixels per bin in y and x.
    """
    band: list[tuple[int, int, int, int]] = []
    held = begin = 0
    for grid, size in zip(grids, sizes, strict=True):
        high, wide = (_pixels_per_bin(count, pooling) for count in grid)
        entries = pooling.size[0] * pooling.size[1] * high * wide
        at_once = max(1, limit // entries)
        for first in range(begin, begin + size, at_once):
            end = min(first + at_once, begin + size)
            if band and held + (end - first) * entries > limit:
                yield band
                band, held = [], 0
            band.append((first, end, high, wide))
            held += (end - first) * entries
        begin += size
    if band:
        yield band


def _pixels_per_bin(count: int, pooling: Pooling) -> int:
    """How many pixels of an axis samples touch that are at most a pixel apart."""
    return 2 * count if pooling.sampling_ratio > 0 else count + 1


def _weigh(
    start: Tensor,
    bins: Tensor,
    counts: Tensor,
    pooling: Pooling,
    axis: int,
    shape: torch.Size,
) -> tuple[Tensor, Tensor]:
    """Pixels along one axis under the samples of every bin, and their weights.

    Args:
        start: (K,) first coordinate of the regions.
        bins: (K,) size of their bins.
        counts: (K,) samples per bin.
        pooling: How.
        axis: 0 for y, 1 for x.
        shape: (B, C, H, W) of the features.

    Returns:
        Two of (K, bins, pixels), the pixels int32.
    """
    limit = shape[2 + axis]
    start, bins, counts = (per[:, None, None] for per in (start, bins, counts))
    most = int(counts.max())
    bin = torch.arange(pooling.size[axis])[:, None]
    sample = torch.arange(most)
    at = start + bin * bins + (sample + 0.5) * bins / counts
    counted = (at >= -1) & (at <= limit) & (sample < counts)
    share = counted / counts.to(at)
    at = at.clamp(0, limit - 1).nan_to_num()
    before = at.floor()
    if pooling.sampling_ratio > 0:
        after = at - before
        pixels = torch.stack([before, before + 1], -1).flatten(-2)
        weights = torch.stack([(1 - after) * share, after * share], -1).flatten(-2)
    else:
        first = before[..., :1]
        # The last sample may be rounded to a pixel further.
        offset = (before - first).minimum(counts - 1)
        after = at - first - offset
        place = offset.long()
        weights = at.new_zeros(*at.shape[:2], most + 1)
        weights.scatter_add_(2, place, (1 - after) * share)
        weights.scatter_add_(2, place + 1, after * share)
        pixels = first + torch.arange(most + 1)
    return pixels.clamp(max=limit - 1).int(), weights
