"""How time and memory grow with the size of images and with their number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mmrecnext.benchmark.cases import Case
from mmrecnext.benchmark.measure import Report, Result, measure
from mmrecnext.benchmark.report import condensed, way
from mmrecnext_autoload.choices import BATCHES, SIDES

REFERENCE_SIDE = 512


def growth_cases(
    case: Case, sides: Sequence[int] = SIDES, batches: Sequence[int] = BATCHES
) -> list[Case]:
    """Vary the size at the smallest batch, and the batch at the smallest size."""
    one, small = min(batches), min(sides)
    varied = [(side, one) for side in sides] + [(small, batch) for batch in batches]
    return [
        replace(case, shape=(side, side), batch=batch)
        for side, batch in dict.fromkeys(varied)
    ]


def measure_growth(
    cases: Sequence[Case],
    device: str,
    repeats: int,
    sides: Sequence[int] = SIDES,
    batches: Sequence[int] = BATCHES,
    clock: str = 'wall',
    progress: Callable[[str, float], None] = lambda text, done: None,
) -> Report:
    """Measure each model by itself, all sizes and batches of it side by side.

    Args:
        cases: ways to run models; their shapes and batches do not count.
        device: where.
        repeats: how often.
        sides: of the square images.
        batches: numbers of images.
        clock: a name in ``CLOCKS``.
        progress: is told what comes next, and what share is done.
    """
    results: list[Result] = []
    for i, case in enumerate(cases):

        def part(text: str, done: float, i: int = i, case: Case = case):
            progress(f'{case.model}: {text}', (i + done) / len(cases))

        varied = growth_cases(case, sides, batches)
        report = measure(varied, device, repeats, clock=clock, progress=part)
        results += report.results
    return Report(results, report.matmul_rates)


def growth_table(
    results: Sequence[Result],
) -> tuple[str, list[str], list[tuple[str, ...]]]:
    """Return title, columns and rows: nanoseconds per pixel, and how they grow."""
    keys = list(dict.fromkeys((r.case.shape[0], r.case.batch) for r in results))
    one, sides = min(batch for _, batch in keys), sorted({side for side, _ in keys})
    base = max(side for side in sides if side <= max(REFERENCE_SIDE, sides[0]))
    columns = [
        *(f'{batch} x {side}²' for side, batch in keys),
        f'{sides[-1]}²/{base}², time',
        'memory',
    ]
    ways: dict[tuple[str, ...], dict[tuple[int, int], Result]] = {}
    for r in results:
        ways.setdefault(way(r.case), {})[r.case.shape[0], r.case.batch] = r
    body = []
    for name, found in ways.items():
        times = [f'{found[k].median / found[k].case.pixels * 1e9:.0f}' for k in keys]
        small, large = found[base, one], found[sides[-1], one]
        pixels = large.case.pixels / small.case.pixels
        time = large.median / small.median / pixels
        assert large.peak_bytes is not None and small.peak_bytes is not None
        memory = large.peak_bytes / small.peak_bytes / pixels
        body.append((*name, *times, f'{time:.2f}', f'{memory:.2f}'))
    return condensed('ns per pixel', columns, body)
