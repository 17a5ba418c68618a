#!/usr/bin/env python
"""Train a detector or a segmentor."""

if __name__ == '__main__':
    from mmrecnext_autoload import answer_signals

    answer_signals()  # while the rest is imported

import argparse
import logging
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from mmrecnext.checkpoint import read_checkpoint
from mmrecnext.cli import (
    add_config_arguments,
    add_runner_arguments,
    build_runner,
    load_config,
    prepare,
    run,
)
from mmrecnext.errors import CheckpointError, ConfigError
from mmrecnext.files import remove_unfinished
from mmrecnext.ops.conv import ONEDNN_DTYPES
from mmrecnext.resume import check_resumable, latest_checkpoint, saved_checkpoints
from mmrecnext.stopping import first_process, lock

AMP_DTYPES = {'bf16': 'bfloat16', 'fp16': 'float16'}


def parse_args() -> argparse.Namespace:
    """Read the command line; the flags are MMDetection's."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description=__doc__,
        epilog='Example: train.py mask_rcnn_recnext_m3_coco.py --amp',
    )
    add_config_arguments(parser)
    add_runner_arguments(parser)
    parser.add_argument(
        '--amp',
        action='store_true',
        help='train in automatic mixed precision, fp16 on a GPU and bf16 on a CPU',
    )
    parser.add_argument(
        '--amp-dtype',
        choices=AMP_DTYPES,
        help='the same, in the precision named; fp16 takes a GPU',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate from the batch size that the config was made for '
        'to the one at hand',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from CHECKPOINT, or from the latest in the work dir',
    )
    parser.add_argument(
        '--new-schedule',
        action='store_true',
        help='with --resume: learning rate, weight decay and schedulers as the config '
        'says now, not as the checkpoint says',
    )
    args = parser.parse_args()
    if args.new_schedule and args.resume is None:
        parser.error('--new-schedule goes with --resume')
    return args


def main():
    """Train."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    prepare(cfg, args, splits=('train', 'val'))
    if args.amp or args.amp_dtype:
        use_amp(cfg, args.amp_dtype)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ConfigError('--auto-scale-lr: set auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    if first_process(args.launcher):
        lock(cfg.work_dir)
        remove_unfinished(cfg.work_dir)
    if args.resume is not None:
        resume(cfg, args.resume, args.new_schedule)
    try:
        runner = build_runner(cfg)
        runner.new_schedule = args.new_schedule
        runner.train()
    except KeyboardInterrupt as stop:
        saved = saved_checkpoints(cfg.work_dir)
        go_on = f'go on from {saved[0]} with --resume' if saved else 'nothing is saved'
        stop.args = (go_on,)
        raise


def resume(cfg: Config, checkpoint: str, new_schedule: bool = False):
    """Go on from a checkpoint, or start where ``auto`` finds none.

    Raises:
        CheckpointError: where training cannot go on from it.
    """
    schedulers = bool(cfg.get('param_scheduler')) and not new_schedule
    if checkpoint == 'auto':
        checkpoint = latest_checkpoint(cfg.work_dir, schedulers)
        if checkpoint is None:
            return
    elif '://' not in checkpoint and not Path(checkpoint).expanduser().is_file():
        raise CheckpointError(
            f'there is no file {checkpoint} to resume from; --resume alone takes the '
            f'latest of the work dir, {cfg.work_dir}'
        )
    else:
        # Here, for building data and model takes a while.
        check_resumable(read_checkpoint(checkpoint, 'cpu'), checkpoint, schedulers)
    cfg.resume = True
    cfg.load_from = checkpoint


def use_amp(cfg: Config, dtype: str | None):
    """Wrap the optimizer for mixed precision, whatever wrapper the config has.

    Args:
        cfg: config to change.
        dtype: a key of ``AMP_DTYPES``; None for what MMEngine takes by itself.
    """
    wrapper = cfg.optim_wrapper
    if wrapper.get('type', 'OptimWrapper') not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ConfigError(
            f'--amp: the optimizer is wrapped by {wrapper.type}; '
            'it can only take the place of OptimWrapper'
        )
    if torch.cuda.is_available():
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
        if dtype:
            wrapper.dtype = AMP_DTYPES[dtype]
        return
    if dtype == 'fp16':
        raise ConfigError('--amp-dtype fp16 needs a GPU; a CPU trains in bf16')
    if torch.bfloat16 not in ONEDNN_DTYPES:
        print_log(
            '--amp: oneDNN has no bf16 for this processor; its convolutions take many '
            'times as long as in single precision',
            'current',
            logging.WARNING,
        )
    for option in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(option, None)
    wrapper.type = 'CPUAmpOptimWrapper'


if __name__ == '__main__':
    run(main)
