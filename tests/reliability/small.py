"""A detector that trains in seconds, for what is tried many times."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import check, run_tool

CONFIG = 'retinanet_recnext_m0_shapes.py'
SIDE = 64  # of the pictures that the network sees
BATCHES = 2  # of an epoch

SETTINGS = (
    f'train_dataloader.dataset.pipeline.2.scale=({SIDE},{SIDE})',
    f'val_dataloader.dataset.pipeline.1.scale=({SIDE},{SIDE})',
    f'test_dataloader.dataset.pipeline.1.scale=({SIDE},{SIDE})',
    'model.test_cfg.score_thr=0.0',  # an untrained one is sure of nothing
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.interval=1',
    'train_cfg.val_interval=2',
)


def draw(folder: Path) -> Path:
    """Draw eight pictures to train on and two to validate; return the folder."""
    options = ['--train', 4 * BATCHES, '--val', 2, '--size', 96, '--objects', '2-4']
    check(run_tool('tools/make_shapes_data.py', folder, *options))
    return folder


def training(data: Path, work_dir: Path, epochs: int, *more: str) -> list:
    """Return the command that trains, and saves a checkpoint after each epoch.

    Args:
        data: what :func:`draw` has drawn.
        work_dir: of the run.
        epochs: of two steps each.
        more: flags, then settings.
    """
    flags = [x for x in more if x.startswith('--')]
    settings = [x for x in more if not x.startswith('--')]
    places = ['--data-root', data, '--work-dir', work_dir]
    length = f'train_cfg.max_epochs={epochs}'
    return [
        *('tools/train.py', CONFIG, *places, *flags),
        *('--cfg-options', *SETTINGS, length, *settings),
    ]


def train(*args) -> subprocess.CompletedProcess:
    """Train; see :func:`training`."""
    return run_tool(*training(*args))


def losses(work_dir: Path) -> Iterator[dict[int, float]]:
    """Yield the losses by step, in all digits, of each run in a work dir in turn.

    A line that a kill has cut short is left out.
    """
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        lines = file.read_text().split('\n')[:-1]
        entries = map(json.loads, lines)
        yield {entry['step']: entry['loss'] for entry in entries if 'loss' in entry}
