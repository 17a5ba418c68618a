"""How runs learned, beside the published run of the same config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmrecnext.errors import ConfigError
from mmrecnext.plots import new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = list[tuple[float, float]]

PUBLISHED = Path(__file__).with_name('published.json')
"""Figures of the published logs, by the names of the configs; of the last of several
evaluations after one epoch."""

SMOOTHED = 0.1
"""Share of a run that its loss is the mean over, where it is drawn."""


@dataclass
class Run:
    """What a run logged.

    Args:
        name: of the folder.
        training: points of ``loss`` and ``lr`` against the iteration.
        figures: points of each figure against the step that it was evaluated at.
    """

    name: str
    training: dict[str, Points]
    figures: dict[str, Points]


def read_run(folder: Path) -> Run:
    """Read what a run logged, and what it logged before it was resumed.

    Args:
        folder: its work dir.

    Raises:
        ConfigError: where there are no logs.
    """
    files = sorted(folder.glob('*/vis_data/scalars.json'))
    if not files:
        raise ConfigError(
            f'{folder} has no logs of a run, */vis_data/scalars.json; name a work dir, '
            'such as work_dirs/CONFIG'
        )
    training: dict[str, dict[float, float]] = {'loss': {}, 'lr': {}}
    figures: dict[str, dict[float, float]] = {}
    for file in files:
        for line in file.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # a line that a kill cut off
                continue
            if 'loss' in row and 'iter' in row:
                for name, points in training.items():
                    points[row['iter']] = row.get(name, float('nan'))
                continue
            for name, value in row.items():
                if name not in ('step', 'time', 'data_time') and value >= 0:
                    figures.setdefault(name.split('/')[-1], {})[row['step']] = value
    # Steps that were run anew after a resumption are those of the last log.
    return Run(
        folder.name,
        {k: sorted(v.items()) for k, v in training.items() if v},
        {k: sorted(v.items()) for k, v in figures.items()},
    )


def published_run(name: str) -> Run | None:
    """Return the published run of a config of this name, of which figures are known."""
    content = json.loads(PUBLISHED.read_text()).get(name)
    if content is None:
        return None
    steps, *columns = zip(*content['points'], strict=True)
    figures = {
        figure: list(zip(steps, column, strict=True))
        for figure, column in zip(content['figures'], columns, strict=True)
    }
    return Run(f'{name}, published', {}, figures)


def smoothed(points: Points) -> tuple[np.ndarray, np.ndarray]:
    """Return the running mean of points, over ``SMOOTHED`` of them."""
    x, y = np.array(points).T
    window = max(round(SMOOTHED * len(y)), 1)
    sums = np.cumsum(np.insert(y, 0, 0))
    ends = np.arange(1, len(y) + 1)
    starts = np.maximum(ends - window, 0)
    return x, (sums[ends] - sums[starts]) / (ends - starts)


def chosen_figures(runs: Sequence[Run], asked: Sequence[str]) -> list[str]:
    """Return which figures to draw: those asked for, or the main ones of the runs.

    Raises:
        ConfigError: for one that no run has.
    """
    known = [*dict.fromkeys(name for run in runs for name in run.figures)]
    for name in asked:
        if name not in known:
            raise ConfigError(f'no run has {name}; they have {", ".join(known)}')
    main = ('bbox_mAP', 'segm_mAP', 'mIoU', 'top1', 'ema_top1', 'AP')
    return [*asked] or [x for x in main if x in known] or known[:2]


def draw_curves(runs: Sequence[Run], figures: Sequence[str] = ()) -> Figure:
    """Draw loss, learning rate and figures of runs, a panel each.

    Args:
        runs: published ones are drawn in dashes.
        figures: those to draw; their main ones if none.

    Raises:
        ConfigError: for a figure that no run has.
    """
    names = chosen_figures(runs, figures)
    panels = ['loss', 'lr', *names]
    figure = new_figure(4.4 * len(panels), 3.9)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(all_axes, panels, strict=True):
        tidy(axes)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title({'lr': 'learning rate'}.get(panel, panel), fontsize=10)
        axes.set_xlabel(
            'iteration' if panel in ('loss', 'lr') else 'epoch or iteration'
        )
        for i, run in enumerate(runs):
            points = run.training.get(panel) or run.figures.get(panel)
            if not points:
                continue
            colour, dashed = f'C{i % 10}', run.name.endswith('published')
            if panel == 'loss':
                axes.plot(*zip(*points, strict=True), color=colour, alpha=0.25, lw=0.8)
                x, y = smoothed(points)
            else:
                x, y = np.array(points).T
            marker = 'o' if panel in names else None
            style = '--' if dashed else '-'
            axes.plot(x, y, style, marker=marker, ms=3, color=colour, label=run.name)
    handles = {
        label: handle
        for axes in all_axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc='outside lower center',
        ncols=min(len(handles), 3),
        frameon=False,
        fontsize=9,
    )
    return figure
