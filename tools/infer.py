#!/usr/bin/env python
"""Run a trained detector or segmentor on images, folders of images, or videos.

Each picture is written with its boxes and masks, or its segments, drawn in, each video
likewise, and all predictions go to ``predictions.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from pycocotools import mask as coco_mask
from rich.progress import track

from mmrecnext.checkpoint import load_network
from mmrecnext.cli import add_config_arguments, fit_cpu, load_config, run
from mmrecnext.errors import ConfigError
from mmrecnext.fusion import switch_to_deploy

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
    files = [file for name in args.inputs for file in expand(Path(name))]
    outputs = name_outputs(files, Path(args.out_dir))
    cfg = load_config(args.config, args.cfg_options)
    fit_cpu(cfg)
    predictor = Predictor(
        cfg, args.checkpoint, args.device, args.score_thr, args.deploy
    )

    predictions, sheet, unreadable = [], [], []
    for file, output in track(outputs.items(), 'Inferring', total=len(outputs)):
        try:
            if file.suffix.lower() in VIDEOS:
                predictions += predictor.video(file, output)
                continue
            picture, found = predictor(read_image(file))
        except ConfigError as error:
            unreadable.append(str(error))
            continue
        write_image(output, picture)
        predictions.append({'file': str(file), **found})
        if len(sheet) < args.sheet:
            sheet.append(picture)

    out_dir = Path(args.out_dir)
    (out_dir / 'predictions.json').write_text(json.dumps(predictions))
    if sheet:
        write_image(out_dir / 'sheet.png', tile(sheet))
    videos = sum(output.suffix == '.mp4' for output in outputs.values())
    images = len(outputs) - videos
    print(f'{images} images, {videos} videos and predictions.json in {out_dir}')
    if unreadable:
        raise ConfigError('; '.join(unreadable))


def check_device(name: str):
    """Refuse a device that PyTorch does not know or does not have."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f'--device {name} cannot be used: {reason}') from error


def read_image(file: Path) -> np.ndarray:
    """Read an image as ``[H, W, 3]``, uint8, BGR."""
    image = cv2.imread(str(file))
    if image is None:
        raise ConfigError(f'{file} is not an image that OpenCV can read')
    return image


def write_image(file: Path, image: np.ndarray):
    """Write an image, or fail."""
    if not cv2.imwrite(str(file), image):
        raise ConfigError(f'cannot write {file}')


class Predictor:
    """A trained model that predicts and draws, of either framework.

    Args:
        cfg: its config.
        checkpoint: its weights.
        device: where to run.
        score_thr: least score of a detection.
        deploy: whether to bring it into its inference form.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str,
        device: str,
        score_thr: float,
        deploy: bool = False,
    ):
        if cfg.default_scope == 'mmdet':
            from mmdet.apis import inference_detector as infer
            from mmdet.apis import init_detector as init
        else:
            from mmseg.apis import inference_model as infer
            from mmseg.apis import init_model as init
        # `init` takes the class names too, but lets misfits pass, and lists their keys.
        with mock.patch(f'{init.__module__}.load_checkpoint', load_network):
            self.model = init(cfg, checkpoint, device=device)
        if deploy:
            switch_to_deploy(self.model)
        self.infer = infer
        self.score_thr = score_thr
        visualizer = {k: v for k, v in cfg.visualizer.items() if k != 'vis_backends'}
        self.visualizer = VISUALIZERS.build(visualizer)
        self.visualizer.dataset_meta = with_palette(self.model.dataset_meta)

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, dict]:
        """Predict one image.

        Args:
            image: ``[H, W, 3]``, uint8, BGR.

        Returns:
            The picture, in the form of ``image``, and what was found, ready for JSON.
        """
        sample = self.infer(self.model, image).cpu()
        options = {'draw_gt': False, 'show': False}
        if 'pred_instances' in sample:
            options['pred_score_thr'] = self.score_thr
            found = self.describe_instances(sample.pred_instances)
        else:
            found = self.describe_segments(sample.pred_sem_seg.data[0])
        rgb = np.ascontiguousarray(image[..., ::-1])
        self.visualizer.add_datasample('picture', rgb, sample, **options)
        return self.visualizer.get_image()[..., ::-1], found

    def video(self, file: Path, out_file: Path) -> list[dict]:
        """Predict and draw each frame of a video."""
        frames = mmcv.VideoReader(str(file))
        if frames.frame_cnt <= 0:
            raise ConfigError(f'{file} is not a video that OpenCV can read')
        writer = cv2.VideoWriter(
            str(out_file),
            cv2.VideoWriter_fourcc(*'mp4v'),
            frames.fps or 25,
            frames.resolution,
        )
        if not writer.isOpened():
            raise ConfigError(f'cannot write {out_file}')
        predictions = []
        for index, frame in enumerate(frames):
            picture, found = self(frame)
            writer.write(cv2.resize(picture, frames.resolution))
            predictions.append({'file': str(file), 'frame': index, **found})
        writer.release()
        return predictions

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes, in the order of the labels."""
        return self.model.dataset_meta['classes']

    def describe_instances(self, instances) -> dict:
        """List detections: class, score, box (x1, y1, x2, y2 in pixels), mask (RLE)."""
        instances = instances[instances.scores >= self.score_thr]
        detections = []
        for i in range(len(instances)):
            detection = {
                'class': self.classes[instances.labels[i]],
                'score': round(instances.scores[i].item(), 4),
                'box': [round(x, 2) for x in instances.bboxes[i].tolist()],
            }
            if 'masks' in instances:
                mask = np.asfortranarray(instances.masks[i].numpy().astype(np.uint8))
                rle = coco_mask.encode(mask)
                detection['mask'] = {**rle, 'counts': rle['counts'].decode()}
            detections.append(detection)
        return {'detections': detections}

    def describe_segments(self, labels: torch.Tensor) -> dict:
        """Give the share of the pixels of each class that occurs."""
        counts = torch.bincount(labels.flatten(), minlength=len(self.classes))
        shares = (counts / counts.sum()).tolist()
        return {
            'shares': {
                name: round(share, 4)
                for name, share in zip(self.classes, shares, strict=False)
                if share
            }
        }


def expand(path: Path) -> Iterator[Path]:
    """Yield the images and videos that ``path`` is or holds, in order of name."""
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES + VIDEOS)
        if not files:
            raise ConfigError(f'no image or video in {path}')
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


def with_palette(meta: Mapping) -> dict:
    """Return a dataset's description, with a colour for each class in any case.

    Not every checkpoint holds one, and MMSegmentation does not draw without.
    """
    colours = np.random.RandomState(0).randint(0, 256, (len(meta['classes']), 3))
    return {**meta, 'palette': meta.get('palette') or colours.tolist()}


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
