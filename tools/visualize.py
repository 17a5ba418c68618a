#!/usr/bin/env python
"""Draw what a network sees of a picture, how far it sees, and how it learned."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmrecnext_autoload.arguments import (
    add_common,
    add_config_arguments,
    begin,
    command_line,
    file_to_write,
)

EXAMPLES = {
    name: f'python tools/visualize.py {name} {rest} --out {name}.png'
    for name, rest in {
        'maps': 'CONFIG CHECKPOINT photo.jpg',
        'cam': 'CONFIG CHECKPOINT photo.jpg',
        'fields': 'm3 a3 t',
        'curves': 'work_dirs/mask_rcnn_recnext_m3_coco',
    }.items()
}


RANDOM = 'random'
"""Stands for no file of weights."""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(__doc__, *EXAMPLES.values())
    what = parser.add_subparsers(dest='what', required=True, metavar='WHAT')

    def add(name: str, about: str) -> argparse.ArgumentParser:
        return what.add_parser(name, help=about, description=f'Draw {about}.')

    maps = add('maps', 'the maps of every stage and pyramid level')
    cam = add('cam', 'what each detection, or class, rests on')
    for command in (maps, cam):
        add_config_arguments(command)
        command.add_argument('checkpoint', help='its weights')
        command.add_argument('picture', help='picture to look at')
    cam.add_argument(
        '--part', default='neck', help='part of the model whose maps are weighed [neck]'
    )
    cam.add_argument(
        '--most',
        type=int,
        default=6,
        metavar='N',
        help='how many predictions to draw at most [6]',
    )
    cam.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='SCORE',
        help='leave out detections below it [0.3]',
    )
    fields = add('fields', 'how far RecConv and whole models see')
    fields.add_argument(
        'arch', nargs='*', default=['m3', 'a3', 't'], help='RecNeXts [m3 a3 t]'
    )
    fields.add_argument(
        '--checkpoint',
        nargs='+',
        default=(),
        metavar='FILE',
        help=f'weights of each of these, in their order, or {RANDOM!r} [{RANDOM}]',
    )
    fields.add_argument(
        '--size', type=int, default=224, metavar='SIDE', help='of the image [224]'
    )
    curves = add('curves', 'loss, learning rate and figures of runs, beside published')
    curves.add_argument('work_dir', nargs='+', help='folder of a run')
    curves.add_argument(
        '--figures',
        nargs='+',
        default=(),
        metavar='NAME',
        help='figures to draw, such as bbox_mAP [the main ones]',
    )
    for name, command in what.choices.items():
        add_common(command, EXAMPLES[name])
        command.add_argument(
            '--out',
            type=file_to_write,
            default=f'{name}.png',
            help=f'picture to write, *.png or *.svg [{name}.png]',
        )
    return parser.parse_args()


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

import torch

from mmrecnext import RecNeXt
from mmrecnext.checkpoint import load_pretrained
from mmrecnext.checkpoint.sources import check_source
from mmrecnext.cli import run
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.predictor import Predictor
from mmrecnext.engine.terminal import counted, tracked
from mmrecnext.errors import ConfigError
from mmrecnext.plots import check_picture, save_figure
from mmrecnext.visualize.curves import draw_curves, published_run, read_run
from mmrecnext.visualize.fields import (
    KERNEL_SIZE,
    draw_fields,
    model_field,
    recconv_fields,
)
from mmrecnext.visualize.maps import draw_maps, explained, look, strengths


def main(args: argparse.Namespace):
    """Draw, and say where it is."""
    check_picture(args.out, '--out')
    draw = dict(maps=show_maps, cam=show_cam, fields=show_fields, curves=show_curves)
    save_figure(draw[args.what](args), args.out, dpi=130)
    print(f'drawn in {args.out}')


def predictor_of(args: argparse.Namespace, score_thr: float = 0.3) -> Predictor:
    """Build the network that a command names."""
    check_source(args.checkpoint)
    cfg = load_config(args.config, args.cfg_options)
    return Predictor(cfg, args.checkpoint, score_thr=score_thr)


def show_maps(args: argparse.Namespace):
    """Draw the maps of the backbone and the neck."""
    seen = look(predictor_of(args), args.picture, ('backbone', 'neck'))
    return draw_maps(seen.picture, strengths(seen))


def show_cam(args: argparse.Namespace):
    """Draw what predictions rest on.

    Raises:
        ConfigError: where nothing was predicted.
    """
    predictor = predictor_of(args, args.score_thr)
    seen = look(predictor, args.picture, (args.part,))
    most, row = min(args.most, len(seen.targets)), []
    with counted('explaining', most, 'predictions') as advance:
        for each in explained(predictor, seen, args.part, args.most):
            row.append(each)
            advance()
    if not row:
        raise ConfigError(
            f'{args.picture}: nothing was found with a score of {args.score_thr} or '
            'more; a lower --score-thr shows what there is'
        )
    return draw_maps(seen.picture, [row])


def show_fields(args: argparse.Namespace):
    """Draw how far networks see, beside them RecConv where no weights are named."""
    models, rows = with_weights(args.arch, args.checkpoint), {}
    if not args.checkpoint:
        rows[f'RecConv of {KERNEL_SIZE} x {KERNEL_SIZE}'] = recconv_fields()
    with tracked(models, 'measuring', 'models') as each:
        rows['last stage'] = [model_field(*one, args.size) for one in each]
    return draw_fields(rows)


def with_weights(
    archs: Sequence[str], checkpoints: Sequence[str]
) -> list[tuple[str, RecNeXt]]:
    """Build backbones, with weights where there are, and say which.

    Raises:
        ConfigError: for other numbers of the two.
    """
    checkpoints = checkpoints or [RANDOM] * len(archs)
    if len(checkpoints) != len(archs):
        raise ConfigError(
            f'--checkpoint: {len(checkpoints)} for {len(archs)} models; name one each, '
            f'or {RANDOM!r}'
        )
    models = []
    for arch, checkpoint in zip(archs, checkpoints, strict=True):
        torch.manual_seed(0)
        if checkpoint == RANDOM:
            title, model = f'{arch}\nrandom weights', RecNeXt(arch)
        else:
            title = f'{arch}\n{Path(checkpoint).name}'
            model = RecNeXt(arch)
            load_pretrained(model, checkpoint)
        models.append((title, model))
    return models


def show_curves(args: argparse.Namespace):
    """Draw how runs learned, and the published ones of their configs."""
    runs = [read_run(Path(folder)) for folder in args.work_dir]
    published = filter(None, (published_run(name) for name in {r.name for r in runs}))
    return draw_curves([*runs, *published], args.figures)


if __name__ == '__main__':
    run(main, args)
