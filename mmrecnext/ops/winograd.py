"""Convolutions of 3x3 in inference, with a fourth of the multiplications.

Source: Winograd's minimal filtering F(4x4, 3x3), after Lavin and Gray, "Fast Algorithms
for Convolutional Neural Networks" (https://arxiv.org/abs/1509.09308). Their points are
whole numbers up to 2, which costs two bits; with the points used here what is added is
alike in size, and rounding that of a direct convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrecnext.ops import fast_paths

KERNEL, TILE = 3, 4
SEEN = TILE + KERNEL - 1
"""Pixels along a side of the kernel, of a tile of the result, of what that one sees."""

POINTS = (0.0, sqrt(0.5), -sqrt(0.5), sqrt(2.0), -sqrt(2.0))
"""Where polynomials are evaluated, besides infinity."""

EXACT: dict[str, Any] = dict(dtype=torch.float64, device='cpu')
"""Of the matrices, whatever the default dtype and device."""

BAND_BYTES = 8 * 2**20
"""Of the tiles that are computed together: what they need stays in cache."""

FEWEST_CHANNELS = 128
"""Of input and output, from which on it pays: the matrix product outweighs the rest."""

FEWEST_TILES = 16
"""From which on it pays to read the larger kernels."""

WASTE = 2
"""Times as many pixels in tiles as in the map, up to which it pays."""


class Conv3x3(nn.Conv2d):
    """A convolution of kernel size 3 that takes the fast path wherever it pays.

    That is on a CPU in fp32, with no gradients, of many channels and pixels. Elsewhere
    it is what it stands for, whose parameters it has.

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
        self._kernels: tuple[object, Tensor] = (None, conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``[N, C, H, W]``."""
        if not self.pays(x):
            return super().forward(x)
        return conv3x3(x, self.kernels(), self.bias, self._pads)

    def pays(self, x: Tensor) -> bool:
        """Tell whether the fast path is there, and faster."""
        weight = self.weight
        if not (
            fast_paths.are_on()
            and x.dim() == 4
            and x.dtype == weight.dtype == torch.float32
            and x.device.type == weight.device.type == 'cpu'
            and min(weight.shape[:2]) >= FEWEST_CHANNELS
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled('cpu')
            and not torch.compiler.is_compiling()
        ):
            return False
        sides = _sides(x, self._pads)
        tiles = len(x) * prod(_tiles(sides))
        pixels = len(x) * prod(sides)
        return tiles >= FEWEST_TILES and tiles * TILE**2 <= WASTE * pixels

    def kernels(self) -> Tensor:
        """Return the transformed weight, made anew whenever that one has changed."""
        weight = self.weight
        version = None if weight.is_inference() else weight._version
        state = (weight.data_ptr(), version)
        if self._kernels[0] != state:
            self._kernels = state, transform(weight)
        return self._kernels[1]


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
    """Return what :func:`conv3x3` takes of a weight, in its dtype.

    Args:
        weight: ``[K, C, 3, 3]``.

    Returns:
        ``[36, C, K]``, summed in float64.
    """
    out_channels, in_channels = weight.shape[:2]
    evaluate = torch.kron(_evaluated(), _evaluated())
    kernels = evaluate @ weight.double().reshape(-1, KERNEL**2).T
    kernels = kernels.view(SEEN**2, out_channels, in_channels).transpose(1, 2)
    return kernels.to(weight.dtype).contiguous()


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
    before, after = (matrix.to(x.dtype) for matrix in _matrices())
    shift = x.new_zeros(1) if bias is None else bias
    (channels, out_channels), sides = kernels.shape[1:], _sides(x, padding)
    tall, wide = _tiles(sides)
    most = max(1, BAND_BYTES // (SEEN**2 * channels * x.element_size()))
    images = min(len(x), max(1, most // (tall * wide)))
    rows = tall if images > 1 else min(tall, max(1, most // wide))

    # Memory of one band serves all: the system hands out new one page by page.
    count = images * rows * wide
    values = [x.new_empty(count * SEEN**2 * channels) for _ in range(2)]
    products = x.new_empty(count * SEEN**2 * out_channels)
    sums = x.new_empty(count * TILE**2 * out_channels)
    band = x.new_empty(count * TILE**2 * out_channels)

    result = x.new_empty(len(x), *sides, out_channels)
    for first in range(0, len(x), images):
        for top in range(0, tall, rows):
            place = result[first : first + images, TILE * top : TILE * (top + rows)]
            part = x[first : first + images]
            grid = (len(part), min(rows, tall - top), wide)
            count = prod(grid)
            tiles = _view(values[0], *grid, SEEN, SEEN, channels)
            tiles.copy_(_tiles_of(part, TILE * top, grid, padding))
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
            ordered = _view(band, *grid[:2], TILE, wide, TILE, out_channels)
            torch.add(found.permute(2, 3, 0, 4, 1, 5), shift, out=ordered)
            ordered = ordered.flatten(3, 4).flatten(1, 2)
            place.copy_(ordered[:, : place.shape[1], : place.shape[2]])
    return result.permute(0, 3, 1, 2)


def _view(space: Tensor, *shape: int) -> Tensor:
    """Return the beginning of what memory there is, in a shape."""
    return space[: prod(shape)].view(shape)


def _tiles_of(
    x: Tensor, top: int, grid: tuple[int, int, int], padding: tuple[int, int]
) -> Tensor:
    """Return what each tile of some rows of them sees, ``[*grid, 6, 6, C]``.

    Args:
        x: ``[N, C, H, W]``.
        top: first row of the result.
        grid: images, tiles from top to bottom, tiles from left to right.
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


def _sides(x: Tensor, padding: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the result."""
    height, width = x.shape[2:]
    return height + 2 * padding[0] - KERNEL + 1, width + 2 * padding[1] - KERNEL + 1


def _tiles(sides: tuple[int, int]) -> tuple[int, int]:
    """Return the tiles from top to bottom, and from left to right."""
    return -(-sides[0] // TILE), -(-sides[1] // TILE)


@lru_cache
def _matrices() -> tuple[Tensor, Tensor]:
    """Return what makes values of a tile, and a tile of the result of their products.

    Returns:
        Matrices ``[36, 36]`` and ``[16, 36]``, float64.
    """
    roots = [[q for q in POINTS if q != p] for p in POINTS]
    before = torch.zeros(SEEN, SEEN, **EXACT)
    for row, zeros in zip(before, [*roots, POINTS], strict=True):
        row[: len(zeros) + 1] = _polynomial(zeros)
    after = _powers(TILE).T
    return torch.kron(before, before), torch.kron(after, after)


def _evaluated() -> Tensor:
    """Return what evaluates a kernel at the points, ``[6, 3]``."""
    scale = [prod(p - q for q in POINTS if q != p) for p in POINTS]
    return _powers(KERNEL) / torch.tensor([*scale, 1.0], **EXACT)[:, None]


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
