"""What the pictures of figures have in common. They need no display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrecnext.errors import OptionError
from mmrecnext.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 40
"""So many classes are named beside a matrix, and what is in it counted."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, of a size in inches.

    Raises:
        OptionError: where matplotlib, which MMEngine brings, is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError('pictures need matplotlib: pip install it') from error
    return Figure(figsize=(width, height), layout='constrained')


def save_figure(figure: Figure, file: str | Path, **options: Any) -> None:
    """Write a figure: whole, or not at all.

    Args:
        figure: what was drawn.
        file: to be written, ``.png`` or ``.svg``.
        options: of matplotlib's ``savefig``.

    Raises:
        OSError: where it cannot be written; one of that name stays as it was.
    """
    with atomic_write(file) as place:
        figure.savefig(place, **options)


def tidy(axes: Axes) -> None:
    """Leave out what is no ink of data."""
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def draw_confusion(
    counts: np.ndarray,
    classes: Sequence[str],
    in_percent: bool = False,
    unit: str = 'pictures',
) -> Figure:
    """Draw what of each class was taken for which.

    Args:
        counts: ``[classes, predicted classes]``.
        classes: their names.
        in_percent: whether to write shares of a class, in place of numbers.
        unit: what is counted.
    """
    side = 3 + 0.35 * min(len(classes), NAMED)
    figure = new_figure(side + 0.6, side)
    axes = figure.subplots()
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    bar = figure.colorbar(image, ax=axes, shrink=0.6)
    bar.set_label(f'share of the {unit} of a class')
    axes.set(xlabel='predicted', ylabel='class')
    if len(classes) > NAMED:
        return figure
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    for (row, column), number in np.ndenumerate(counts):
        share = shares[row, column]
        text = f'{100 * share:.0f}' if in_percent else f'{number}'
        if number and text != '0':
            colour = 'white' if share > 0.5 else 'black'
            axes.text(column, row, text, ha='center', va='center', color=colour)
    return figure


def check_picture(file: str | None, option: str = '--picture') -> None:
    """Check the name of a picture before what is drawn is computed.

    Args:
        file: the name, if any.
        option: that gives it.

    Raises:
        OptionError: for another kind of file, or a folder that is not there.
    """
    if file is None:
        return
    path = Path(file)
    if path.suffix not in ('.png', '.svg'):
        raise OptionError(f'{option} ends in .png or .svg, got {file}')
    if not path.parent.is_dir():
        raise OptionError(f'{option} {file}: there is no folder {path.parent}')
