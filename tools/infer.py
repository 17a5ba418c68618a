#!/usr/bin/env python
"""Run a trained model on images, folders of images, or videos.

It is named by its config and checkpoint, or by a file that tools/export.py has written.
Each picture is written with its boxes and masks, or its segments, drawn in, each video
likewise, and all predictions go to ``predictions.json``. Pictures are read and prepared
as those of `test_dataloader`. A top-down pose estimator takes boxes of people, which a
detector finds or a file has; without, the whole picture.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmrecnext_autoload.arguments import (
    add_config_arguments,
    add_device_argument,
    add_inference_arguments,
    begin,
    command_line,
)
from mmrecnext_autoload.choices import is_exported


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(
        __doc__,
        'python tools/infer.py CONFIG CHECKPOINT photo.jpg folder/ --out-dir found',
        'python tools/infer.py detector.onnx photo.jpg',
        'python tools/infer.py POSE CHECKPOINT photo.jpg --detector CONFIG CHECKPOINT',
    )
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint', help='checkpoint of the same model; none after an exported file'
    )
    parser.add_argument('inputs', nargs='*', help='images, folders of images, videos')
    parser.add_argument(
        '--out-dir',
        default='work_dirs/infer',
        help='folder that all results go to [%(default)s]',
    )
    add_device_argument(parser)
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='SCORE',
        help='leave out detections below it [%(default)s]',
    )
    parser.add_argument(
        '--sheet',
        type=int,
        default=0,
        metavar='N',
        help='also put N of the pictures side by side in sheet.png: of all, in order, '
        'cut into N equal parts, the one in the middle of each, right or wrong',
    )
    parser.add_argument(
        '--label-maps',
        action='store_true',
        help='of a segmentor, also write the class of each pixel, counted from 0, '
        'into label_maps/NAME.png',
    )
    add_inference_arguments(parser)
    boxes = parser.add_mutually_exclusive_group()
    boxes.add_argument(
        '--detector',
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='of a pose estimator, the detector that finds the boxes of people',
    )
    boxes.add_argument(
        '--boxes',
        metavar='FILE',
        help="or a file that has them: annotations in COCO's format, or detections as "
        'tools/test.py --out FILE.json writes them',
    )
    parser.add_argument(
        '--box-class',
        metavar='NAME',
        help='class of these boxes; a number for one of detections [person]',
    )
    parser.add_argument(
        '--box-thr', type=float, metavar='SCORE', help='leave out boxes below it [0.3]'
    )
    args = parser.parse_args()
    if is_exported(args.config):
        args.inputs.insert(0, args.checkpoint)
        args.checkpoint = None
    if not args.inputs:
        parser.error('name images, folders of images or videos to predict')
    if not 0 <= args.score_thr <= 1:
        parser.error('--score-thr is between 0 and 1')
    if args.sheet < 0:
        parser.error('--sheet is not negative')
    chosen = dict(name=args.box_class, score_thr=args.box_thr)
    args.boxes_by = {key: value for key, value in chosen.items() if value is not None}
    if args.boxes_by and not (args.detector or args.boxes):
        parser.error('--box-class and --box-thr choose boxes of --detector or --boxes')
    if not 0 <= args.boxes_by.get('score_thr', 0) <= 1:
        parser.error('--box-thr is between 0 and 1')
    return args


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

from mmengine.config import Config

from mmrecnext.checkpoint.sources import check_source
from mmrecnext.cli import chosen_device, run
from mmrecnext.engine.boxes import DetectedBoxes, ListedBoxes
from mmrecnext.engine.build import fit_cpu
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.frameworks import framework_of
from mmrecnext.engine.pictures import SUFFIXES as IMAGES
from mmrecnext.engine.predictor import (
    Predictor,
    frames_of,
    middles,
    tile,
    write_image,
    write_label_map,
)
from mmrecnext.engine.terminal import counted
from mmrecnext.errors import ConfigError, OptionError, brief
from mmrecnext.export.predicting import config_of
from mmrecnext.files import write_file
from mmrecnext_autoload.signals import termination

MOST_TOLD = 5
"""Inputs that could not be predicted are told each with the reason, up to so many."""

VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm')


def main(args: argparse.Namespace):
    """Predict, draw and write."""
    args.device = chosen_device(args.device, args.config)
    for name in args.inputs:
        if '://' in name:
            raise ConfigError(f'{name} is not fetched: name files of this machine')
    files = [file for name in args.inputs for file in expand(Path(name))]
    out_dir = Path(args.out_dir)
    outputs = name_outputs(files, out_dir)
    cfg = read_config(args)
    if args.label_maps and framework_of(cfg).predicts != 'label map':
        raise ConfigError('--label-maps: only segmentors have label maps')
    stills = [file for file in outputs if file.suffix.lower() not in VIDEOS]
    videos = outputs.keys() - stills
    predictor = Predictor(
        cfg,
        args.checkpoint,
        args.device,
        args.score_thr,
        args.deploy,
        args.dtype,
        boxes_of=find_boxes(args, stills, videos),
    )

    chosen = {*middles(stills, args.sheet)}
    done, predictions, sheet, empty, failures = [], [], [], [], {}

    def predict(file: Path, output: Path):
        picture, sample = predictor(file)
        drawn = predictor.draw(picture, sample)
        found = predictor.describe(sample)
        write_image(output, drawn)
        if args.label_maps:
            write_label_map(out_dir / 'label_maps' / output.name, sample)
        predictions.append({'file': str(file), 'picture': output.name, **found})
        if file in chosen:
            sheet.append(drawn)
        if found.get('poses') == []:
            empty.append(file)
        done.append(file)

    steps = len(stills) + sum(map(frames_of, videos))
    try:
        with counted('inferring', steps, 'pictures') as advance:
            for file, output in outputs.items():
                try:
                    if file in videos:
                        found = predictor.film(file, output, advance)
                        predictions += [{'file': str(file), **frame} for frame in found]
                        done.append(file)
                    else:
                        with termination.step():
                            predict(file, output)
                except OSError:  # of what is written: the others fare no better
                    raise
                except Exception as error:  # an odd picture must not lose the others
                    failures[file] = error
                if file not in videos:
                    advance()
    except KeyboardInterrupt as stop:
        stop.args = (f'{len(done)} of {len(outputs)} files are done, in {out_dir}',)
        raise
    finally:
        write_file(out_dir / 'predictions.json', json.dumps(predictions).encode())
    if sheet:
        write_image(out_dir / 'sheet.png', tile(sheet))
    films = len(videos.intersection(done))
    images = len(done) - films
    print(f'{images} images, {films} videos and predictions.json in {out_dir}')
    if empty:
        print(f'no pose in {len(empty)} images: {brief(empty)}')
    if failures:
        told = [describe_failure(*item) for item in failures.items()]
        if len(told) > MOST_TOLD:
            rest = brief([*failures][MOST_TOLD:], MOST_TOLD)
            told[MOST_TOLD:] = [f'and likewise {rest}']
        raise ConfigError('; '.join(told)) from next(iter(failures.values()))


def read_config(args: argparse.Namespace) -> Config:
    """Return the config of what predicts.

    Raises:
        OptionError: for options that an exported file does not take.
    """
    if args.checkpoint:
        return config_with(args.checkpoint, args.config, args.cfg_options)
    if args.deploy or args.cfg_options or args.device != 'cpu' or args.dtype != 'fp32':
        raise OptionError(
            f'{args.config} is as it was exported: --deploy, --dtype, --cfg-options '
            'and other devices than cpu are for a config and its checkpoint'
        )
    return config_of(args.config)


def config_with(checkpoint: str, *config: Any) -> Config:
    """Load a config, as ``load_config`` does, whose checkpoint must be there."""
    cfg = load_config(*config)
    check_source(checkpoint)
    fit_cpu(cfg)
    return cfg


def find_boxes(
    args: argparse.Namespace, stills: Sequence[Path], videos: Collection[Path]
) -> DetectedBoxes | ListedBoxes | None:
    """Return what finds the boxes of people, if anything does.

    Raises:
        ConfigError: where a file has none for the inputs, or a detector detects none.
    """
    if args.boxes:
        if videos:
            raise ConfigError(
                f'{args.boxes} has boxes of pictures: name a --detector for videos'
            )
        listed = ListedBoxes(args.boxes, **args.boxes_by)
        listed.check(stills)
        return listed
    if args.detector:
        config, checkpoint = args.detector
        cfg = config_with(checkpoint, config)
        run = dict(device=args.device, deploy=args.deploy, dtype=args.dtype)
        return DetectedBoxes(cfg, checkpoint, **args.boxes_by, **run)
    return None


def describe_failure(file: Path, error: Exception) -> str:
    """Say in a line what went wrong with a file."""
    if isinstance(error, ConfigError):
        return str(error)
    first = next(iter(str(error).strip().splitlines()), '')
    return f'{file} cannot be predicted: {type(error).__name__}: {first}'


def expand(path: Path) -> Iterator[Path]:
    """Yield the images and videos that ``path`` is or holds, in order of name."""
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES + VIDEOS)
        if not files:
            inner = sorted(p.name for p in path.iterdir() if p.is_dir())
            hint = f'; name its folders: {", ".join(inner[:5])}' if inner else ''
            raise ConfigError(f'no image or video in {path}{hint}')
        yield from files
    elif not path.is_file():
        raise ConfigError(f'there is no image, folder or video {path}')
    elif path.suffix.lower() not in IMAGES + VIDEOS:
        raise ConfigError(
            f'{path} is neither an image ({" ".join(IMAGES)}) nor a video '
            f'({" ".join(VIDEOS)})'
        )
    else:
        yield path


def name_outputs(files: Sequence[Path], out_dir: Path) -> dict[Path, Path]:
    """Give each input, once, a file of its own in the output folder.

    A name that is taken gets a number; no input is ever overwritten.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    inputs = {file.resolve() for file in files}
    taken = {out_dir / 'sheet.png'}
    outputs = {}
    for file in dict.fromkeys(files):
        suffix = '.mp4' if file.suffix.lower() in VIDEOS else '.png'
        names = (file.stem, *(f'{file.stem}_{i}' for i in range(2, len(files) + 3)))
        output = next(o for n in names if (o := out_dir / f'{n}{suffix}') not in taken)
        if output.resolve() in inputs:
            raise ConfigError(f'{output} is an input: choose another --out-dir')
        taken.add(output)
        outputs[file] = output
    return outputs


if __name__ == '__main__':
    run(main, args)
