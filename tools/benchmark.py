#!/usr/bin/env python
"""Measure models side by side: time, memory and what they save for training.

Models are RecNeXts (recnext_m3, or m3), MLLAs (mlla_nano_recattn), models of timm
(repvit_m1_1), of which the maps of all stages are computed, configs of MMDetection or
MMSegmentation, whole, and files that tools/export.py has written.

All that the options name is combined, and measured in one process, in turn. Six other
measurements take the place of this: --growth, --startup, --published, --ablations,
--against and --operators.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from mmrecnext_autoload.arguments import (
    add_device_argument,
    begin,
    command_line,
    file_to_write,
)
from mmrecnext_autoload.choices import (
    ABLATIONS,
    BATCHES,
    CLOCKS,
    DTYPES,
    ENGINES,
    FORMS,
    LAYOUTS,
    MODES,
    OPERATORS,
    SIDES,
    WORKS,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(
        __doc__,
        'python tools/benchmark.py recnext_m3 repvit_m1_1 --shape 224 --batch 1 16',
        'python tools/benchmark.py --growth recnext_m3 --picture growth.svg',
    )
    parser.add_argument(
        'models',
        nargs='*',
        metavar='MODEL',
        help='what to measure [recnext_m3; with --growth, --startup or --published, '
        'all RecNeXts]',
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        '--growth',
        action='store_true',
        help='time and memory per pixel, by the size of images and by their number',
    )
    instead.add_argument(
        '--startup',
        action='store_true',
        help='seconds to import mmrecnext and to build models, in fresh processes',
    )
    instead.add_argument(
        '--published',
        action='store_true',
        help='images per second of whole classifiers at 224 x 224, fused, in fp32 and '
        'NCHW, beside the published speeds; --batch is halved until it fits [2048, on '
        'a CPU 64]',
    )
    instead.add_argument(
        '--ablations',
        nargs='*',
        choices=ABLATIONS,
        metavar='ABLATION',
        help='whole M1s with other token mixers, fused, in fp32, beside what is '
        'published of them: counts and time, each at the size of its images, or at '
        '--shape [all]',
    )
    instead.add_argument(
        '--against',
        metavar='CONFIG',
        help='of the config MODEL and of this older one: parameters, operations, time '
        'by part, and memory to infer and to train',
    )
    instead.add_argument(
        '--operators',
        nargs='*',
        choices=OPERATORS,
        help="operators of detectors, in place of mmcv's, beside others' [all]",
    )
    add_ways(parser)
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar='SIDE',
        help='height and width of the images, or both at once [800 1344]; with '
        f'--growth, sides of square images [{" ".join(map(str, SIDES))}]',
    )
    parser.add_argument(
        '--batch',
        type=int,
        nargs='+',
        metavar='N',
        help='images at once; of several numbers the table gives the time of the '
        'smallest, and the throughput of the best [1; with --growth, '
        f'{" ".join(map(str, BATCHES))}]',
    )
    parser.add_argument(
        '--repeats',
        type=int,
        default=5,
        metavar='N',
        help='how often each is measured [%(default)s]',
    )
    add_device_argument(parser)
    parser.add_argument(
        '--clock',
        choices=CLOCKS,
        default='wall',
        help='process: seconds that the processors work for this process, summed; for '
        'a machine that others use too, and with OMP_NUM_THREADS=1 [%(default)s]',
    )
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help='weights of the detector or segmentor; without them it finds nothing, and '
        'little is left to do after the network',
    )
    parser.add_argument(
        '--picture',
        metavar='FILE',
        help='draw accuracy against time, with --growth all of it, as .png or .svg',
    )
    parser.add_argument(
        '--out', type=file_to_write, metavar='FILE', help='write all figures, as JSON'
    )
    parser.add_argument(
        '--markdown', action='store_true', help='print the tables as Markdown'
    )
    return parser.parse_args()


def add_ways(parser: argparse.ArgumentParser):
    """Add the options that are combined."""

    def add(name: str, choices: Sequence[str], text: str, default: str):
        parser.add_argument(
            name,
            nargs='+',
            choices=choices,
            default=[default] if default in choices else None,
            help=f'{text} [{default}]',
        )

    add(
        '--form',
        FORMS,
        'original: the published code, of a RecNeXt, fused as the published files and '
        'in NCHW; train, deploy: the forms of this library, or of timm',
        'original deploy; with --growth, deploy',
    )
    add(
        '--dtype',
        tuple(DTYPES),
        'of weights and images; in training steps, and of detectors, of autocast',
        'fp32',
    )
    add(
        '--mode',
        MODES,
        'compiled: by torch.compile, the network of a backbone whole; frozen: the '
        'same with constant weights, for inference',
        'eager',
    )
    add('--layout', LAYOUTS, 'memory format of the images and weights', 'nhwc')
    add('--engine', ENGINES, 'what runs exported files', 'all installed')
    add(
        '--work',
        WORKS,
        'step: a forward and a backward pass, in the training form',
        'forward',
    )


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # PyTorch's profiler talks a lot

import torch
from rich.console import Console

from mmrecnext import ARCHS
from mmrecnext.benchmark.ablations import ablation_rows, measure_ablations
from mmrecnext.benchmark.against import beside
from mmrecnext.benchmark.cases import Case, grid, kind_of, short_name
from mmrecnext.benchmark.growth import growth_table, measure_growth
from mmrecnext.benchmark.machine import machine
from mmrecnext.benchmark.measure import measure
from mmrecnext.benchmark.operators import measure_operators, operator_rows
from mmrecnext.benchmark.pictures import draw_accuracy, draw_growth
from mmrecnext.benchmark.published import measure_published, published_rows
from mmrecnext.benchmark.report import (
    LEGEND,
    as_data,
    as_markdown,
    as_rich,
    describe,
    tables,
)
from mmrecnext.benchmark.startup import measure_startup, startup_rows
from mmrecnext.checkpoint.sources import check_source
from mmrecnext.cli import chosen_device, run
from mmrecnext.engine.terminal import progress_bar
from mmrecnext.errors import OptionError
from mmrecnext.export.exported import open_exported
from mmrecnext.files import write_file
from mmrecnext.plots import check_picture


def main(args: argparse.Namespace):
    """Measure, and print tables."""
    check(args)
    if args.startup:
        archs = [short_name(m) for m in args.models] or list(ARCHS)
        with progress_bar() as progress:
            found = measure_startup(archs, args.repeats, args.clock, progress)
        show(args, [('from nothing to a model', *startup_rows(found))])
        save(args, dict(machine=machine('cpu'), startup=found))
    elif args.published:
        beside_published(args)
    elif args.ablations is not None:
        beside_ablations(args)
    elif args.operators is not None:
        beside_operators(args)
    elif args.against:
        compare_with(args)
    elif args.growth:
        grow(args)
    else:
        compare(args)


def compare(args: argparse.Namespace):
    """Measure models side by side."""
    shape = args.shape or [800, 1344]
    shape = shape * 2 if len(shape) == 1 else shape
    cases = combine(args, args.models or ['recnext_m3'], tuple(shape), args.batch)
    with progress_bar() as progress:
        report = measure(
            cases, args.device, args.repeats, args.checkpoint, args.clock, progress
        )
    about = describe(report, args.device, args.clock)
    show(args, tables(report), about, LEGEND)
    if args.picture:
        draw_accuracy(report.results, args.picture, about)
    save(args, as_data(report, args.device))


def compare_with(args: argparse.Namespace):
    """Measure a network beside the one whose place it takes.

    Raises:
        OptionError: where it is none, or several.
    """
    if len(args.models) != 1:
        raise OptionError('--against: name one config before it, to compare with')
    shape = tuple(args.shape * 2)[:2] if args.shape else None
    batch = max(args.batch or [1])
    with progress_bar() as progress:
        table, report = beside(
            args.against,
            *args.models,
            shape,
            batch,
            args.device,
            args.repeats,
            args.clock,
            progress,
        )
    show(args, [table], describe(report, args.device, args.clock))
    save(args, as_data(report, args.device))


def beside_published(args: argparse.Namespace):
    """Measure whole classifiers as the published speeds were measured."""
    archs = [short_name(m) for m in args.models] or list(ARCHS)
    batch = max(args.batch) if args.batch else None
    with progress_bar() as progress:
        found = measure_published(
            archs, args.device, batch, clock=args.clock, progress=progress
        )
    about = machine(args.device)
    told = f'{about["hardware"]}; engine: PyTorch {about["torch"]}, {about["date"]}'
    title = 'whole classifiers at 224 x 224, fused, fp32: published, and here'
    show(args, [(title, *published_rows(found))], told)
    save(args, dict(machine=about, published=[vars(row) for row in found]))


def beside_ablations(args: argparse.Namespace):
    """Count and measure the published ablations.

    Raises:
        OptionError: where a model is named.
    """
    if args.models:
        raise OptionError(f'--ablations takes no models, got {" ".join(args.models)}')
    with progress_bar() as progress:
        found = measure_ablations(
            args.ablations or ABLATIONS,
            args.device,
            args.repeats,
            args.batch,
            max(args.shape) if args.shape else None,
            args.clock,
            progress,
        )
    about = machine(args.device)
    told = f'{about["hardware"]}; PyTorch {about["torch"]}, {about["date"]}'
    title = 'M1 with other token mixers, fused, fp32: published, and here'
    show(args, [(title, *ablation_rows(found))], told)
    save(args, dict(machine=about, ablations=[asdict(row) for row in found]))


def beside_operators(args: argparse.Namespace):
    """Measure the operators of detectors beside others.

    Raises:
        OptionError: where a model is named.
    """
    if args.models:
        raise OptionError(f'--operators takes no models, got {" ".join(args.models)}')
    with progress_bar() as progress:
        found = measure_operators(
            args.operators, args.device, args.repeats, args.clock, progress
        )
    columns, rows = operator_rows(found)
    about = machine(args.device)
    told = f'{about["hardware"]}; PyTorch {about["torch"]}, {about["date"]}'
    show(args, [("operators in place of mmcv's", columns, rows)], told)
    figures = [
        dict(operator=task.operator, size=task.size, seconds=task.seconds)
        for task in found
    ]
    save(args, dict(machine=about, operators=figures))


def grow(args: argparse.Namespace):
    """Measure how the cost of models grows."""
    cases = combine(args, args.models or list(ARCHS))
    sides, batches = args.shape or SIDES, args.batch or BATCHES
    with progress_bar() as progress:
        report = measure_growth(
            cases, args.device, args.repeats, sides, batches, args.clock, progress
        )
    about = describe(report, args.device, args.clock)
    show(args, [growth_table(report.results)], about)
    if args.picture:
        draw_growth(report.results, args.picture, about)
    save(args, as_data(report, args.device))


def combine(
    args: argparse.Namespace,
    models: Sequence[str],
    shape: tuple[int, ...] = (0, 0),
    batches: Sequence[int] | None = None,
) -> list[Case]:
    """Return what the options name.

    Raises:
        OptionError: where it comes to nothing.
    """
    forms = args.form or (['deploy'] if args.growth else ['original', 'deploy'])
    ways = (args.layout, args.mode, args.dtype, args.work)
    cases = grid(models, forms, *ways, shape, batches or [1], args.engine)
    if not cases:
        raise OptionError(
            'nothing to measure: only a RecNeXt has an original (add --form train or '
            'deploy), and files infer in the types of their engines alone'
        )
    return cases


def check(args: argparse.Namespace):
    """Check the options before anything is built.

    Raises:
        OptionError: for one of impossible value.
    """
    if args.shape and len(args.shape) > 2 and not args.growth:
        raise OptionError(f'--shape takes one or two sides in pixels, got {args.shape}')
    for name in ('shape', 'batch', 'repeats'):
        given = getattr(args, name)
        least = min(given or [1]) if name != 'repeats' else given
        if least < 1:
            raise OptionError(f'--{name} is 1 or more, got {least}')
    args.device = chosen_device(args.device, *args.models)
    if args.clock == 'process' and torch.device(args.device).type != 'cpu':
        raise OptionError('--clock process counts the work of processors: --device cpu')
    check_files(args)
    for model in args.models:
        whole = args.growth or args.startup or args.published
        if whole and kind_of(model) != 'recnext':
            raise OptionError(
                f'--growth, --startup and --published take RecNeXts, got {model}'
            )
    if args.checkpoint:
        check_source(args.checkpoint)
        if all(kind_of(model) != 'config' for model in args.models):
            raise OptionError('--checkpoint is for the model of a config: name one')
    check_picture(args.picture)
    if args.out and not Path(args.out).absolute().parent.is_dir():
        raise OptionError(f'--out {args.out}: there is no such folder')


def check_files(args: argparse.Namespace):
    """Check exported files before anything is built.

    Raises:
        OptionError: for another device than theirs.
        ExportError: for one that is none.
    """
    for model in args.models:
        if kind_of(model) == 'file':
            open_exported(model)
            if torch.device(args.device).type != 'cpu':
                raise OptionError(f'{model} is run on the CPU: --device cpu')


def show(args: argparse.Namespace, tables: Iterable[tuple], *remarks: str):
    """Print tables, and below them the remarks."""
    # In a file or pipe a table may be as wide as it likes.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for table in tables:
        if args.markdown:
            print(f'\n{as_markdown(*table)}')
        else:
            console.print(as_rich(*table))
    for remark in remarks:
        print(remark)
    if args.picture:
        print(f'picture in {args.picture}')


def save(args: argparse.Namespace, data: dict):
    """Write all figures, if that was asked for."""
    if args.out:
        data = dict(command=shlex.join(sys.argv), **data)
        write_file(args.out, json.dumps(data, indent=1).encode())
        print(f'figures in {args.out}')


if __name__ == '__main__':
    run(main, args)
