#!/usr/bin/env python
"""Train the model of a config, of any OpenMMLab framework or a classifier of ours."""

import argparse

from mmrecnext_autoload.arguments import (
    add_config_arguments,
    add_runner_arguments,
    begin,
    command_line,
)
from mmrecnext_autoload.choices import AMP_DTYPES


def parse_args() -> argparse.Namespace:
    """Read the command line; the flags are MMDetection's."""
    parser = command_line(
        __doc__, 'python tools/train.py mask_rcnn_recnext_m3_coco.py --amp'
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


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

from mmrecnext.cli import command_to_resume, prepare_run, resumable, run
from mmrecnext.engine.build import build_runner
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.precision import use_amp
from mmrecnext.engine.resume import resume_from
from mmrecnext.errors import ConfigError


def main(args: argparse.Namespace):
    """Train."""
    cfg = load_config(args.config, args.cfg_options, classifiers=True)
    prepare_run(cfg, args, splits=('train', 'val'))
    if args.amp or args.amp_dtype:
        use_amp(cfg, args.amp_dtype)
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise ConfigError('--auto-scale-lr: set auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        resume_from(cfg, args.resume, args.new_schedule)
    with resumable(cfg.work_dir, command_to_resume(args)):
        runner = build_runner(cfg)
        runner.new_schedule = args.new_schedule
        runner.train()
    if runner.rank == 0:
        print(f'checkpoints and logs in {cfg.work_dir}')


if __name__ == '__main__':
    run(main, args)
