"""Small trainings of a classifier, on toy pictures.

``python -m tests.classification.helpers DATA WORK_DIR STEP`` begins one, which is
killed before a step.
"""

import os
import signal
import sys
from itertools import count
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook

from mmrecnext.engine.build import build_runner
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.precision import use_amp
from mmrecnext.engine.prepare import prepare
from tests.helpers import ROOT, TINY

CONFIGS = ROOT / 'configs/imagenet'
BASE = CONFIGS / 'recnext_m0_300e_in1k.py'
DISTILLED = CONFIGS / 'recnext_m0_dist_300e_in1k.py'
SIZE = 32

SMALL = {
    'train_dataloader.batch_size': 8,
    'train_dataloader.dataset.transform.input_size': SIZE,
    'val_dataloader.dataset.transform.input_size': SIZE,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'default_hooks.logger.interval': 1,
    'train_cfg.max_epochs': 2,
    'param_scheduler.epochs': 2,
    'param_scheduler.warmup': 1,
    'param_scheduler.warmup_lr': 1e-3,
    'custom_hooks.0.decay': 0.9,
}
"""Settings of a training that takes seconds, from its first step at a rate to see."""

names = (f'classifier{i}' for i in count())


class Watch(Hook):
    """Keeps the loss of each step, and may kill the process before one."""

    def __init__(self, killed_before: int | None = None):
        self.losses, self.killed_before = {}, killed_before

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.killed_before:
            os.kill(os.getpid(), signal.SIGKILL)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter] = outputs['loss'].item()


def config(data: Path, work_dir: Path, file: Path = BASE, **options) -> Config:
    """Read a config for a small training; options by dotted key."""
    cfg = load_config(str(file), SMALL | options, classifiers=True)
    cfg.model.arch = TINY
    prepare(cfg, file.name, ('train', 'val'), str(work_dir), str(data))
    cfg.experiment_name = next(names)
    return cfg


def train(
    data: Path,
    work_dir: Path,
    file: Path = BASE,
    killed_before: int | None = None,
    amp: bool = False,
    **options,
):
    """Train, and return the runner and the losses by step."""
    cfg = config(data, work_dir, file, **options)
    if amp:
        use_amp(cfg, 'bf16')
    runner = build_runner(cfg)
    watch = Watch(killed_before)
    runner.register_hook(watch)
    runner.train()
    return runner, watch.losses


if __name__ == '__main__':
    train(Path(sys.argv[1]), Path(sys.argv[2]), killed_before=int(sys.argv[3]))
