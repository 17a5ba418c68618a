#!/usr/bin/env python
"""Print parameters and multiply-adds (MACs) of RecNeXt classifiers.

All are those of the inference form, every batch norm merged, beside the published ones.
MACs are those of convolutions, matrix products and bilinear interpolation (four per
pixel of its result).
"""

from __future__ import annotations

if __name__ == '__main__':
    from mmrecnext_autoload import answer_signals

    answer_signals()  # while the rest is imported

import argparse
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from timm.models import create_model
from torch.utils.flop_counter import FlopCounterMode

import mmrecnext.classification  # noqa: F401  registers the models
from mmrecnext import ARCHS
from mmrecnext.cli import run
from mmrecnext.errors import OptionError
from mmrecnext.pretrained import FIGURES, get_pretrained

FLOPS_PER_MAC = 2
MACS_PER_BILINEAR_PIXEL = 4


@dataclass(frozen=True)
class Cost:
    """What a model takes: numbers of parameters and of multiply-adds per image."""

    params: int
    train_params: int
    macs: int


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n')[0], allow_abbrev=False
    )
    parser.add_argument(
        'models', nargs='*', metavar='MODEL', help='such as recnext_m3 [all]'
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        default=[224],
        metavar='SIDE',
        help='height and width of the image, or both at once [224]',
    )
    return parser.parse_args()


def main():
    """Print a table."""
    args = parse_args()
    shape = args.shape * 2 if len(args.shape) == 1 else args.shape
    if len(shape) != 2 or min(shape) < 1:
        raise OptionError(f'--shape takes one or two sides in pixels, got {args.shape}')

    table = Table(title=f'at {shape[0]} x {shape[1]}; published at 224 x 224')
    table.add_column('model', no_wrap=True)
    # In two lines, for the longest name of a model to fit into 80 columns with them.
    for column in (
        'params\n(M)',
        'published',
        'in\ntraining',
        'MACs\n(G)',
        'published',
    ):
        table.add_column(column, justify='right')
    for arch in [arch_of(name) for name in args.models] or ARCHS:
        cost = measure(arch, *shape)
        table.add_row(
            f'recnext_{arch}',
            f'{cost.params / 1e6:.2f}',
            f'{FIGURES[arch].params}',
            f'{cost.train_params / 1e6:.2f}',
            f'{cost.macs / 1e9:.3f}',
            f'{FIGURES[arch].macs}',
        )
    Console(highlight=False).print(table)


def arch_of(name: str) -> str:
    """Return the arch of a model, whose name may be that of its weights.

    Raises:
        OptionError: for an unknown model.
    """
    try:
        return get_pretrained(name).arch
    except OptionError as error:
        known = ', '.join(f'recnext_{arch}' for arch in ARCHS)
        raise OptionError(f'unknown model {name!r}; the models are {known}') from error


def measure(arch: str, height: int = 224, width: int = 224) -> Cost:
    """Count parameters and multiply-adds of a classifier, computing nothing.

    Args:
        arch: a name in ``ARCHS``.
        height: of the image, in pixels.
        width: likewise.
    """
    with torch.device('meta'):
        model = create_model(f'recnext_{arch}')
        image = torch.empty(1, 3, height, width)
    train_params = sum(p.numel() for p in model.parameters())
    model.switch_to_deploy()
    counter = FlopCounterMode(
        display=False,
        custom_mapping={torch.ops.aten.upsample_bilinear2d: bilinear_flops},
    )
    with torch.no_grad(), counter:
        model(image)
    return Cost(
        params=sum(p.numel() for p in model.parameters()),
        train_params=train_params,
        macs=counter.get_total_flops() // FLOPS_PER_MAC,
    )


def bilinear_flops(*args, out_shape: torch.Size, **kwargs) -> int:
    """Count the operations of an interpolation to ``out_shape``."""
    return FLOPS_PER_MAC * MACS_PER_BILINEAR_PIXEL * out_shape.numel()


if __name__ == '__main__':
    run(main)
