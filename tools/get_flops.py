#!/usr/bin/env python
"""Print parameters and multiply-adds (MACs) of classifiers, or of configs' networks.

All are those of the inference form, every batch norm merged, beside the published ones.
MACs are those of convolutions, matrix products and bilinear interpolation (four per
pixel of its result).
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from mmrecnext_autoload.arguments import begin, command_line


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(
        __doc__,
        'python tools/get_flops.py recnext_m3 mlla_nano_recattn --shape 384',
    )
    parser.add_argument(
        'models',
        nargs='*',
        metavar='MODEL',
        help='such as recnext_m3 or mlla_nano_recattn, or a config: of a classifier, '
        'counted at the size of its images, or of an OpenMMLab framework [all]',
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        default=[],
        metavar='SIDE',
        help='height and width of the image, or both at once [those that figures are '
        'published for]',
    )
    return parser.parse_args()


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

from rich.console import Console
from rich.table import Table

from mmrecnext import ARCHS, MLLA_ARCHS
from mmrecnext.archs import timm_name
from mmrecnext.benchmark.operations import named_cost
from mmrecnext.cli import run
from mmrecnext.engine.named import named
from mmrecnext.engine.terminal import logged_from, tracked
from mmrecnext.errors import OptionError
from mmrecnext.pretrained import FIGURES, INPUT_SIDE, MLLA_FIGURES, MLLA_INPUT_SIDE


def main(args: argparse.Namespace):
    """Print a table."""
    shape = tuple(args.shape * 2 if len(args.shape) == 1 else args.shape)
    if shape and (len(shape) != 2 or min(shape) < 1):
        raise OptionError(f'--shape takes one or two sides in pixels, got {args.shape}')

    sides = (
        f'{INPUT_SIDE} x {INPUT_SIDE}, MLLA at {MLLA_INPUT_SIDE} x {MLLA_INPUT_SIDE}'
    )
    counted = f'at {shape[0]} x {shape[1]}; ' if shape else ''
    table = Table(
        title=f'{counted}published at {sides}', show_edge=False, pad_edge=False
    )
    table.add_column('model', overflow='fold')
    # In two lines, for the longest name of a model to fit into 80 columns with them.
    for column in (
        'params\n(M)',
        'published',
        'in\ntraining',
        'MACs\n(G)',
        'published',
    ):
        table.add_column(column, justify='right', no_wrap=True)
    models = args.models or [*ARCHS, *MLLA_ARCHS]
    # Not that batch norms are merged, once a model.
    with logged_from(logging.WARNING), tracked(models, 'counting', 'models') as names:
        costs = [(name, named_cost(name, shape)) for name in names]
    for name, cost in costs:
        published, label = None, Path(name).stem
        arch = None if name.endswith('.py') else named(name).arch
        if isinstance(arch, str):
            published = FIGURES.get(arch) or MLLA_FIGURES.get(arch)
            label = timm_name(arch)
        table.add_row(
            label,
            f'{cost.params / 1e6:.2f}',
            f'{published.params}' if published and published.params else '',
            f'{cost.train_params / 1e6:.2f}',
            f'{cost.macs / 1e9:.3f}',
            f'{published.macs}' if published and published.macs else '',
        )
    Console(highlight=False).print(table)


if __name__ == '__main__':
    run(main, args)
