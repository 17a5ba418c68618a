"""The pictures of figures in a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmrecnext.plots import new_figure, tidy
from mmrecnext.report.detection import BINS, Calibration, Precision

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED, GREY = '#1b6ca8', '#c8553d', '#777777'

LINES = 12
"""So many classes have a curve of their own."""


def draw_precision(precision: Precision, classes: Sequence[str]) -> Figure:
    """Draw precision against recall: of all classes, and of each if they are few."""
    figure = new_figure(7.4 if len(classes) <= LINES else 5.4, 4.2)
    axes = figure.subplots()
    tidy(axes)
    recall = np.linspace(0, 1, precision.precision.shape[1])
    known = [i for i in range(len(classes)) if precision.counts[i]]
    if 1 < len(known) <= LINES:
        for i in known:
            axes.plot(recall, precision.precision[0, :, i, 0], lw=1, label=classes[i])
    for index, style in ((0, '-'), (5, '--')):
        values = precision.precision[index, :, known, 0].mean(0)
        overlap = 0.5 + 0.05 * index
        label = f'all classes, IoU {overlap:.2f}: {values.mean():.3f}'
        axes.plot(recall, values, style, color='black', lw=2, label=label)
    axes.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False, fontsize=8, loc='center left', bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_calibration(calibration: Calibration) -> Figure:
    """Draw how many detections of a score are right, and how many have it."""
    figure = new_figure(5.4, 4.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for axes in (upper, lower):
        tidy(axes)
    middles = (np.arange(BINS) + 0.5) / BINS
    upper.plot([0, 1], [0, 1], '--', color=GREY, lw=1, label='as sure as right')
    upper.bar(
        middles,
        np.nan_to_num(calibration.precisions),
        0.9 / BINS,
        color=BLUE,
        alpha=0.8,
    )
    upper.set(ylabel='share that is right', xlim=(0, 1), ylim=(0, 1.02))
    upper.legend(frameon=False, fontsize=8, loc='upper left')
    lower.bar(middles, calibration.counts, 0.9 / BINS, color=GREY)
    lower.set(xlabel='score', ylabel='detections')
    return figure


def draw_bars(
    values: Sequence[np.ndarray], names: Sequence[str], classes: Sequence[str]
) -> Figure:
    """Draw figures of each class as bars, the best class on top.

    Args:
        values: from 0 to 1, one array a figure; the first orders the classes.
        names: of the figures.
        classes: names; only those that occur are drawn.
    """
    known = np.flatnonzero(np.isfinite(values[0]))
    order = known[np.argsort(values[0][known], kind='stable')]
    figure = new_figure(7, 1.4 + 0.24 * max(len(order), 3))
    axes = figure.subplots()
    tidy(axes)
    places = np.arange(len(order))
    height = 0.8 / len(values)
    for i, (value, name) in enumerate(zip(values, names, strict=True)):
        offset = (len(values) - 1) / 2 - i
        colour = (BLUE, '#9cc3de')[i]
        axes.barh(places + offset * height, value[order], height, color=colour)
        axes.barh([0], [0], height, color=colour, label=name)
    axes.set_yticks(places, [classes[i] for i in order], fontsize=8)
    axes.set(xlabel='share', xlim=(0, 1), ylim=(-0.7, len(order) - 0.3))
    axes.legend(frameon=False, fontsize=8, loc='lower right')
    return figure


def draw_change(before: np.ndarray, now: np.ndarray, labels: tuple[str, str]) -> Figure:
    """Draw a figure of each picture by two networks against each other.

    Args:
        before: of the one, from 0 to 1.
        now: of the other, likewise, of the same pictures.
        labels: names of both.
    """
    figure = new_figure(4.8, 4.6)
    axes = figure.subplots()
    tidy(axes)
    axes.plot([0, 1], [0, 1], color=GREY, lw=1)
    better = now >= before
    for chosen, colour in ((better, BLUE), (~better, RED)):
        axes.scatter(before[chosen], now[chosen], 14, color=colour, alpha=0.5)
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect('equal')
    return figure
