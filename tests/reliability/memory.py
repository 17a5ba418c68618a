"""Memory and open files of a process that trains, or predicts, for long.

``python -m tests.reliability.memory --steps 500`` prints how both grow by a step, once
what is kept for the next ones is there, as Linux tells.
"""

import argparse

from mmrecnext_autoload.arguments import begin, command_line


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(
        __doc__.partition('\n')[0], 'python -m tests.reliability.memory --steps 500'
    )
    parser.add_argument('--steps', type=int, default=500)
    parser.add_argument('--bound', type=float, default=10, help='KiB by the step')
    return parser.parse_args()


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from scipy.stats import theilslopes

from mmrecnext.cli import read_settings, run
from mmrecnext.engine.build import build_runner
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.predictor import Predictor, write_image
from mmrecnext.engine.prepare import prepare
from tests.reliability.small import BATCHES, CONFIG, SETTINGS, draw

KIB = 1024
PAGE = os.sysconf('SC_PAGE_SIZE')
WARM = 0.2
"""Share of the steps that come before memory is watched."""

SIDES = 16, 1600
"""Least and most of the sides of pictures, drawn evenly by their logarithms."""


@dataclass
class Sample:
    """What a process holds.

    Attributes:
        memory: bytes that are resident.
        files: open ones.
    """

    memory: int
    files: int


def now() -> Sample:
    """Look at this process."""
    resident = int(Path('/proc/self/statm').read_text().split()[1])
    return Sample(resident * PAGE, len(os.listdir('/proc/self/fd')))


@dataclass
class Growth:
    """How a process has grown.

    Attributes:
        memory: bytes by the step: the median of the slopes between all pairs of steps,
            which a few large ones do not move.
        files: open ones more in the end than in the beginning.
        peak: bytes that were resident at most.
    """

    memory: float
    files: int
    peak: int

    def __str__(self) -> str:
        return (
            f'{self.memory / KIB:+.1f} KiB a step, {self.files:+d} open files, at most '
            f'{self.peak / KIB**2:.0f} MiB'
        )


def growth(samples: list[Sample]) -> Growth:
    """Tell how a process has grown, but in the first of its steps."""
    late = samples[int(WARM * len(samples)) :]
    slope = theilslopes([sample.memory for sample in late]).slope
    files = late[-1].files - late[0].files
    return Growth(float(slope), files, max(sample.memory for sample in samples))


def repeated(steps: int, step: Callable[[int], object]) -> Growth:
    """Do something many times; tell how this process has grown."""
    samples = []
    for index in range(steps):
        step(index)
        samples.append(now())
    return growth(samples)


def small_config(*more: str) -> Config:
    """Return the config of the small detector, with more settings."""
    return load_config(CONFIG, read_settings([*SETTINGS, *more]))


class Watch(Hook):
    """Looks at the process after each step of a training."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.samples: list[Sample] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Look."""
        self.samples.append(now())


def train(data: Path, work_dir: Path, epochs: int) -> Growth:
    """Train a detector, with a checkpoint and a validation now and then."""
    cfg = small_config(
        'default_hooks.checkpoint.interval=10',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        'train_cfg.val_interval=25',
        f'train_cfg.max_epochs={epochs}',
    )
    prepare(cfg, CONFIG, ('train', 'val'), str(work_dir), str(data))
    runner = build_runner(cfg)
    watch = Watch()
    runner.register_hook(watch)
    runner.train()
    return growth(watch.samples)


def pictures(count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Draw pictures of any size."""
    rng = random.Random(seed)
    for _ in range(count):
        height, width = (round(np.exp(rng.uniform(*np.log(SIDES)))) for _ in range(2))
        picture = np.full((height, width, 3), rng.randrange(256), np.uint8)
        corner = rng.randrange(width), rng.randrange(height)
        cv2.circle(picture, corner, min(height, width) // 3, (230, 97, 76), -1)
        yield picture


def infer(checkpoint: Path, folder: Path, count: int) -> Growth:
    """Predict, describe and draw pictures of all sizes, as ``tools/infer.py`` does."""
    cfg = small_config()
    predictor = Predictor(cfg, str(checkpoint), score_thr=0.0)
    drawn = pictures(count)

    def step(index: int):
        file = folder / 'picture.png'
        cv2.imwrite(str(file), next(drawn))
        picture, sample = predictor(file)
        predictor.describe(sample)
        write_image(folder / 'drawn.png', predictor.draw(picture, sample))

    return repeated(count, step)


def main(args: argparse.Namespace):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = draw(folder / 'data')
        found = {}
        epochs = args.steps // BATCHES
        found['training'] = train(data, folder / 'run', epochs)
        print('training:', found['training'], flush=True)
        (checkpoint,) = folder.glob('run/*.pth')
        found['inference'] = infer(checkpoint, folder, args.steps)
        print('inference:', found['inference'])
    grown = [k for k, v in found.items() if v.memory > args.bound * KIB or v.files > 0]
    sys.exit(f'it grows: {", ".join(grown)}' if grown else 0)


if __name__ == '__main__':
    run(main, args)
