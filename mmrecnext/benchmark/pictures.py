"""Pictures of what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from mmrecnext.archs import ARCHS
from mmrecnext.benchmark.accuracy import ACCURACIES, NAMES_OF_PEERS
from mmrecnext.benchmark.cases import Case, kind_of, short_name
from mmrecnext.benchmark.measure import Result
from mmrecnext.errors import OptionError
from mmrecnext.plots import new_figure, save_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIB = 2**20
MEGA = 1e6
COLOURS = {'M': '#1b6ca8', 'A': '#c8553d', 'T, S, B': '#3a7d44', 'shared': '#8a5fa8'}
PEER_COLOUR = '#777777'
OURS, PEERS = (-5, 3), (6, -9)
"""Where labels stand beside marks, in points."""
MARKS = {'deploy': 'o', 'train': 's', 'original': '^'}


def series_of(model: str) -> str | None:
    """Return the series of a RecNeXt, None of a peer."""
    if kind_of(model) != 'recnext':
        return None
    name = short_name(model)
    if name.endswith('_share_channel'):
        return 'shared'
    kind = name[0].upper()
    return kind if kind in COLOURS else 'T, S, B'


def label_of(model: str) -> str:
    """Return a short label: ``M3``, or the name of a peer."""
    if kind_of(model) != 'recnext':
        return NAMES_OF_PEERS.get(model, model)
    return short_name(model).split('_')[0].upper()


def keep_labels_apart(figure: Figure, places: Sequence[tuple[float, float]] = ()):
    """Move labels until none lies on another of the same panel, or on a mark.

    Args:
        figure: whose labels are annotations that stand at an offset from a mark.
        places: other offsets to try, in points; after these, labels move up.
    """
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    for axes in figure.axes:
        marks = (
            place
            for line in axes.lines
            for place in line.get_transform().transform(line.get_xydata())
        )
        taken = [Bbox([place, place]).padded(4) for place in marks]
        labels: Iterable[Any] = axes.texts
        for label in sorted(labels, key=lambda text: text.get_window_extent().y0):
            x, y = label.xyann
            for offset in chain([(x, y)], places, ((x, y + i) for i in count(1))):
                label.xyann = offset
                label.set_horizontalalignment('right' if offset[0] < 0 else 'left')
                box = label.get_window_extent()
                if not any(box.overlaps(other) for other in taken):
                    break
            taken.append(box)


def draw_accuracy(results: Sequence[Result], file: str, caption: str):
    """Draw accuracy against latency, a panel per accuracy that is known.

    The first way that each form of a model was run in is drawn: the first type and
    mode that were asked for.

    Args:
        results: of inference.
        file: where to, a file name that ends in ``.png`` or ``.svg``.
        caption: stands below.

    Raises:
        OptionError: where no accuracy of what was measured is known.
    """
    chosen: dict[tuple[str, str], Result] = {}
    for result in results:
        if result.case.work == 'forward' and kind_of(result.case.model) != 'config':
            chosen.setdefault((result.case.model, result.case.form), result)
    panels = {
        name: [(r, a) for r in chosen.values() if (a := known(r.case.model))]
        for name, known in ACCURACIES.items()
    }
    panels = {name: points for name, points in panels.items() if points}
    if not panels:
        raise OptionError('--picture: no accuracy of what was measured is known')
    figure = new_figure(5.2 * len(panels) + 0.4, 4.4)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, points) in zip(all_axes, panels.items(), strict=True):
        scatter(axes, points)
        axes.set_xlabel(f'milliseconds, {task(points[0][0].case)}')
        axes.set_ylabel(name)
    forms = dict.fromkeys(form for _, form in chosen)
    if len(forms) > 1:
        for form in forms:
            all_axes[0].plot([], [], MARKS[form], color=PEER_COLOUR, label=form)
        all_axes[0].legend(frameon=False, loc='lower right')
    figure.supxlabel(caption, fontsize=7, color=PEER_COLOUR)
    keep_labels_apart(figure, [OURS, PEERS, (6, 3), (-5, -9)])
    save_figure(figure, file, dpi=160)


def scatter(axes: Axes, points: Sequence[tuple[Result, float]]):
    """Draw accuracies; what is one model in several forms is joined by a line."""
    tidy(axes)
    models: dict[str, list[tuple[Result, float]]] = {}
    for result, accuracy in points:
        models.setdefault(result.case.model, []).append((result, accuracy))
    for model, found in models.items():
        colour = COLOURS.get(series_of(model) or '', PEER_COLOUR)
        times = [r.median * 1e3 for r, _ in found]
        accuracy = found[0][1]
        axes.plot(times, [accuracy] * len(times), color=colour, alpha=0.35, lw=1)
        for (result, _), x in zip(found, times, strict=True):
            original = result.case.form == 'original'
            axes.plot(
                x,
                accuracy,
                MARKS[result.case.form],
                color=colour,
                markerfacecolor='white' if original else colour,
                markersize=6,
            )
        ours = colour != PEER_COLOUR
        axes.annotate(
            label_of(model),
            (min(times), accuracy),
            xytext=OURS if ours else PEERS,
            textcoords='offset points',
            ha='right' if ours else 'left',
            fontsize=8,
            color=colour,
        )
    axes.set_xlim(left=0)
    axes.margins(y=0.1)


def task(case: Case) -> str:
    """Describe what is timed."""
    ways = (f'{case.batch} x {case.shape[0]} x {case.shape[1]}', case.dtype, case.mode)
    return ', '.join(ways)


def draw_growth(results: Sequence[Result], file: str, caption: str):
    """Draw time and memory per pixel against size, and time against the batch.

    Args:
        results: of square images: of several sizes at the smallest batch, and of
            several batches at the smallest size; of RecNeXts.
        file: where to, a file name that ends in ``.png`` or ``.svg``.
        caption: stands below.
    """
    one = min(r.case.batch for r in results)
    small = min(r.case.shape for r in results)
    sizes = [r for r in results if r.case.batch == one]
    batches = [r for r in results if r.case.shape == small]
    images = f'images of {small[0]} x {small[1]}'
    columns = (
        ('ns per pixel', 'side of the image', sizes, side, nanoseconds),
        ('bytes per pixel', 'side of the image', sizes, side, peak),
        (
            'ns per pixel',
            images,
            batches,
            lambda result: result.case.batch,
            nanoseconds,
        ),
    )
    present = [s for s in COLOURS if any(series_of(r.case.model) == s for r in results)]
    figure = new_figure(11.5, 2.2 * len(present) + 0.5)
    grid = figure.subplots(len(present), len(columns), squeeze=False, sharey='col')
    for row, series in zip(grid, present, strict=True):
        own = [m for m in ARCHS if series_of(m) == series]
        for axes, (title, xlabel, drawn, place, value) in zip(
            row, columns, strict=True
        ):
            for i, model in enumerate(own):
                line = [r for r in drawn if short_name(r.case.model) == model]
                draw_line(axes, line, place, value, COLOURS[series], i / len(own))
            log_axes(axes, sorted({place(r) for r in drawn}))
            if series == present[0]:
                axes.set_title(title, fontsize=10)
            if series == present[-1]:
                axes.set_xlabel(xlabel)
        row[0].set_ylabel(series, color=COLOURS[series], fontweight='bold')
    figure.supxlabel(caption, fontsize=7, color=PEER_COLOUR)
    keep_labels_apart(figure)
    save_figure(figure, file, dpi=140)


def side(result: Result) -> int:
    """Return the side of the image."""
    return result.case.shape[0]


def nanoseconds(result: Result) -> float:
    """Return the time per pixel."""
    return result.median / result.case.pixels * 1e9


def peak(result: Result) -> float:
    """Return the bytes of memory per pixel."""
    assert result.peak_bytes is not None  # which was asked for
    return result.peak_bytes / result.case.pixels


def log_axes(axes: Axes, ticks: Sequence[int]):
    """Make both axes logarithmic, their numbers plain."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    tidy(axes)
    axes.set_xscale('log', base=2)
    axes.set_yscale('log')
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))


def draw_line(
    axes: Axes,
    results: Sequence[Result],
    place: Callable[[Result], int],
    value: Callable[[Result], float],
    colour: str,
    fade: float,
):
    """Draw one model, named at its end."""
    if not results:
        return
    results = sorted(results, key=place)
    x = [place(r) for r in results]
    y = [value(r) for r in results]
    axes.plot(x, y, 'o-', color=colour, alpha=1 - 0.65 * fade, markersize=3, lw=1.3)
    axes.annotate(
        label_of(results[0].case.model),
        (x[-1], y[-1]),
        xytext=(5, 0),
        textcoords='offset points',
        va='center',
        fontsize=7,
        color=colour,
    )
