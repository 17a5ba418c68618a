"""How far networks see: what a pixel of a map takes from the image, and how much."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mmrecnext.models import RecConv
from mmrecnext.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARE = 0.95
"""Of all influence, what lies in the square that is told as the effective field."""

KERNEL_SIZE = 5

TITLE_WIDTH = 28
"""Characters above a square."""


@dataclass
class Field:
    """What the middle pixel of a map takes from each pixel before.

    Args:
        title: what it is the field of.
        influence: ``[H, W]``, the mean absolute gradient, 1 at most.
        nominal: side of the square that a formula says, in pixels, if there is one.
    """

    title: str
    influence: np.ndarray
    nominal: int | None = None

    @property
    def effective(self) -> int:
        """Side of the least square in the middle that has ``SHARE`` of it all."""
        height, width = self.influence.shape
        y, x = height // 2, width // 2
        total = self.influence.sum()
        for half in range(max(y, x) + 1):
            square = self.influence[
                max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1
            ]
            if square.sum() >= SHARE * total:
                return 2 * half + 1
        return max(height, width)


def influence(
    function: Callable[[Tensor], Tensor],
    channels: int,
    size: int,
    repeats: int = 8,
    seed: int = 0,
) -> np.ndarray:
    """Measure what the middle pixel of a map takes from each pixel before.

    Args:
        function: of ``[1, channels, size, size]``, gives ``[1, C, H, W]``.
        channels: of what it is given, which is noise.
        size: its height and width.
        repeats: times that the gradient is taken, of other noise each.
        seed: of the noise.

    Returns:
        ``[size, size]``, the mean absolute gradient, 1 at most.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(size, size)
    for _ in range(repeats):
        x = torch.randn(1, channels, size, size, generator=generator)
        x.requires_grad_()
        y = function(x)
        middle = y[0, :, y.size(2) // 2, y.size(3) // 2]
        # Of a random sum: the plain one of normalised channels hardly depends on x.
        weights = torch.randn(middle.shape, generator=generator)
        (grad,) = torch.autograd.grad(middle @ weights, x)
        total += grad.abs().mean((0, 1))
    return (total / total.max()).numpy()


def recconv_fields(
    levels: Sequence[int] = range(5), channels: int = 32, size: int = 128
) -> list[Field]:
    """Measure RecConv of random weights, by level.

    The nominal field is that of the coarsest kernel, ``kernel_size * 2**level``. What
    halves and enlarges the map adds to it, and so do the finer kernels; but most of the
    influence is theirs.

    Args:
        levels: how many times it halves its map.
        channels: of the map.
        size: height and width of the map.
    """
    torch.manual_seed(0)
    return [
        Field(
            f'level {level}',
            influence(
                RecConv(channels, level, KERNEL_SIZE).requires_grad_(False),
                channels,
                size,
            ),
            KERNEL_SIZE * 2**level,
        )
        for level in levels
    ]


class Last(nn.Module):
    """Takes the last of several maps."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return it."""
        return maps[-1]


def model_field(title: str, model: nn.Module, size: int = 224) -> Field:
    """Measure the last stage of a backbone.

    Args:
        title: what to call it.
        model: the backbone.
        size: height and width of the image.
    """
    last = nn.Sequential(model, Last()).eval().requires_grad_(False)
    return Field(title, influence(last, 3, size))


def wrapped(title: str) -> str:
    """Break the lines of a title that are wider than a column, as names of files."""
    lines = title.splitlines() or ['']
    return '\n'.join(textwrap.fill(line, TITLE_WIDTH) for line in lines)


def draw_fields(rows: Mapping[str, Sequence[Field]]) -> Figure:
    """Draw fields, a row of each kind.

    Args:
        rows: fields of one kind each, by what they have in common.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    columns = max(map(len, rows.values()))
    titles = {
        name: [wrapped(field.title) for field in fields]
        for name, fields in rows.items()
    }
    # Narrow for its height: else the layout takes the room of titles for squares.
    lines = sum(1 + max(t.count('\n') for t in row) for row in titles.values())
    figure = new_figure(2.5 * columns + 0.8, 3.0 * len(rows) + 0.2 * lines)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    image: Any = None
    for axes_of_row, (name, fields) in zip(grid, rows.items(), strict=True):
        for axes in axes_of_row[len(fields) :]:
            axes.set_axis_off()
        for axes, field, title in zip(axes_of_row, fields, titles[name], strict=False):
            height, width = field.influence.shape
            shown = field.influence.clip(1e-4)
            image = axes.imshow(shown, norm=LogNorm(1e-4, 1), cmap='magma')
            for side, colour, style in (
                (field.nominal, 'white', '--'),
                (field.effective, '#4dd0e1', '-'),
            ):
                if side and side < min(height, width):
                    corner = (width // 2 - side / 2, height // 2 - side / 2)
                    axes.add_patch(
                        Rectangle(corner, side, side, fill=False, ec=colour, ls=style)
                    )
            axes.set_title(title, fontsize=9)
            axes.set_xticks([0, width - 1], ['0', str(width)], fontsize=7)
            axes.set_yticks([])
            said = f'{SHARE:.0%} in {field.effective} px'
            if field.nominal:
                said += f', nominally {field.nominal}'
            axes.set_xlabel(said, fontsize=9)
        axes_of_row[0].set_ylabel(name, fontsize=10)
    bar = figure.colorbar(image, ax=grid, shrink=0.8)
    # In two lines, not to be higher than a row: there would be no room for titles.
    bar.set_label('influence on the middle,\nshare of the largest')
    squares = [('#4dd0e1', '-', f'{SHARE:.0%} of the influence')]
    if any(field.nominal for fields in rows.values() for field in fields):
        squares.append(('#777777', '--', f'nominal, {KERNEL_SIZE} x 2^level'))
    figure.legend(
        handles=[
            Rectangle((0, 0), 1, 1, fill=False, ec=colour, ls=style, label=label)
            for colour, style, label in squares
        ],
        loc='outside lower center',
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    return figure
