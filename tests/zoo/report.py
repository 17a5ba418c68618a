#!/usr/bin/env python
"""Swap the backbone of every config that MMDetection and MMSegmentation ship.

Each is swapped and its model built; of each type of detector or segmentor one config is
trained for a step and predicts. The result is a report in Markdown.
"""

from __future__ import annotations

if __name__ == '__main__':
    from mmrecnext_autoload import answer_signals

    answer_signals()  # while the rest is imported

import argparse
import multiprocessing
import os
import re
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date
from multiprocessing.pool import Pool
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from rich.progress import Progress

from mmrecnext.benchmark.machine import cpu_model, version_of
from mmrecnext.benchmark.markdown import table
from mmrecnext.cli import file_to_write, run
from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.errors import OptionError
from mmrecnext.files import write_file
from tests.zoo.configs import (
    LARGE_SIDE,
    SIDE,
    Row,
    Training,
    by_type,
    check,
    make_bert,
    train,
    zoo,
)

OPTIONAL = ('transformers', 'fairscale', 'scikit-image', 'motmetrics', 'mmpretrain')
"""Packages that some configs need, if installed."""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n')[0], allow_abbrev=False
    )
    parser.add_argument('--arch', default='m3', help='the RecNeXt [m3]')
    parser.add_argument('--only', default='', metavar='TEXT', help='in the names')
    parser.add_argument('--jobs', type=int, default=2, help='processes [2]')
    parser.add_argument(
        '--out', type=file_to_write, default='docs/zoo_report.md', help='file to write'
    )
    return parser.parse_args()


def main():
    """Swap all, train one of each type, and write the report."""
    args = parse_args()
    warnings.simplefilter('ignore')
    names = [name for name in zoo() if args.only in name]
    if not names:
        raise OptionError(f'--only {args.only}: in the name of no config')
    MMLogger.get_current_instance().setLevel('ERROR')
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as folder,
        # Before the progress bar has a thread, which a fork would cut off in mid-air.
        multiprocessing.get_context('fork').Pool(args.jobs) as pool,
        Progress() as progress,
    ):
        bert = make_bert(Path(folder))
        tasks = [(name, args.arch, bert) for name in names]
        rows = list(each(check, tasks, pool, progress, 'swap and build'))
        tasks = [(kind, some, args.arch, bert) for kind, some in by_type(rows).items()]
        trainings = list(each(train, tasks, pool, progress, 'train and predict'))
        pool.close()  # or they are terminated, and a signal may find one in a lock
        pool.join()
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, report(rows, trainings, args).encode())
    print(f'Written to {out}')


def each(work, tasks: Sequence, pool: Pool, progress: Progress, title: str) -> Iterable:
    """Do the tasks in processes, in order, with a progress bar."""
    return progress.track(pool.imap(work, tasks), total=len(tasks), description=title)


def report(
    rows: Sequence[Row], trainings: Sequence[Training], args: argparse.Namespace
) -> str:
    """Return the report."""
    counted = [row for row in rows if row.counts]
    only = f' --only {args.only}' if args.only else ''
    lines = [
        "# The swap over the frameworks' own configs",
        '',
        f'`python -m tests.zoo.report --arch {args.arch}{only}`, {date.today()}, on '
        f'{os.cpu_count()} cores of {cpu_model()}: {versions()}. The RecNeXt has one '
        'block per stage: what depends on a backbone does not depend on its depth.',
        '',
        table(
            ('configs with a hierarchical classifier', 'number', 'share'),
            [
                ('all', len(counted), ''),
                ('swapped', *share(row.swapped for row in counted)),
                ('swapped, and the model is built', *share(r.built for r in counted)),
            ],
        ),
        '',
        '## By backbone',
        '',
        table(
            ('backbone', 'configs', 'swapped', 'built'),
            tally((row.backbone, row) for row in counted),
        ),
        '',
        '## By type of detector or segmentor',
        '',
        f'One config of each is trained for a step on pictures of {SIDE} or '
        f'{LARGE_SIDE} pixels a side, from scratch: finite losses, a finite gradient '
        'at every parameter of the backbone; then it predicts. Segmentors are told '
        'apart by their heads.',
        '',
        table(
            ('type', 'configs', 'swapped', 'built', 'trained', 'predicted'),
            by_model(counted, trainings),
        ),
        '',
        '## What does not pass, and why',
        '',
        table(
            ('configs', 'such as', 'reason'),
            reasons(row for row in counted if not row.built),
        ),
        '',
        '## What has no hierarchical classifier',
        '',
        table(
            ('configs', 'such as', 'reason'),
            reasons(row for row in rows if not row.counts),
        ),
        '',
    ]
    return '\n'.join(lines).rstrip() + '\n'


def share(flags: Iterable[bool]) -> tuple[int, str]:
    """Return how many are true, and which part of all."""
    flags = list(flags)
    return sum(flags), f'{100 * sum(flags) / max(1, len(flags)):.1f} %'


def tally(keyed: Iterable[tuple[str, Row]]) -> list[tuple[str, int, int, int]]:
    """Return per key how many there are, how many are swapped and how many built."""
    groups = defaultdict(list)
    for key, row in keyed:
        groups[key].append(row)
    return [
        (key, len(some), sum(r.swapped for r in some), sum(r.built for r in some))
        for key, some in sorted(groups.items())
    ]


def by_model(rows: Sequence[Row], trainings: Sequence[Training]) -> list[tuple]:
    """Return a line per type of model."""
    told = {each.model: (each.trained, each.predicted) for each in trainings}
    return [
        (*line, *told.get(line[0], ('no: none is swapped', 'no')))
        for line in tally((row.model, row) for row in rows)
    ]


def reasons(rows: Iterable[Row]) -> list[tuple[int, str, str]]:
    """Return per reason how many configs there are, and one of them."""
    groups = defaultdict(list)
    for row in rows:
        # Not where it is installed.
        problem = re.sub(r'[^ \'"]*/site-packages/', '', row.problem)
        groups[problem].append(row.name)
    return [
        (len(names), f'`{names[0]}`', problem.replace('|', '/'))
        for problem, names in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def versions() -> str:
    """Return the versions that the result depends on."""
    frameworks = [framework.distribution for framework in FRAMEWORKS.values()]
    names = ['torch', *frameworks, 'mmcv-lite', *OPTIONAL]
    return ', '.join(f'{n} {v}' for n in names if (v := version_of(n)))


if __name__ == '__main__':
    run(main)
