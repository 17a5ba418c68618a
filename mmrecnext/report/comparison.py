"""What an evaluation won and lost beside another one."""

from __future__ import annotations

import numpy as np

from mmrecnext.engine.outputs import output_names
from mmrecnext.report.page import Cell, Section, Shown, Table, change, number
from mmrecnext.report.plots import draw_change
from mmrecnext.report.records import Evaluation
from mmrecnext.report.sections import SHOWN, Subject


def comparison(own: Subject, other: Subject) -> Section:
    """Compare an evaluation with another one of the same pictures.

    Args:
        own: the one.
        other: what it is compared with.
    """
    theirs = {name: j for j, name in enumerate(names_of(other.evaluation))}
    pairs = [
        (i, theirs[name])
        for i, name in enumerate(names_of(own.evaluation))
        if name in theirs
    ]
    section = Section(
        'Comparison',
        f'With {other.evaluation.title}, by the {len(pairs)} pictures that both saw. '
        'Differences are this less the other.',
        in_pairs=True,
    )
    section.tables = compared_figures(own, other)
    if not pairs:
        return section
    here, there = np.array(pairs).T
    before, now = other.qualities[there], own.qualities[here]
    labels = (f'{own.measure}, {x.evaluation.title}' for x in (other, own))
    figure = draw_change(before, now, (next(labels), next(labels)))
    won, lost = (now > before).sum(), (now < before).sum()
    caption = (
        f'Each picture: {won} better, {lost} worse, {len(now) - won - lost} alike.'
    )
    section.plots = [own.writer.plot('comparison', figure, caption)]
    gains = now - before
    order = np.argsort(gains, kind='stable')
    half = SHOWN // 2
    for k in [*order[::-1][:half], *order[:half][::-1]]:
        if gains[k]:
            i, j = pairs[k]
            section.pictures += beside(own, other, i, j, f'{gains[k]:+.2f}')
    return section


def names_of(evaluation: Evaluation) -> list[str]:
    """Name the pictures, wherever the folder that holds all of them stands."""
    paths = [p.path for p in evaluation.pictures]
    names = output_names(paths)
    return [str(names[path]) for path in paths]


def beside(own: Subject, other: Subject, i: int, j: int, gain: str) -> list[Shown]:
    """Draw what both found in a picture."""
    title = other.evaluation.title
    return [
        own.writer.draw(
            f'{i:06d}', own.evaluation.pictures[i], f'{gain}. {own.caption(i)}'
        ),
        other.writer.draw(
            f'other_{j:06d}',
            other.evaluation.pictures[j],
            f'{title}: {other.caption(j).split(": ", 1)[1]}',
        ),
    ]


def compared_figures(own: Subject, other: Subject) -> list[Table]:
    """Return the figures of both, and those of each class."""
    title = other.evaluation.title
    one, two = own.evaluation.figures, other.evaluation.figures
    rows = [
        [Cell(k.split('/')[-1]), number(v), number(two[k]), change(v - two[k])]
        for k, v in one.items()
        if k in two and v >= 0
    ]
    tables = [Table(('figure', 'this', title, 'difference'), rows)] if rows else []
    theirs = other.by_class()
    for kind, values in own.by_class().items():
        known = theirs.get(kind, {})
        rows = [
            [Cell(n), number(v), number(known[n]), change(v - known[n])]
            for n, v in values.items()
            if n in known
        ]
        if rows:
            head = (f'class ({kind})', 'this', title, 'difference')
            tables.append(Table(head, rows))
    return tables
