#!/usr/bin/env python
"""Turn a checkpoint of a backbone, or of a network around one, into another form.

The input is whatever a backbone's `init_cfg` takes: a released .pth, .safetensors, .bin
or fused .pt, a checkpoint of training, one of a detector or segmentor, by path, URL,
published name or repository on the hub. The forms of the output are

  published    {'model': weights}, a released .pth
  safetensors  as on the hub, of timm
  bare         the weights alone, a .bin of timm
  backbone     an OpenMMLab checkpoint of a backbone, keys beginning with `backbone.`
  fused        for inference, TorchScript, a released _fused.pt
  network      a whole detector or segmentor, of mmdet 2 or mmseg 0, for mmdet 3 or
               mmseg 1

Batch norms that are merged cannot be told apart again: fused weights stay fused.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from mmrecnext_autoload.arguments import (
    add_ema_argument,
    add_model_argument,
    begin,
    command_line,
    file_to_write,
)
from mmrecnext_autoload.choices import CHECKPOINTS


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(
        __doc__,
        'python tools/convert_checkpoint.py recnext_m3_distill_300e.pth m3.safetensors',
    )
    parser.add_argument('checkpoint', metavar='IN', help='the checkpoint')
    parser.add_argument(
        'out', type=file_to_write, metavar='OUT', help='the file to write'
    )
    parser.add_argument(
        '--to',
        choices=CHECKPOINTS,
        help='form of the output [as the suffix of OUT tells; of .pth: network where '
        'IN holds one, else published]',
    )
    add_model_argument(parser, '--model', '[the known one that the weights are of]')
    add_ema_argument(parser)
    network = parser.add_argument_group('of a network')
    network.add_argument(
        '--config', help='check that the result fits the model of this config entirely'
    )
    network.add_argument(
        '--drop',
        nargs='+',
        default=[],
        metavar='PREFIX',
        help='leave out weights whose keys begin so, such as auxiliary_head.',
    )
    network.add_argument(
        '--keep-optimizer',
        action='store_true',
        help='keep the state of the optimizer, to resume training',
    )
    return parser.parse_args()


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

from torch import Tensor

from mmrecnext.checkpoint import explained_misfit, named_weights, read_checkpoint
from mmrecnext.checkpoint.convert import (
    choose_form,
    convert,
    pickled,
    upgrade_network,
)
from mmrecnext.cli import run
from mmrecnext.engine.build import build_network, fit_cpu
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.named import named
from mmrecnext.engine.terminal import progress_bar
from mmrecnext.errors import OptionError
from mmrecnext.files import write_file


def main(args: argparse.Namespace):
    """Read, convert, write, and say what was written."""
    file = Path(args.out)
    if os.path.realpath(file) == os.path.realpath(args.checkpoint):
        raise OptionError(f'{file} is the input: choose another OUT')
    checkpoint = read_checkpoint(args.checkpoint, 'cpu')
    form = args.to or choose_form(named_weights(checkpoint), file)
    of_network = args.config or args.drop or args.keep_optimizer
    if of_network and form != 'network':
        raise OptionError(
            f'--config, --drop and --keep-optimizer are for networks, not for {form}'
        )
    if (form == 'safetensors') != (file.suffix == '.safetensors'):
        raise OptionError(f'{file}: names end in .safetensors of that form, and alone')
    if args.ema and form == 'network':
        raise OptionError('--ema is for classifiers, not for network')
    arch = named(args.model).arch if args.model else None
    file.parent.mkdir(parents=True, exist_ok=True)
    if form != 'network':
        with progress_bar() as progress:
            what = convert(
                checkpoint, form, file, args.checkpoint, args.ema, arch, progress
            )
        print(f'{file}: {form}, {what}')
        return

    new = upgrade_network(
        checkpoint, args.checkpoint, args.keep_optimizer, args.drop, arch
    )
    if args.config:
        check_fits(args.config, new['state_dict'], args.checkpoint)
    write_file(file, pickled(new))
    classes = len(new['meta'].get('dataset_meta', {}).get('classes', ()))
    print(f'{file}: network, {len(new["state_dict"])} weights, {classes} class names')


def check_fits(config: str, weights: Mapping[str, Tensor], source: str):
    """Load weights into the model of a config, with nothing missing or left over.

    Raises:
        CheckpointError: where they do not fit.
    """
    cfg = load_config(config)
    fit_cpu(cfg)
    model = build_network(cfg.model, cfg.default_scope)
    with explained_misfit(model, source, weights):
        model.load_state_dict(weights)


if __name__ == '__main__':
    run(main, args)
