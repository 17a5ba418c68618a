"""RecConv by Triton: each level is read and written once.

What bounds a level is how many instructions a pixel costs, memory next. With a tile per
tap, each pixel would be loaded, converted and interpolated 25 times. So a thread owns a
strip of ``STRIP`` columns in a pair of channels, and walks down the map: a pixel is
loaded and interpolated ``1 + (KERNEL - 1) / STRIP`` times, and goes into the sums of
all the outputs that it touches, which stay in registers. A row of the coarse map is
widened once, and serves the fine rows on either side. To write out the enlarged sum,
for another kernel to convolve, would move two maps more where a level moves 2.25.

Importing this module imports Triton; :mod:`mmrecnext.ops.recconv` does so where the
kernels can run.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton


@triton.jit
def source(index, size, fine_size):
    """Return where bilinear interpolation reads: two indices, weight of the second."""
    scale = tl.div_rn(size.to(tl.float32), fine_size.to(tl.float32))
    place = tl.maximum(tl.fma(index.to(tl.float32) + 0.5, scale, -0.5), 0.0)
    low = place.to(tl.int32)
    return low, tl.minimum(low + 1, size - 1), place - low.to(tl.float32)


@triton.jit
def coarse_place(index, size, fine_size, MODE: tl.constexpr):
    """Return which two coarse indices make the fine one, and the second's weight."""
    if MODE == 'bilinear':
        return source(index, size, fine_size)
    else:
        low = index * size // fine_size
        return low, low, 1.0


@triton.jit
def widened(row_ptr, places, MODE: tl.constexpr):
    """Return a row of the coarse map at each of the fine columns ``places``."""
    tiles = ()
    for i in tl.static_range(len(places)):
        low, high, share, mask = places[i]
        tile = tl.load(row_ptr + high, mask, 0.0).to(tl.float32)
        if MODE == 'bilinear':
            first = tl.load(row_ptr + low, mask, 0.0).to(tl.float32)
            tile = tl.fma(tile - first, share, first)
        tiles += (tile,)
    return tiles


@triton.jit
def taps_of(
    weight_ptr,
    channel,
    channels,
    TAPS: tl.constexpr,
    STRIPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return the weights ``[TAPS, C]`` of a block of channels, a tile for each tap."""
    tiles = ()
    for tap in tl.static_range(TAPS):
        tile = tl.load(weight_ptr + tap * channels + channel, channel < channels, 0.0)
        tiles += (tl.broadcast_to(tile.to(tl.float32), (STRIPS, BLOCK)),)
    return tiles


@triton.jit
def fine_row(row_ptr, places, is_row):
    """Return a row of the fine map at the columns ``places``, zeros if it has none."""
    tiles = ()
    for i in tl.static_range(len(places)):
        place, mask = places[i]
        tile = tl.load(row_ptr + place, mask & is_row, 0.0)
        tiles += (tile.to(tl.float32),)
    return tiles


@triton.jit
def add_row(tiles, above, below, share, is_row, MODE: tl.constexpr):
    """Add to a row of the fine map what lies between two rows of the coarse one."""
    of_above = tl.where(is_row, 1 - share, 0.0)
    of_below = tl.where(is_row, share, 0.0)
    summed = ()
    for i in tl.static_range(len(tiles)):
        tile = tl.fma(below[i], of_below, tiles[i])
        if MODE == 'bilinear':
            tile = tl.fma(above[i], of_above, tile)
        summed += (tile,)
    return summed


@triton.jit
def convolve_row(
    sums, tiles, weight, FIRST: tl.constexpr, STRIDE: tl.constexpr, STRIP: tl.constexpr
):
    """Add to each open sum what it takes from a row of the input.

    The latest output sees the row through row ``FIRST`` of the kernel, those before it
    through rows ``STRIDE`` further down each.
    """
    KERNEL: tl.constexpr = len(tiles) - (STRIP - 1) * STRIDE
    updated = ()
    for i in tl.static_range(len(sums)):
        total = sums[i]
        if FIRST + i // STRIP * STRIDE < KERNEL:
            for tap in tl.static_range(KERNEL):
                total = tl.fma(
                    weight[(FIRST + i // STRIP * STRIDE) * KERNEL + tap],
                    tiles[i % STRIP * STRIDE + tap],
                    total,
                )
        updated += (total,)
    return updated


@triton.jit
def open_next(sums, start, STRIP: tl.constexpr):
    """Drop the sums of the earliest output row, and begin those of the next."""
    updated = ()
    for i in tl.static_range(len(sums)):
        if i < STRIP:
            updated += (start,)
        else:
            updated += (sums[i - STRIP],)
    return updated


@triton.jit
def store_row(row_ptr, sums, left, width, channel, mask, channels):
    """Write the last ``STRIP`` of the sums, to columns ``left`` and on."""
    STRIP: tl.constexpr = len(sums)
    for i in tl.static_range(STRIP):
        place = (left + i) * channels + channel
        value = sums[i].to(row_ptr.dtype.element_ty)
        tl.store(row_ptr + place, value, mask & (left + i < width))


@triton.jit(
    do_not_specialize=[
        'height',
        'width',
        'coarse_height',
        'coarse_width',
        'rows',
        'units',
        'biased',
    ]
)
def depthwise(
    fine_ptr,
    coarse_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    height,
    width,
    coarse_height,
    coarse_width,
    rows,
    units,
    biased,
    UNIT: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    MODE: tl.constexpr,
    STRIP: tl.constexpr,
    STRIPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Convolve ``fine + enlarge(coarse)``, or ``fine`` alone.

    Maps are ``[N, H, W, C]``, weights ``[KERNEL * KERNEL, C]``, the bias ``[C]``. ``C``
    is ``units * UNIT``: the one fits any model, the other tells how wide loads can be.
    ``biased`` is 0 where there is no bias, else ``C``. A program computes ``rows`` rows
    and ``STRIPS * STRIP`` columns of ``BLOCK`` channels.

    The sums of ``SLOTS`` output rows are open at a time, the latest first: slot ``p``
    sees an input row through row ``p * STRIDE`` of the kernel, and the next ones
    through the next; its output is written after the last.
    """
    SLOTS: tl.constexpr = (KERNEL + STRIDE - 1) // STRIDE
    COLUMNS: tl.constexpr = (STRIP - 1) * STRIDE + KERNEL
    channels = units * UNIT
    blocks = (channels + BLOCK - 1) // BLOCK
    out_height = (height + STRIDE - 1) // STRIDE
    out_width = (width + STRIDE - 1) // STRIDE
    n = tl.program_id(2).to(tl.int64)
    top = tl.program_id(1) * rows
    channel = (tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK))[None]
    strip = tl.program_id(0) // blocks * STRIPS + tl.arange(0, STRIPS)
    left = strip[:, None] * STRIP
    is_channel = channel < channels
    fine_ptr += n * height * width * channels
    out_ptr += n * out_height * out_width * channels
    if MODE != 'none':
        coarse_ptr += n * coarse_height * coarse_width * channels

    weight = taps_of(weight_ptr, channel, channels, KERNEL * KERNEL, STRIPS, BLOCK)
    start = tl.full((STRIPS, BLOCK), 0.0, tl.float32)
    start += tl.load(bias_ptr + channel, channel < biased, 0.0).to(tl.float32)
    sums = ()
    for _slot in tl.static_range(SLOTS * STRIP):
        sums += (start,)

    places = ()
    coarse_places = ()
    for i in tl.static_range(COLUMNS):
        column = left * STRIDE + i - KERNEL // 2
        mask = (column >= 0) & (column < width) & is_channel
        places += ((column * channels + channel, mask),)
        if MODE != 'none':
            low, high, share = coarse_place(column, coarse_width, width, MODE)
            place = (low * channels + channel, high * channels + channel, share, mask)
            coarse_places += (place,)

    # Conditions on a row are tiles [1, 1]: Triton's interpreter widens scalar ones.
    zero = tl.full((1, 1), 0, tl.int32)
    row = top * STRIDE - KERNEL // 2
    above = ()
    below = ()
    last = 0
    pitch = 0
    if MODE != 'none':
        pitch = coarse_width * channels
        last, high, share = coarse_place(
            tl.maximum(row, 0), coarse_height, height, MODE
        )
        above = widened(coarse_ptr + last * pitch, coarse_places, MODE)
        below = widened(coarse_ptr + high * pitch, coarse_places, MODE)

    for first in range(1 - SLOTS, rows):
        for j in tl.static_range(STRIDE):
            is_row = (row + zero >= 0) & (row + zero < height)
            tiles = fine_row(fine_ptr + row * width * channels, places, is_row)
            if MODE != 'none':
                inside = tl.minimum(tl.maximum(row, 0), height - 1)
                low_row, high_row, share = coarse_place(
                    inside, coarse_height, height, MODE
                )
                if low_row > last:
                    above = below
                    below = widened(coarse_ptr + high_row * pitch, coarse_places, MODE)
                    last = low_row
                tiles = add_row(tiles, above, below, share, is_row, MODE)
            sums = convolve_row(sums, tiles, weight, j, STRIDE, STRIP)
            if j == (KERNEL - 1) % STRIDE:
                is_out = (first + zero >= 0) & (top + first + zero < out_height)
                store_row(
                    out_ptr + (top + first) * out_width * channels,
                    sums[(SLOTS - 1) * STRIP :],
                    left,
                    out_width,
                    channel,
                    is_out & is_channel,
                    channels,
                )
            row += 1
        sums = open_next(sums, start, STRIP)


def launch(
    fine: Tensor,
    coarse: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    mode: str,
    stride: int,
    rows: int,
) -> Tensor:
    """Return the convolution of ``fine``, with ``coarse`` enlarged and added if given.

    Args:
        fine: ``[N, C, H, W]``, channels-last.
        coarse: ``[N, C, h, w]``, channels-last, at most as large.
        weight: ``[kernel_size ** 2, C]``, contiguous.
        bias: ``[C]``.
        mode: how ``coarse`` is enlarged, ``bilinear`` or ``nearest``.
        stride: 1 or 2.
        rows: how far a program walks: the more, the fewer rows are read twice, and the
            fewer programs there are.
    """
    n, channels, height, width = fine.shape
    kernel_size = math.isqrt(weight.shape[0])
    out_height, out_width = -(-height // stride), -(-width // stride)
    out = torch.empty(
        (n, channels, out_height, out_width),
        dtype=fine.dtype,
        device=fine.device,
        memory_format=torch.channels_last,
    )
    unit = math.gcd(channels, 16)
    # The least padding, and of equals the largest: as many bytes in a row as can be.
    block = min((64, 32, 16), key=lambda size: -channels % size)
    # Sums, weights and a widened row fit the 255 registers of a thread.
    strip = 4 if stride == 1 and kernel_size <= 5 else 2
    strips = 256 // block  # two channels of one strip per thread, in four warps
    grid = (
        -(-channels // block) * -(-out_width // (strips * strip)),
        -(-out_height // rows),
        n,
    )
    wrap_triton(depthwise)[grid](
        fine,
        coarse,
        weight,
        weight if bias is None else bias,
        out,
        height,
        width,
        1 if coarse is None else coarse.shape[2],
        1 if coarse is None else coarse.shape[3],
        rows,
        channels // unit,
        0 if bias is None else channels,
        UNIT=unit,
        KERNEL=kernel_size,
        STRIDE=stride,
        MODE='none' if coarse is None else mode,
        STRIP=strip,
        STRIPS=strips,
        BLOCK=block,
    )
    return out


@triton_op('mmrecnext::recconv', mutates_args=())
def recconv(
    x: Tensor,
    down: Tensor | None,
    convs: Sequence[Tensor],
    bias: Tensor | None,
    mode: str,
) -> Tensor:
    """Return what :class:`mmrecnext.models.recconv.RecConv` does, channels-last.

    Args:
        x: ``[N, C, H, W]``.
        down: weight ``[C, 1, K, K]`` of the convolution that halves the map; unused at
            level 0.
        convs: a weight ``[C, 1, K, K]`` per level, the coarsest first.
        bias: ``[C]``, of the last convolution.
        mode: how maps are enlarged, ``bilinear`` or ``nearest``.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    finer = []
    for _ in convs[1:]:
        finer.append(x)
        x = launch(x, None, taps(down), None, mode, stride=2, rows=8)
    mixed = None
    for weight in convs:
        is_last = len(finer) == 0
        mixed = launch(
            x,
            mixed,
            taps(weight),
            bias if is_last else None,
            mode,
            stride=1,
            rows=16 if is_last else 8,
        )
        x = finer.pop() if finer else x
    return mixed


def taps(weight: Tensor) -> Tensor:
    """Return a depthwise weight ``[C, 1, K, K]`` as ``[K * K, C]``, contiguous."""
    return weight.flatten(1).t().contiguous()
