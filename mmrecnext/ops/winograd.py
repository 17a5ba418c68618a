"""Convolutions of 3x3, and their gradients, with a fourth of the multiplications.

Source: Winograd's minimal filtering F(4x4, 3x3), after Lavin and Gray, "Fast Algorithms
for Convolutional Neural Networks" (https://arxiv.org/abs/1509.09308). Their points are
whole numbers up to 2, which costs two bits; with the points used here what is added is
alike in size, and rounding twice that of a running sum, as in direct convolutions
without AVX-512; with it these round less.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from mmrecnext.ops import fast_paths

aten = torch.ops.aten

KERNEL, TILE = 3, 4
SEEN = TILE + KERNEL - 1
"""Pixels along a side of the kernel, of a tile of the result, of what that one sees."""

POINTS = (0.0, sqrt(0.5), -sqrt(0.5), sqrt(2.0), -sqrt(2.0))
"""Where polynomials are evaluated, besides infinity."""

EXACT: dict[str, Any] = dict(dtype=torch.float64, device='cpu')
"""Of the matrices, whatever the default dtype and device."""

Grid = tuple[int, int, int]

BAND_BYTES = 8 * 2**20
"""Of the tiles that are computed together: what they need stays in cache."""

FEWEST_CHANNELS = 128
"""Of input and output, from which on it pays: the matrix product outweighs the rest."""

FEWEST_TILES = 16
"""From which on it pays to read the larger kernels."""

WASTE = 2
"""Times as many pixels in tiles as in the map, up to which it pays."""

_KERNELS = WeakTensorKeyDictionary()
"""Of each weight that is in use its state, and what :func:`transform` made of it."""


class Conv3x3(nn.Conv2d):
    """A convolution of kernel size 3 that takes the fast path wherever it pays.

    That is on a CPU in fp32, of many channels and pixels, in training too, and in what
    ``torch.compile`` makes for inference. Elsewhere it is what it stands for, whose
    parameters it has.

    Args:
        conv: one that :func:`is_3x3`.
    """

    def __init__(self, conv: nn.Conv2d):
        above, left = map(int, conv.padding)
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            KERNEL,
            padding=(above, left),
            bias=False,
            device='meta',
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.train(conv.training)
        self._pads = above, left

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``[N, C, H, W]``."""
        weight, bias, pads = self.weight, self.bias, self._pads
        if not self.may_pay(x):
            return super().forward(x)
        if torch.compiler.is_compiling():
            return _convolve(x, weight, bias, pads)
        if not _pays(x, pads):
            return super().forward(x)
        if torch.is_grad_enabled():
            found: Tensor = _Conv3x3.apply(x, weight, bias, pads)
            return found
        return conv3x3(x, kernels_of(weight), bias, pads)

    def may_pay(self, x: Tensor) -> bool:
        """Tell whether the fast path is there, whatever the size of the map."""
        weight = self.weight
        return (
            fast_paths.are_on()
            and x.dim() == 4
            and x.dtype == weight.dtype == torch.float32
            and x.device.type == weight.device.type == 'cpu'
            and not torch.is_autocast_enabled('cpu')
            and not (torch.compiler.is_compiling() and torch.is_grad_enabled())
        )


# As an operator of its own, for graphs of torch.compile to take as it is: which way is
# faster, each call decides, and one graph does for all sizes.
@torch.library.custom_op('mmrecnext::conv3x3', mutates_args=())
def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]
) -> Tensor:
    above, left = padding
    if _pays(x, (above, left)):
        return conv3x3(x, kernels_of(weight), bias, (above, left))
    found = F.conv2d(x, weight, bias, padding=(above, left))
    return found.contiguous(memory_format=torch.channels_last)


@_convolve.register_fake
def _(x, weight, bias, padding):
    return torch.empty(
        (len(x), len(weight), *_sides(x, padding)),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )


class _Conv3x3(torch.autograd.Function):
    """A convolution whose gradients are as quick, each a sum over the same tiles."""

    @staticmethod
    def forward(ctx, x, weight, bias, padding):
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return conv3x3(x, transform(weight), bias, padding)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        mask = list(ctx.needs_input_grad[:3])
        padding = ctx.padding
        if torch.is_grad_enabled() or max(padding) >= KERNEL:
            # Of gradients, gradients are wanted; or what is padded sees itself alone.
            sizes = [len(weight)], [1, 1], padding, [1, 1], False, [0, 0], 1, mask
            return *aten.convolution_backward(grad, x, weight, *sizes), None
        inward = (KERNEL - 1 - padding[0], KERNEL - 1 - padding[1])
        backwards = weight.flip(2, 3).transpose(0, 1)
        return (
            conv3x3(grad, transform(backwards), None, inward) if mask[0] else None,
            weight_gradient(grad, x, padding) if mask[1] else None,
            grad.sum((0, 2, 3)) if mask[2] else None,
            None,
        )


def is_3x3(conv: nn.Module) -> bool:
    """Tell whether a layer convolves by a kernel of 3x3, at every pixel, all channels.

    Those with less than ``FEWEST_CHANNELS`` do not count, nor does what pads by other
    values than 0.
    """
    return (
        isinstance(conv, nn.Conv2d)
        and conv.kernel_size == (KERNEL, KERNEL)
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == 'zeros'
        and not isinstance(conv.padding, str)
        and min(conv.in_channels, conv.out_channels) >= FEWEST_CHANNELS
    )


@torch.no_grad()
def transform(weight: Tensor) -> Tensor:
    """Return what :func:`conv3x3` takes of a weight.

    Args:
        weight: ``[K, C, 3, 3]``.

    Returns:
        ``[36, C, K]``.
    """
    evaluate = _matrices(weight.dtype)[0]
    values = weight.permute(2, 3, 1, 0).reshape(KERNEL**2, -1)
    return (evaluate @ values).view(SEEN**2, *weight.shape[1::-1])


def kernels_of(weight: Tensor) -> Tensor:
    """Return :func:`transform` of a weight, made anew whenever that one has changed."""
    version = None if weight.is_inference() else weight._version
    state = (weight.data_ptr(), version)
    kept = _KERNELS.get(weight)
    if kept is None or kept[0] != state:
        kept = _KERNELS[weight] = state, transform(weight)
    return kept[1]


def conv3x3(
    x: Tensor, kernels: Tensor, bias: Tensor | None, padding: tuple[int, int] = (1, 1)
) -> Tensor:
    """Convolve by kernels of 3x3.

    Args:
        x: ``[N, C, H, W]``.
        kernels: ``[36, C, K]``, of :func:`transform`.
        bias: ``[K]``, or none.
        padding: zeros above and below, and at either side.

    Returns:
        ``[N, K, H + 2 * padding[0] - 2, W + 2 * padding[1] - 2]``, channels last.
    """
    _, before, after = _matrices(x.dtype)
    shift = x.new_zeros(1) if bias is None else bias
    (channels, out_channels), sides = kernels.shape[1:], _sides(x, padding)
    bands = _bands(x, sides)

    # Memory of one band serves all: the system hands out new one page by page.
    count = max(prod(grid) for *_, grid in bands)
    values = [x.new_empty(count * SEEN**2 * channels) for _ in range(2)]
    products = x.new_empty(count * SEEN**2 * out_channels)
    sums = x.new_empty(count * TILE**2 * out_channels)
    band = x.new_empty(count * TILE**2 * out_channels)

    result = torch.empty(
        (len(x), out_channels, *sides),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    pixels = result.permute(0, 2, 3, 1)
    for images, rows, grid in bands:
        place, count = pixels[images, rows], prod(grid)
        tiles = _view(values[0], *grid, SEEN, SEEN, channels)
        tiles.copy_(_tiles_of(x[images], rows.start, grid, padding))
        torch.bmm(
            before.expand(count, -1, -1),
            tiles.view(count, SEEN**2, channels),
            out=_view(values[1], count, SEEN**2, channels),
        )
        torch.bmm(
            _view(values[1], count, SEEN**2, channels).transpose(0, 1),
            kernels,
            out=_view(products, SEEN**2, count, out_channels),
        )
        torch.mm(
            after,
            _view(products, SEEN**2, count * out_channels),
            out=_view(sums, TILE**2, count * out_channels),
        )
        found = _view(sums, TILE, TILE, *grid, out_channels)
        ordered = _view(band, *grid[:2], TILE, grid[2], TILE, out_channels)
        torch.add(found.permute(2, 3, 0, 4, 1, 5), shift, out=ordered)
        ordered = ordered.flatten(3, 4).flatten(1, 2)
        place.copy_(ordered[:, : place.shape[1], : place.shape[2]])
    return result


def weight_gradient(
    grad: Tensor, x: Tensor, padding: tuple[int, int] = (1, 1)
) -> Tensor:
    """Return the gradient of a weight, as :func:`conv3x3` would compute it.

    Args:
        grad: of the result, ``[N, K, H', W']``.
        x: ``[N, C, H, W]``.
        padding: see :func:`conv3x3`.

    Returns:
        ``[K, C, 3, 3]``.
    """
    evaluate, before, after = _matrices(x.dtype)
    (channels, out_channels), sides = (x.shape[1], grad.shape[1]), grad.shape[2:]
    total = x.new_zeros(SEEN**2, channels, out_channels)
    for images, rows, grid in _bands(x, sides):
        part, count = grad[images, :, rows], prod(grid)
        tiles = _tiles_of(x[images], rows.start, grid, padding)
        tiles = tiles.reshape(count, SEEN**2, channels)
        values = torch.bmm(before.expand(count, -1, -1), tiles)
        right, down = TILE * grid[2] - sides[1], TILE * grid[1] - part.shape[2]
        parts = F.pad(part, (0, right, 0, down)).permute(0, 2, 3, 1)
        parts = parts.unflatten(2, (grid[2], TILE)).unflatten(1, (grid[1], TILE))
        parts = parts.transpose(2, 3).reshape(count, TILE**2, out_channels)
        grads = torch.bmm(after.T.expand(count, -1, -1), parts)
        total.baddbmm_(values.permute(1, 2, 0), grads.transpose(0, 1))
    found = evaluate.T @ total.view(SEEN**2, -1)
    return found.view(KERNEL, KERNEL, channels, out_channels).permute(3, 2, 0, 1)


def _bands(x: Tensor, sides: Sequence[int]) -> list[tuple[slice, slice, Grid]]:
    """Divide a result of some height and width into what is computed together.

    Returns:
        Of each band the images and the rows of pixels, and how many images, tiles from
        top to bottom, and tiles from left to right these are.
    """
    tall, wide = _tiles(sides)
    most = max(1, BAND_BYTES // (SEEN**2 * x.shape[1] * x.element_size()))
    images = min(len(x), max(1, most // (tall * wide)))
    rows = tall if images > 1 else min(tall, max(1, most // wide))
    return [
        (
            slice(first, first + images),
            slice(TILE * top, TILE * (top + rows)),
            (min(images, len(x) - first), min(rows, tall - top), wide),
        )
        for first in range(0, len(x), images)
        for top in range(0, tall, rows)
    ]


def _pays(x: Tensor, padding: tuple[int, int]) -> bool:
    """Tell whether a map is large enough, and tiles are of much that is in it."""
    sides = _sides(x, padding)
    tiles = len(x) * prod(_tiles(sides))
    return tiles >= FEWEST_TILES and tiles * TILE**2 <= WASTE * len(x) * prod(sides)


def _view(space: Tensor, *shape: int) -> Tensor:
    """Return the beginning of what memory there is, in a shape."""
    return space[: prod(shape)].view(shape)


def _tiles_of(x: Tensor, top: int, grid: Grid, padding: tuple[int, int]) -> Tensor:
    """Return what each tile of some rows of them sees, ``[*grid, 6, 6, C]``.

    Args:
        x: ``[N, C, H, W]``.
        top: first row of the result.
        grid: see :func:`_bands`.
        padding: see :func:`conv3x3`.
    """
    above, left = top - padding[0], padding[1]
    height, width = (TILE * (count - 1) + SEEN for count in grid[1:])
    below = above + height
    part = x[:, :, max(above, 0) : max(below, 0)]
    up = max(-above, 0)
    down = height - up - part.shape[2]
    seen = F.pad(part, (left, width - left - part.shape[3], up, down))
    tiles = seen.unfold(2, SEEN, TILE).unfold(3, SEEN, TILE)
    return tiles.permute(0, 2, 3, 4, 5, 1)


def _sides(x: Tensor, padding: Sequence[int]) -> tuple[int, int]:
    """Return height and width of the result."""
    height, width = x.shape[2:]
    return height + 2 * padding[0] - KERNEL + 1, width + 2 * padding[1] - KERNEL + 1


def _tiles(sides: Sequence[int]) -> tuple[int, int]:
    """Return the tiles from top to bottom, and from left to right."""
    return -(-sides[0] // TILE), -(-sides[1] // TILE)


@lru_cache
@torch.inference_mode(False)
def _matrices(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return what makes values of a kernel and of a tile, and a tile of their products.

    Returns:
        Matrices ``[36, 9]``, ``[36, 36]`` and ``[16, 36]``.
    """
    scale = [prod(p - q for q in POINTS if q != p) for p in POINTS]
    evaluate = _powers(KERNEL) / torch.tensor([*scale, 1.0], **EXACT)[:, None]
    roots = [[q for q in POINTS if q != p] for p in POINTS]
    before = torch.zeros(SEEN, SEEN, **EXACT)
    for row, zeros in zip(before, [*roots, POINTS], strict=True):
        row[: len(zeros) + 1] = _polynomial(zeros)
    after = _powers(TILE).T
    found = (torch.kron(x, x).to(dtype) for x in (evaluate, before, after))
    return tuple(found)  # type: ignore[return-value]  # three of them


def _powers(count: int) -> Tensor:
    """Return the first powers of each point, of infinity the last: ``[6, count]``."""
    powers = torch.tensor(POINTS, **EXACT)[:, None] ** torch.arange(count, **EXACT)
    last = torch.zeros(1, count, **EXACT)
    last[0, -1] = 1
    return torch.cat([powers, last])


def _polynomial(zeros: Sequence[float]) -> Tensor:
    """Return the coefficients of what has these zeros, the constant first."""
    coefficients = torch.ones(1, **EXACT)
    for zero in zeros:
        coefficients = F.pad(coefficients, (1, 0)) - zero * F.pad(coefficients, (0, 1))
    return coefficients
