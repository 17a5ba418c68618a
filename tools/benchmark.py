#!/usr/bin/env python
"""Measure models side by side: time, memory and what they save for training.

Models are RecNeXts (recnext_m3, or m3), models of timm (repvit_m1_1), of which the maps
of all stages are computed, and configs of MMDetection or MMSegmentation, whole.

All that the options name is combined, and measured in one process, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # PyTorch's profiler talks a lot

import torch
from rich.console import Console
from rich.progress import Progress

from mmrecnext.benchmark.cases import DTYPES, FORMS, LAYOUTS, MODES, WORKS, grid
from mmrecnext.benchmark.measure import measure
from mmrecnext.benchmark.report import (
    LEGEND,
    as_data,
    as_markdown,
    as_rich,
    describe,
    tables,
)
from mmrecnext.cli import run
from mmrecnext.errors import OptionError


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'models',
        nargs='*',
        metavar='MODEL',
        default=['recnext_m3'],
        help='[recnext_m3]',
    )
    add_ways(parser)
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        default=[800, 1344],
        metavar='SIDE',
        help='height and width of the images, or both at once [800 1344]',
    )
    parser.add_argument(
        '--batch',
        type=int,
        nargs='+',
        default=[1],
        metavar='N',
        help='images; of several numbers the table gives the time of the smallest, and '
        'the throughput of the best [1]',
    )
    parser.add_argument(
        '--repeats', type=int, default=7, metavar='N', help='[%(default)s]'
    )
    parser.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='[%(default)s]',
    )
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help='weights of the detector or segmentor; without them it finds nothing, and '
        'little is left to do after the network',
    )
    parser.add_argument('--out', metavar='FILE', help='write all figures, as JSON')
    parser.add_argument(
        '--markdown', action='store_true', help='print the tables as Markdown'
    )
    return parser.parse_args()


def add_ways(parser: argparse.ArgumentParser):
    """Add the options that are combined."""

    def add(name: str, choices: tuple, default: list, text: str):
        parser.add_argument(
            name,
            nargs='+',
            choices=choices,
            default=default,
            help=f'{text} [{" ".join(default)}]',
        )

    add(
        '--form',
        FORMS,
        ['original', 'deploy'],
        'original: the published code, of a RecNeXt, fused as the published files and '
        'in NCHW; train, deploy: the forms of this library, or of timm',
    )
    add(
        '--dtype',
        tuple(DTYPES),
        ['fp32'],
        'of weights and images; in training steps, and of detectors, of autocast',
    )
    add(
        '--mode',
        MODES,
        ['eager'],
        'compiled: by torch.compile, the network of a backbone whole; frozen: the '
        'same with constant weights, for inference',
    )
    add('--layout', LAYOUTS, ['nhwc'], 'memory format of the images and weights')
    add(
        '--work',
        WORKS,
        ['forward'],
        'step: a forward and a backward pass, in the training form',
    )


def main():
    """Measure, and print tables."""
    args = parse_args()
    shape = args.shape * 2 if len(args.shape) == 1 else args.shape
    if len(shape) != 2 or min(shape) < 1:
        raise OptionError(f'--shape takes one or two sides in pixels, got {args.shape}')
    for name, numbers in (('batch', args.batch), ('repeats', [args.repeats])):
        if min(numbers) < 1:
            raise OptionError(f'--{name} is 1 or more, got {min(numbers)}')
    cases = grid(
        args.models,
        args.form,
        args.layout,
        args.mode,
        args.dtype,
        args.work,
        tuple(shape),
        args.batch,
    )
    if not cases:
        raise OptionError('only a RecNeXt has an original: add --form train or deploy')
    with progress_bar() as progress:
        report = measure(cases, args.device, args.repeats, args.checkpoint, progress)

    # In a file or pipe a table may be as wide as it likes.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    print(describe(report, args.device))
    for table in tables(report):
        if args.markdown:
            print(f'\n{as_markdown(*table)}')
        else:
            console.print(as_rich(*table))
    print(LEGEND)
    if args.out:
        data = dict(command=shlex.join(sys.argv), **as_data(report, args.device))
        Path(args.out).write_text(json.dumps(data, indent=1))
        print(f'figures in {args.out}')


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """Show a bar, on a terminal's error stream, while in use."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task('', total=1.0)

        def advance(text: str, done: float):
            bar.update(task, description=text, completed=done)

        yield advance


if __name__ == '__main__':
    run(main)
