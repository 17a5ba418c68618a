"""A detector or segmentor beside another one: what a swap of its backbone changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from mmrecnext.benchmark.cases import grid, kind_of
from mmrecnext.benchmark.detector import PARTS
from mmrecnext.benchmark.measure import Report, Result, measure
from mmrecnext.benchmark.operations import Cost, network_cost
from mmrecnext.benchmark.report import MIB, milliseconds
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.frameworks import framework_of
from mmrecnext.errors import OptionError

Row = tuple[str, ...]
Table = tuple[str, tuple[str, ...], list[Row]]


def beside(
    old: str,
    new: str,
    shape: tuple[int, int] | None = None,
    batch: int = 1,
    device: str = 'cpu',
    repeats: int = 5,
    clock: str = 'wall',
    progress: Callable[[str, float], None] = lambda text, done: None,
) -> tuple[Table, Report]:
    """Measure two networks side by side, deployed, and a training step of each.

    Args:
        old: config of the one.
        new: config of the other.
        shape: height and width of the images; None for those of the framework.
        batch: images.
        device: where.
        repeats: how often.
        clock: a name in ``CLOCKS``.
        progress: is told what comes next, and what share is done.

    Returns:
        Title, columns and rows of a table, and all figures.

    Raises:
        OptionError: for what is no config.
    """
    for name in (old, new):
        if kind_of(name) != 'config':
            raise OptionError(f'{name}: configs alone are compared with each other')
    configs = [load_config(name) for name in (old, new)]
    size = shape or framework_of(configs[0]).image_size
    works = ['forward', 'step']
    cases = grid((old, new), ['deploy'], works=works, shape=size, batches=[batch])
    report = measure(cases, device, repeats, clock=clock, progress=progress)
    costs = [network_cost(cfg, size) for cfg in configs]
    results = {(x.case.model, x.case.work): x for x in report.results}
    forward, step = ([results[model, work] for model in (old, new)] for work in works)
    names = f'{Path(old).stem} and {Path(new).stem}'
    title = f'{names}, {batch} x {size[0]} x {size[1]}, deployed, {cases[0].dtype}'
    columns = ('', 'old', 'new', 'old / new')
    return (title, columns, [*_rows(costs, forward, step)]), report


def _rows(
    costs: list[Cost], forward: list[Result], step: list[Result]
) -> Iterator[Row]:
    """Yield what there is to compare, of the old and of the new one."""

    def row(name: str, values: list[float], write: Callable[[float], str]) -> Row:
        old, new = values
        ratio = f'{old / new:.2f}' if new else ''
        return name, write(old), write(new), ratio

    yield row('parameters, M', [x.params / 1e6 for x in costs], '{:.1f}'.format)
    yield row(
        'multiply-adds of an image, G', [x.macs / 1e9 for x in costs], '{:.1f}'.format
    )
    yield row('inference, ms', [x.median for x in forward], milliseconds)
    for part in PARTS:
        yield row(f'  {part}, ms', [x.parts[part] for x in forward], milliseconds)
    peaks = [(x.peak_bytes or 0) / MIB for x in forward]
    yield row('  memory, MiB', peaks, '{:.0f}'.format)
    yield row('training step, ms', [x.median for x in step], milliseconds)
    saved = [(x.saved_bytes or 0) / MIB for x in step]
    yield row('  memory, MiB', saved, '{:.0f}'.format)
