#!/usr/bin/env python
"""Write a classifier, a backbone, a segmentor or a detector into a file.

The file takes pictures as a pipeline loads them, uint8 or float from 0 to 255, RGB of a
published model and BGR of a config, of any number and size: channels are swapped,
normalised and padded within. It is run beside the network before it is kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from mmrecnext_autoload.arguments import add_settings_argument, begin, command_line
from mmrecnext_autoload.choices import FORMATS, MASKS, PICTURES


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(
        __doc__,
        'python tools/export.py recnext_m3 --out m3.onnx',
        'python tools/export.py CONFIG CHECKPOINT --out detector.onnx --size 800 1344',
    )
    parser.add_argument(
        'model',
        help='recnext_m3, recnext_m3.base_300e_in1k and so on, or a config; with a '
        'checkpoint mlla_nano_recattn, or the arch of a model that was changed, a dict',
    )
    parser.add_argument(
        'checkpoint', nargs='?', help='weights [of a published model, its own]'
    )
    parser.add_argument('--out', required=True, metavar='FILE', help='file to write')
    parser.add_argument(
        '--format', help=f'{", ".join(FORMATS)} [the one whose files end as FILE does]'
    )
    parser.add_argument(
        '--dtype',
        default='fp32',
        help='type of the weights: fp32, fp16, or int8, which computes in them too '
        '[%(default)s]',
    )
    parser.add_argument(
        '--calibrate',
        metavar='FOLDER',
        help='for int8: 100 pictures or more like those of a test, of which up to 300 '
        'are taken',
    )
    parser.add_argument(
        '--size',
        nargs='+',
        default=['free'],
        metavar='SIDE',
        help='height and width of pictures, or both at once; or free [free]',
    )
    parser.add_argument(
        '--pictures',
        choices=PICTURES,
        default='uint8',
        help='type of the numbers in pictures, from 0 to 255 [%(default)s]',
    )
    parser.add_argument(
        '--backbone', action='store_true', help='the backbone alone: its maps'
    )
    parser.add_argument(
        '--logits', action='store_true', help='of a segmentor, its logits too'
    )
    parser.add_argument(
        '--masks',
        choices=MASKS,
        help='of a detector with masks: pasted into the picture, bool, or in boxes, '
        f'probabilities [{MASKS[0]}]',
    )
    parser.add_argument(
        '--form',
        choices=('deploy', 'train', 'original'),
        default='deploy',
        help='deploy: with batch norms merged into convolutions; original: of a '
        'published backbone, as the published code computes it, to compare with '
        '[%(default)s]',
    )
    parser.add_argument(
        '--ios-safe',
        action='store_true',
        help='of Core ML: enlarge maps by transposed convolutions',
    )
    parser.add_argument(
        '--no-verify',
        action='store_true',
        help='do not run the file beside the network; the file says so',
    )
    parser.add_argument(
        '--no-evaluate',
        action='store_true',
        help='do not evaluate what int8 costs on the test data of a config',
    )
    add_settings_argument(parser)
    return parser.parse_args()


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

from torch import Tensor

from mmrecnext.benchmark.original import original_of
from mmrecnext.checkpoint.sources import check_source
from mmrecnext.cli import run
from mmrecnext.engine.configs import SUFFIXES, load_config
from mmrecnext.engine.named import named
from mmrecnext.engine.terminal import progress_bar
from mmrecnext.errors import OptionError
from mmrecnext.export import (
    Subject,
    classifier_subject,
    export,
    network_subject,
    published_backbone,
)
from mmrecnext.export.formats import find_format, format_of
from mmrecnext.export.read import source
from mmrecnext.export.write import check_calibration, check_place
from mmrecnext.pretrained import get_pretrained


def main(args: argparse.Namespace):
    """Read, write, and tell what the proof has shown."""
    row = find_format(args.format or format_of(args.out), args.dtype)
    size = read_size(args.size)
    check_place(args.out, row, size)
    calibration = read_calibration(args, size)
    check_calibration(row, args.dtype, calibration)
    subject = choose(args)
    with progress_bar() as progress:
        report = export(
            subject,
            args.out,
            row.name,
            size,
            args.pictures,
            not args.no_verify,
            args.dtype,
            calibration,
            args.ios_safe,
            progress,
        )
    for trial in report.trials:
        print(f'{"its graph" if row.elsewhere else ""} beside PyTorch, {trial}'.strip())
    for trial in report.rounding:
        print(f'in {args.dtype}, {trial}')
    proof = 'verified' if report.trials else 'not verified'
    if row.elsewhere:
        proof = f'not verified: {row.elsewhere}'
    if report.times:
        before, after = report.times
        print(
            f'a picture takes {before:.1f} ms in fp32, {after:.1f} ms in {args.dtype}: '
            f'{before / after:.2f} times as fast'
        )
    if calibration and not args.backbone:
        print(f'what {args.dtype} costs in accuracy: {cost(args)}')
    beside = ''.join(f' and {report.file.with_suffix(x)}' for x in row.companions)
    outputs = ', '.join(subject.outputs)
    told = f'{outputs}, {proof}, written in {report.seconds:.0f} s'
    print(f'{args.out}{beside}: {told}')


def read_size(words: list[str]) -> tuple[int, int] | None:
    """Read a size; None for any.

    Raises:
        OptionError: for what is none.
    """
    if words == ['free']:
        return None
    if len(words) > 2 or not all(word.isdecimal() for word in words):
        raise OptionError(
            f'--size takes free, or one or two sides in pixels, got {" ".join(words)}'
        )
    return int(words[0]), int(words[-1])


def read_calibration(
    args: argparse.Namespace, size: tuple[int, int] | None
) -> Sequence[Tensor]:
    """Return the pictures to calibrate with, if a folder is named."""
    if args.calibrate is None:
        return ()
    from mmrecnext.export.calibration import (  # here: it needs what detectors do
        Calibration,
        crop_reader,
        pipeline_reader,
    )

    if args.model.endswith(SUFFIXES):
        read = pipeline_reader(load_config(args.model, args.cfg_options))
    else:
        model = named(args.model)
        read = crop_reader(size, model.side, model.short_side)
    return Calibration(args.calibrate, read)


def cost(args: argparse.Namespace) -> str:
    """Evaluate a file beside its network; or return the command that does."""
    if not args.model.endswith(SUFFIXES):
        return f'python tools/eval_imagenet.py {args.out} --data FOLDER'
    from mmrecnext.export.evaluation import (  # here: it needs what detectors do
        evaluate_beside,
        loss_of,
        why_not_evaluated,
    )

    cfg = load_config(args.model, args.cfg_options)
    command = f'python tools/test.py {args.model} {args.out}'
    if args.no_evaluate:
        return command
    if reason := why_not_evaluated(cfg):
        return f'{command} ({reason})'
    return loss_of(*evaluate_beside(cfg, args.checkpoint, args.out))


def choose(args: argparse.Namespace) -> Subject:
    """Return what the command line names.

    Raises:
        OptionError: for a model of unknown name, or options that do not go together.
    """
    deploy = args.form == 'deploy'
    is_original = args.form == 'original'
    if is_original and (args.model.endswith(SUFFIXES) or not args.backbone):
        raise OptionError('--form original is for the --backbone of a published model')
    if args.checkpoint:
        check_source(args.checkpoint)
    if args.model.endswith(SUFFIXES):
        if not args.checkpoint:
            raise OptionError('the network of a config needs a CHECKPOINT after it')
        cfg = load_config(args.model, args.cfg_options)
        outputs = dict(logits=args.logits, masks=args.masks)
        return network_subject(cfg, args.checkpoint, args.backbone, deploy, **outputs)
    if args.cfg_options or args.logits or args.masks:
        raise OptionError('--cfg-options, --logits, --masks: for networks of configs')
    if args.backbone:
        original = partial(original_of, fused=True) if is_original else None
        return published_backbone(args.model, args.checkpoint, deploy, original)
    from mmrecnext.classification import load_classifier  # here: it needs timm

    checkpoint = args.checkpoint or get_pretrained(args.model).url
    model, size = load_classifier(args.model, checkpoint), named(args.model)
    about = source(args.model, checkpoint)
    return classifier_subject(model, deploy, size.side, size.short_side, **about)


if __name__ == '__main__':
    run(main, args)
