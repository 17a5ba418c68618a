#!/usr/bin/env python
"""Run a trained detector or segmentor on images, folders of images, or videos.

Each picture is written with its boxes and masks, or its segments, drawn in, each video
likewise, and all predictions go to ``predictions.json``. Pictures are read and prepared
as those of `test_dataloader`.
"""

from __future__ import annotations

if __name__ == '__main__':
    from mmrecnext_autoload import answer_signals

    answer_signals()  # while the rest is imported

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from rich.progress import track

from mmrecnext.checkpoint.sources import check_source
from mmrecnext.cli import (
    add_config_arguments,
    check_device,
    run,
)
from mmrecnext.engine.build import fit_cpu
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.frameworks import framework_of
from mmrecnext.engine.predictor import Predictor, label_map_of
from mmrecnext.errors import ConfigError
from mmrecnext.files import write_file

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n')[0], allow_abbrev=False
    )
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint of the same model')
    parser.add_argument('inputs', nargs='+', help='images, folders of images, videos')
    parser.add_argument(
        '--out-dir',
        default='work_dirs/infer',
        help='folder that all results go to [%(default)s]',
    )
    parser.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where to run: cpu, cuda or cuda:N [%(default)s]',
    )
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
        help='also put the first N pictures side by side in sheet.png',
    )
    parser.add_argument(
        '--label-maps',
        action='store_true',
        help='of a segmentor, also write the class of each pixel, counted from 0, '
        'into label_maps/NAME.png',
    )
    parser.add_argument(
        '--deploy',
        action='store_true',
        help='merge batch norms into convolutions first: same predictions, sooner',
    )
    args = parser.parse_args()
    if not 0 <= args.score_thr <= 1:
        parser.error('--score-thr is between 0 and 1')
    if args.sheet < 0:
        parser.error('--sheet is not negative')
    return args


def main():
    """Predict, draw and write."""
    args = parse_args()
    check_device(args.device)
    for name in args.inputs:
        if '://' in name:
            raise ConfigError(f'{name} is not fetched: name files of this machine')
    files = [file for name in args.inputs for file in expand(Path(name))]
    out_dir = Path(args.out_dir)
    outputs = name_outputs(files, out_dir)
    cfg = load_config(args.config, args.cfg_options)
    if args.label_maps and framework_of(cfg).predicts != 'label map':
        raise ConfigError('--label-maps: only segmentors have label maps')
    check_source(args.checkpoint)
    fit_cpu(cfg)
    predictor = Predictor(
        cfg, args.checkpoint, args.device, args.score_thr, args.deploy
    )

    predictions, sheet, failures = [], [], {}
    try:
        for file, output in track(outputs.items(), 'Inferring', total=len(outputs)):
            try:
                if file.suffix.lower() in VIDEOS:
                    predictions += infer_video(predictor, file, output)
                    continue
                picture, sample = predictor(file)
                drawn = predictor.draw(picture, sample)
                found = predictor.describe(sample)
                write_image(output, drawn)
                if args.label_maps:
                    write_label_map(out_dir / 'label_maps' / output.name, sample)
            except Exception as error:  # an odd picture must not lose the others
                failures[file] = error
                continue
            predictions.append({'file': str(file), 'picture': output.name, **found})
            if len(sheet) < args.sheet:
                sheet.append(drawn)
    finally:
        write_file(out_dir / 'predictions.json', json.dumps(predictions).encode())
    if sheet:
        write_image(out_dir / 'sheet.png', tile(sheet))
    done = [file for file in outputs if file not in failures]
    videos = sum(file.suffix.lower() in VIDEOS for file in done)
    images = len(done) - videos
    print(f'{images} images, {videos} videos and predictions.json in {out_dir}')
    if failures:
        told = '; '.join(describe_failure(*item) for item in failures.items())
        raise ConfigError(told) from next(iter(failures.values()))


def describe_failure(file: Path, error: Exception) -> str:
    """Say in a line what went wrong with a file."""
    if isinstance(error, ConfigError):
        return str(error)
    first = next(iter(str(error).strip().splitlines()), '')
    return f'{file} cannot be predicted: {type(error).__name__}: {first}'


def write_image(file: Path, image: np.ndarray):
    """Write an image, or fail."""
    written, content = cv2.imencode(file.suffix, image)
    if not written:
        raise ConfigError(f'cannot write {file}')
    write_file(file, content.tobytes())


def write_label_map(file: Path, sample):
    """Write a label map as a grey PNG, of 16 bits where 8 do not hold its numbers."""
    labels = label_map_of(sample)
    file.parent.mkdir(exist_ok=True)
    write_image(file, labels.astype(np.uint8 if labels.max() < 256 else np.uint16))


def infer_video(predictor: Predictor, file: Path, out_file: Path) -> list[dict]:
    """Predict and draw each frame of a video."""
    video = mmcv.VideoReader(str(file))
    if not len(video):
        raise ConfigError(f'{file} is not a video that OpenCV can read')
    writer = cv2.VideoWriter(
        str(out_file),
        cv2.VideoWriter_fourcc(*'mp4v'),
        video.fps or 25,
        video.resolution,
    )
    if not writer.isOpened():
        raise ConfigError(f'cannot write {out_file}')
    predictions = []
    for index, (picture, sample) in enumerate(predictor.frames(file)):
        drawn = predictor.draw(picture, sample)
        writer.write(cv2.resize(drawn, video.resolution))
        found = predictor.describe(sample)
        predictions.append({'file': str(file), 'frame': index, **found})
    writer.release()
    return predictions


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


def tile(pictures: Sequence[np.ndarray], gap: int = 6) -> np.ndarray:
    """Put pictures side by side, in about as many rows as columns."""
    columns = int(np.ceil(np.sqrt(len(pictures) * 1.5)))
    height = max(p.shape[0] for p in pictures) + gap
    width = max(p.shape[1] for p in pictures) + gap
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * height - gap, columns * width - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * height, i % columns * width
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet


if __name__ == '__main__':
    run(main)
