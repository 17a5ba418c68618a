"""What was measured, as a table, as Markdown and as data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.table import Table

from mmrecnext.benchmark.cases import Case
from mmrecnext.benchmark.detector import PARTS
from mmrecnext.benchmark.machine import machine
from mmrecnext.benchmark.markdown import table
from mmrecnext.benchmark.measure import Report, Result, speedups

MIB = 2**20
NONE = ''
WAYS = ('form', 'layout', 'mode', 'type')
FIGURES = ('ms', '±', 'img/s', 'gain', 'matmul', 'peak MiB', 'saved MiB')
LEGEND = (
    '±: interquartile range. gain: how many times faster than the eager original in '
    'fp32. matmul: rate over that of a large matrix product of the same type.'
)
TITLES = {'forward': 'inference', 'step': 'training step'}


def describe(report: Report, device: str, clock: str = 'wall') -> str:
    """Describe in a line what was measured on, and how fast its matrix products are."""
    rates = ', '.join(
        f'{rate / 1e9:.0f} GFLOP/s in {dtype}'
        for dtype, rate in report.matmul_rates.items()
    )
    about = machine(device)
    return (
        f'{about["hardware"]}; PyTorch {about["torch"]}, {about["date"]}; '
        f'{clock} time; matrix products: {rates}'
    )


def rows(report: Report, work: str) -> list[tuple[str, ...]]:
    """Return a row for each way that each model was run in: model, WAYS, FIGURES.

    Time and memory are those of the smallest batch, throughput that of the best.
    """
    faster = speedups(report.results)
    found: dict[Case, list[Result]] = {}
    for result in report.results:
        if result.case.work == work:
            found.setdefault(replace(result.case, batch=0), []).append(result)
    table = []
    for results in found.values():
        first = min(results, key=lambda r: r.case.batch)
        best = max(results, key=lambda r: r.images_per_second)
        ratio, share = faster.get(first.case), report.share(first)
        at = f' (x{best.case.batch})' if len(results) > 1 else ''
        figures = (
            milliseconds(first.median),
            milliseconds(first.spread),
            f'{best.images_per_second:.3g}{at}',
            f'{ratio:.2f}' if ratio else NONE,
            f'{share:.2f}' if share else NONE,
            mebibytes(first.peak_bytes),
            mebibytes(first.saved_bytes),
        )
        table.append((*way(first.case), *figures))
    return table


def part_rows(results: Iterable[Result]) -> list[tuple[str, ...]]:
    """Return rows that tell how the time of each detector divides."""
    table = []
    for result in results:
        if total := sum(result.parts.values()):
            seconds = result.parts.values()
            shares = (f'{milliseconds(s)} ({s / total:.0%})' for s in seconds)
            table.append((*way(result.case), *shares))
    return table


def way(case: Case) -> tuple[str, ...]:
    """Return the model, and the way it is run in."""
    return Path(case.model).stem, case.form, case.layout, case.mode, case.dtype


def milliseconds(seconds: float) -> str:
    """Write a time with three digits."""
    value = seconds * 1e3
    return f'{value:.0f}' if value >= 100 else f'{value:.3g}'


def mebibytes(size: int | None) -> str:
    """Write a size, if there is one."""
    return NONE if size is None else f'{size / MIB:.0f}'


def tables(report: Report) -> list[tuple[str, Sequence[str], list[tuple[str, ...]]]]:
    """Return titles, columns and rows of all tables."""
    made: list[tuple[str, Sequence[str], list[tuple[str, ...]]]] = []
    for work, name in TITLES.items():
        if body := rows(report, work):
            results = [r for r in report.results if r.case.work == work]
            batch = min(r.case.batch for r in results)
            height, width = results[0].case.shape
            title = f'{name}, {batch} x {height} x {width}'
            made.append(condensed(title, FIGURES, body))
    if body := part_rows(report.results):
        made.append(condensed('parts, ms', PARTS, body))
    return made


def condensed(
    title: str, figures: Sequence[str], body: list[tuple[str, ...]]
) -> tuple[str, list[str], list[tuple[str, ...]]]:
    """Put ways that are the same in all rows into the title; drop empty columns."""
    columns = ('model', *WAYS, *figures)
    kept = []
    for i, column in enumerate(columns):
        values = {row[i] for row in body}
        if column in WAYS and len(values) == 1:
            title += f', {values.pop()}'
        elif values != {NONE}:
            kept.append(i)
    return title, [columns[i] for i in kept], [tuple(r[i] for i in kept) for r in body]


def as_rich(title: str, columns: Sequence[str], body: Iterable[Sequence[str]]) -> Table:
    """Lay a table out for the terminal."""
    table = Table(title=title)
    for column in columns:
        text = column in ('', 'model', *WAYS)
        table.add_column(column, justify='left' if text else 'right', no_wrap=True)
    for row in body:
        table.add_row(*row)
    return table


def as_markdown(
    title: str, columns: Sequence[str], body: Iterable[Sequence[str]]
) -> str:
    """Write a table for a document."""
    return f'{title}:\n\n{table(columns, body)}\n'


def as_data(report: Report, device: str) -> dict:
    """Return everything as what JSON can hold."""
    faster = speedups(report.results)
    return dict(
        machine=machine(device),
        matmul_rates=report.matmul_rates,
        results=[
            dict(
                asdict(result),
                median=result.median,
                spread=result.spread,
                images_per_second=result.images_per_second,
                speedup=faster.get(result.case),
                matmul_share=report.share(result),
            )
            for result in report.results
        ],
    )
