#!/usr/bin/env python
"""Evaluate a trained model on the test split of its config."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmrecnext_autoload.arguments import (
    add_config_arguments,
    add_inference_arguments,
    add_runner_arguments,
    begin,
    command_line,
)


def parse_args() -> argparse.Namespace:
    """Read the command line; the flags are MMDetection's but --show and --wait-time."""
    parser = command_line(
        __doc__,
        'python tools/test.py mask_rcnn_recnext_m3_coco.py epoch_12.pth',
        'python tools/test.py CONFIG CHECKPOINT --report report --show-dir drawn',
    )
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint', help='checkpoint of the same model, or a file exported from it'
    )
    add_runner_arguments(parser)
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='save the predictions: in a file *.pkl; of detection, in *.json, as of '
        'COCO; of segmentation, as label maps in a folder. Data without annotations '
        'are predicted and not evaluated',
    )
    parser.add_argument(
        '--show-dir', metavar='FOLDER', help='draw truth and prediction of each image'
    )
    parser.add_argument(
        '--report',
        metavar='FOLDER',
        help='write a page about the evaluation, index.html, for a browser: figures by '
        'class, curves, what is taken for what, the best and the worst pictures',
    )
    parser.add_argument(
        '--against',
        metavar='FOLDER',
        help='of another report, which the page of --report then compares with',
    )
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation: flips (and scales)'
    )
    add_inference_arguments(parser)
    return parser.parse_args()


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

from mmengine.config import Config

from mmrecnext.checkpoint.sources import check_source
from mmrecnext.cli import prepare_run, run
from mmrecnext.engine.build import build_runner
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.outputs import (
    PICKLES,
    DrawHook,
    DumpHook,
    LabelMapHook,
    check_out,
    deploy,
    drawing_settings,
    drop_idle_metrics,
    lower_precision,
    save_coco_json,
    write_whole,
)
from mmrecnext.engine.prepare import move_data_root
from mmrecnext.engine.settings import check_settings
from mmrecnext.engine.tta import augment
from mmrecnext.engine.unlabelled import leave_out_annotations, missing_annotations
from mmrecnext.errors import OptionError
from mmrecnext.export.predicting import put_in_place
from mmrecnext.report import ReportHook, check_report
from mmrecnext_autoload.choices import is_exported


def main(args: argparse.Namespace):
    """Evaluate, and end with a line of figures."""
    cfg = load_config(args.config, args.cfg_options)
    check_settings(cfg, ('test',), args.config)  # before any is looked into
    check_out(cfg, args.out)
    if args.data_root:
        move_data_root(cfg, args.data_root)
    missing = missing_annotations(cfg) if cfg.get('test_dataloader') else None
    if args.report or args.against:
        check_report(cfg, args.report, args.against, missing)
    if missing:
        leave_out_annotations(cfg, missing, args.out)
    prepare_run(cfg, args, splits=('test',))
    set_model(cfg, args)
    if args.out and args.out.endswith('.json'):
        save_coco_json(cfg, args.out)
    elif args.out:
        drop_idle_metrics(cfg)
    drawing = drawing_settings(cfg)

    runner = build_runner(cfg)
    runner.strict = True
    if args.show_dir:
        runner.register_hook(DrawHook(args.show_dir, **drawing))
    if args.out and args.out.endswith(PICKLES):
        runner.register_hook(DumpHook(args.out))
    elif args.out and not args.out.endswith('.json'):
        runner.register_hook(LabelMapHook(args.out))
    files = write_whole(runner.test_evaluator.metrics)
    if args.report:
        title = Path(args.config).stem
        runner.register_hook(
            ReportHook(args.report, title, args.checkpoint, args.against, ways(args))
        )
    metrics = runner.test()
    if runner.rank == 0:
        remarks = [x for hook in runner.hooks for x in getattr(hook, 'remarks', ())]
        print(f'\n{Path(args.config).stem}: {closing(metrics, missing, remarks)}')
        report = args.report and Path(args.report, 'index.html')
        for kind, place in (
            ('pictures', args.show_dir),
            ('predictions', ', '.join(files) or args.out),
            ('report', report),
            ('log', runner.log_dir),
        ):
            if place:
                print(f'{kind} in {place}')


def set_model(cfg: Config, args: argparse.Namespace):
    """Have a config tested with a checkpoint, or with an exported file.

    Raises:
        FileNotFoundError: where there is none.
        OptionError: for options that an exported file does not take.
    """
    if is_exported(args.checkpoint):
        if args.tta or args.deploy or args.dtype != 'fp32':
            raise OptionError(
                f'{args.checkpoint} is as it was exported: --tta, --deploy and --dtype '
                'are for checkpoints'
            )
        put_in_place(args.checkpoint, cfg)
        return
    check_source(args.checkpoint)
    cfg.load_from = args.checkpoint
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None  # the checkpoint holds it
    if args.tta:
        augment(cfg)
    if args.deploy:
        deploy(cfg)
    if args.dtype != 'fp32':
        lower_precision(cfg, args.dtype)


def ways(args: argparse.Namespace) -> str:
    """Say how the network runs, where that is not as it was trained."""
    flags = [f'--{name}' for name in ('deploy', 'tta') if getattr(args, name)]
    return ' '.join(
        [*flags, *(['--dtype', args.dtype] if args.dtype != 'fp32' else [])]
    )


def closing(
    metrics: Mapping[str, float], missing: str | None, remarks: Sequence[str] = ()
) -> str:
    """Say the figures of a test and what they do not count, or why there are none.

    COCO gives -1, and MMSegmentation NaN, where there is nothing to measure.
    """
    figures = {k: v for k, v in metrics.items() if v >= 0}
    if figures:
        said = '  '.join(f'{k.split("/")[-1]} {v:.3f}' for k, v in figures.items())
    elif missing:
        said = f'nothing was measured: {missing} has no annotations'
    elif metrics:
        said = 'no figures: the truth has nothing to measure'
    else:
        said = 'no figures'
    return '; '.join([said, *remarks])


if __name__ == '__main__':
    run(main, args)
