#!/usr/bin/env python
"""Swap the backbone of every config that the frameworks ship.

Each is swapped and its model built; of each type of model one config is trained for a
step and predicts. The result is a report in Markdown.
"""

from __future__ import annotations

import argparse

from mmrecnext_autoload.arguments import begin, command_line, file_to_write


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(__doc__, 'python -m tests.zoo.report --only yolox')
    parser.add_argument(
        '--arch',
        nargs='+',
        default=['m3', 'b'],
        help='RecNeXts, of which each config takes the first that fits [m3 b: the '
        'latter where maps begin at stride 8 and end at 64]',
    )
    parser.add_argument('--only', default='', metavar='TEXT', help='in the names')
    parser.add_argument('--jobs', type=int, default=2, help='processes [2]')
    parser.add_argument(
        '--frameworks',
        nargs='+',
        default=[],
        metavar='NAME',
        help='to try here [all that are installed]',
    )
    parser.add_argument(
        '--python',
        nargs='+',
        default=[],
        metavar='NAME=FILE',
        help='frameworks that another environment has, and its interpreter',
    )
    parser.add_argument(
        '--out', type=file_to_write, default='docs/zoo_report.md', help='file to write'
    )
    parser.add_argument(
        '--results',
        type=file_to_write,
        metavar='FILE',
        help='write what came out as JSON, and no report',
    )
    return parser.parse_args()


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

import torch
from mmengine.logging import MMLogger

from mmrecnext.benchmark.machine import cpu_model
from mmrecnext.benchmark.markdown import table
from mmrecnext.cli import run
from mmrecnext.engine.frameworks import FRAMEWORKS, names_of
from mmrecnext.errors import OptionError
from mmrecnext.files import write_file
from tests.zoo.configs import CHOICE_SIDE, SIDE, Row, Training
from tests.zoo.gather import Options, Results, gather


def main(args: argparse.Namespace):
    """Swap all, train one of each type, and write the report."""
    warnings.simplefilter('ignore')
    pythons = interpreters(args.python)
    for scope in args.frameworks:
        if scope not in FRAMEWORKS:
            raise OptionError(f'--frameworks {scope}: there are {names_of()}')
    scopes = args.frameworks or [
        scope for scope, row in FRAMEWORKS.items() if row.is_installed
    ]
    MMLogger.get_current_instance().setLevel('ERROR')
    torch.set_num_threads(1)
    options = Options(args.arch, args.only, args.jobs)
    here = [scope for scope in scopes if scope not in pythons]
    found = gather(here, pythons, options)
    if args.results:
        found[0].write(Path(args.results))
        return
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, report(found, options).encode())
    print(f'Written to {out}')


def interpreters(given: Sequence[str]) -> dict[str, str]:
    """Return the interpreter of each framework that another environment has.

    Raises:
        OptionError: for an unknown framework, or none.
    """
    pythons = dict(text.split('=', 1) if '=' in text else (text, '') for text in given)
    for scope, python in pythons.items():
        if scope not in FRAMEWORKS or not python:
            raise OptionError(
                f'--python {scope}={python}: not as NAME=FILE, of a framework; those '
                f'are {names_of()}'
            )
    return pythons


def report(found: Sequence[Results], options: Options) -> str:
    """Return the report.

    Raises:
        OptionError: where there is nothing to report.
    """
    if not any(results.rows for results in found):
        raise OptionError(f'--only {options.only}: in the name of no config')
    only = f' --only {options.only}' if options.only else ''
    tried = {row.scope for results in found for row in results.rows}
    scopes = [s for results in found for s in results.scopes if s in tried]
    others = [scope for results in found[1:] for scope in results.scopes]
    pythons = ' '.join(f'{scope}=PYTHON' for scope in others)
    rows = [row for results in found for row in results.rows]
    trainings = [training for results in found for training in results.trainings]
    lines = [
        "# The swap over the frameworks' own configs",
        '',
        f'`python -m tests.zoo.report --arch {" ".join(options.archs)}{only}'
        + (f' --python {pythons}' if pythons else '')
        + f'`, {date.today()}, on {os.cpu_count()} cores of {cpu_model()}.',
        '',
        'Each config takes the first RecNeXt that has its strides, with one block per '
        'stage: what depends on a backbone does not depend on its depth. One config '
        f'of each type is trained from scratch for a step, on pictures of {SIDE} to '
        f'{CHOICE_SIDE} pixels a side (of poses, of the size that the codec says), and '
        'then predicts. It has trained if losses are finite and every parameter of the '
        'backbone has a finite gradient that is not zero. What fails is tried with the '
        'old backbone too: `lost` counts the types that trained or predicted with that '
        'alone. Types of one name are told apart by their heads.',
        '',
        *(f'- {names_of(each.scopes)}: {each.versions}' for each in found),
        '',
        'Shares are of the hierarchical configs: their backbone sees pictures, not '
        'points, and has maps of several strides.',
        '',
        table(
            (
                *('framework', 'configs', 'hierarchical', 'swapped', '', 'built', ''),
                *('types', 'trained', 'predicted', 'lost'),
            ),
            [summary(scope, rows, trainings) for scope in scopes],
        ),
        '',
    ]
    for scope in scopes:
        lines += section(
            FRAMEWORKS[scope].name,
            [row for row in rows if row.scope == scope],
            [each for each in trainings if each.scope == scope],
        )
    lines += ['## Configs that are not swapped, or not built', '']
    for scope in scopes:
        lines += left_out(
            FRAMEWORKS[scope].name, [row for row in rows if row.scope == scope]
        )
    return '\n'.join(lines).rstrip() + '\n'


def summary(
    scope: str, rows: Sequence[Row], trainings: Sequence[Training]
) -> tuple[str | int, ...]:
    """Return what came of a framework, in a line."""
    own = [row for row in rows if row.scope == scope]
    counted = [row for row in own if row.counts]
    tried = [each for each in trainings if each.scope == scope]
    return (
        FRAMEWORKS[scope].name,
        len(own),
        len(counted),
        *share(row.swapped for row in counted),
        *share(row.built for row in counted),
        len(tried),
        sum(each.has_trained for each in tried),
        sum(each.has_predicted for each in tried),
        sum(each.is_lost for each in tried),
    )


def section(name: str, rows: Sequence[Row], trainings: Sequence[Training]) -> list[str]:
    """Return what came of the configs of a framework."""
    return [
        f'## {name}',
        '',
        table(
            ('backbone', 'configs', 'swapped', 'built'),
            tally((row.backbone, row) for row in rows if row.counts),
        ),
        '',
        table(
            ('type', 'configs', 'swapped', 'built', 'trained', 'predicted'),
            by_model(rows, trainings),
        ),
        '',
    ]


def left_out(name: str, rows: Sequence[Row]) -> list[str]:
    """Return which configs of a framework are not swapped or not built, and why."""
    lines = []
    for counts, title in (
        (True, name),
        (False, f'{name}, without a hierarchical backbone'),
    ):
        told = reasons(row for row in rows if row.counts == counts and not row.built)
        if told:
            lines += [f'### {title}', '', table(('', 'configs', 'reason'), told), '']
    return lines


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
    """Return a line per type of model that has, or could be given, a RecNeXt."""
    told = {each.model: (each.trained, each.predicted) for each in trainings}
    return [
        (*line, *told.get(line[0], ('no: none is swapped', 'no')))
        for line in tally((r.model, r) for r in rows if r.counts or r.swapped)
    ]


def reasons(rows: Iterable[Row]) -> list[tuple[int, str, str]]:
    """Return per reason how many configs there are, and which."""
    groups = defaultdict(list)
    for row in rows:
        # Not where it is installed.
        problem = re.sub(r'[^ \'"]*/site-packages/', '', row.problem)
        if row.name in problem:
            problem = problem.replace(row.name, 'it')
        groups[problem].append(f'`{row.name.partition("::")[2]}`')
    return [
        (len(names), ', '.join(names), problem.replace('|', '/'))
        for problem, names in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


if __name__ == '__main__':
    run(main, args)
