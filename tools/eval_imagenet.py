#!/usr/bin/env python
"""Measure the top-1 and top-5 accuracy of a classifier on ImageNet."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mmrecnext_autoload.arguments import (
    add_device_argument,
    add_ema_argument,
    begin,
    command_line,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(
        __doc__, 'python tools/eval_imagenet.py recnext_m3 --data imagenet'
    )
    parser.add_argument(
        'model',
        help='such as recnext_m3, or recnext_m3.base_300e_in1k; a file exported from a '
        'model; or, with a checkpoint, mlla_nano_recattn, the config of a training, or '
        'the arch of a model that was changed, a dict',
    )
    parser.add_argument(
        '--data',
        required=True,
        metavar='FOLDER',
        help='one folder of images per class, or what holds those in val/',
    )
    parser.add_argument(
        '--checkpoint', metavar='FILE', help='weights [the published ones]'
    )
    add_ema_argument(parser)
    parser.add_argument(
        '--fused', action='store_true', help='merge all batch norms before'
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        default=64,
        metavar='N',
        help='images at once [%(default)s]',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=4,
        metavar='N',
        help='processes that read images [%(default)s]',
    )
    add_device_argument(parser)
    args = parser.parse_args()
    if args.batch_size < 1:
        parser.error('--batch-size is 1 or more')
    if args.workers < 0:
        parser.error('--workers is not negative')
    return args


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmrecnext.classification import load_classifier
from mmrecnext.classification.recipe import ALL, PicturesByClass
from mmrecnext.cli import chosen_device, run
from mmrecnext.engine.named import named
from mmrecnext.engine.terminal import tracked
from mmrecnext.errors import ConfigError, OptionError
from mmrecnext.export.exported import ExportedClassifier, open_exported
from mmrecnext.models.classifier import Classifier
from mmrecnext.pretrained import INTERPOLATION, MEAN, STD
from mmrecnext_autoload.choices import is_exported


def main(args: argparse.Namespace):
    """Evaluate, and end with a line of figures."""
    args.device = chosen_device(args.device, args.model)
    images = read_folder(args.data, preparation(args.model))
    model = read_model(args)
    count = len(images.metainfo['classes'])
    if model.num_classes != count:
        raise ConfigError(
            f'{args.data} has folders of {count} classes, but '
            f'{args.checkpoint or args.model} tells {model.num_classes} apart'
        )
    loader = DataLoader(images, args.batch_size, num_workers=args.workers)
    model.to(args.device)
    with tracked(
        loader, 'evaluating', f'batches of {args.batch_size} images'
    ) as batches:
        top1, top5 = evaluate(model, batches, args.device)
    print(f'{args.model}: top-1 {top1:.2f}  top-5 {top5:.2f}  ({len(images)} images)')


def preparation(model: str) -> dict[str, Any]:
    """Return timm's options for the pictures that a model, or a file, is made for."""
    if is_exported(model):
        resize, crop = open_exported(model).about['resize']
        side, short_side = crop['size'][0], resize['short_side']
    else:
        found = named(model)
        side, short_side = found.side, found.short_side
    return dict(
        input_size=side,
        crop_pct=side / short_side,
        interpolation=INTERPOLATION,
        mean=MEAN,
        std=STD,
    )


def read_model(args: argparse.Namespace) -> ExportedClassifier | Classifier:
    """Return what the command line names.

    Raises:
        OptionError: for options that an exported file does not take.
        ConfigError: for a model of pictures of other than 3 channels.
    """
    if is_exported(args.model):
        if args.checkpoint or args.ema or args.fused or args.device != 'cpu':
            raise OptionError(
                f'{args.model} is as it was exported: --checkpoint, --ema, --fused and '
                'other devices than cpu are for models'
            )
        return ExportedClassifier(args.model)
    model = load_classifier(args.model, args.checkpoint, args.ema)
    if model.in_chans != 3:
        raise ConfigError(f'images have 3 channels, the model takes {model.in_chans}')
    if args.fused:
        model.switch_to_deploy()
    return model


def read_folder(folder: str, transform: Mapping[str, Any]) -> PicturesByClass:
    """List the images of a folder of classes, which are numbered as in a training.

    Args:
        folder: holds one folder per class, or these in ``val``.
        transform: timm's options for the pictures.

    Raises:
        ConfigError: where the folder, classes or images are missing.
    """
    if not Path(folder).is_dir():
        raise ConfigError(f'--data: there is no folder {folder}')
    return PicturesByClass(folder, ALL, transform)


@torch.no_grad()
def evaluate(
    model: Callable[[Tensor], Tensor] | nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    device: str = 'cpu',
) -> tuple[float, float]:
    """Return top-1 and top-5 accuracy, in percent.

    Args:
        model: turns images into logits ``[N, classes]``; with fewer than five classes,
            all of them count as the top five.
        loader: gives images and labels ``[N]``.
        device: where the model is.
    """
    hits, total = torch.zeros(2, dtype=torch.long), 0
    for images, labels in loader:
        logits = model(images.to(device)).cpu()
        best = logits.topk(min(5, logits.size(1))).indices
        correct = best == labels[:, None]
        hits += torch.stack([correct[:, 0].sum(), correct.sum()])
        total += len(labels)
    top1, top5 = (100 * hits / total).tolist()
    return top1, top5


if __name__ == '__main__':
    run(main, args)
