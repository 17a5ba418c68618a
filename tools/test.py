#!/usr/bin/env python
"""Evaluate a trained detector or segmentor on the test split of its config."""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.evaluator import DumpResults

from mmrecnext.cli import (
    add_config_arguments,
    add_runner_arguments,
    build_runner,
    load_config,
    prepare,
    run,
)
from mmrecnext.configs import nodes, type_of
from mmrecnext.errors import ConfigError
from mmrecnext.runner import leaf_datasets


def parse_args() -> argparse.Namespace:
    """Read the command line; the flags are MMDetection's but --show and --wait-time."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint of the same model')
    add_runner_arguments(parser)
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='save the predictions: in a file *.pkl, or, of segmentation, as label '
        'maps in a folder',
    )
    parser.add_argument(
        '--show-dir', metavar='FOLDER', help='draw truth and prediction of each image'
    )
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation: flips (and scales)'
    )
    parser.add_argument(
        '--deploy',
        action='store_true',
        help='merge batch norms into convolutions first: same figures, sooner',
    )
    return parser.parse_args()


def main():
    """Evaluate, and end with a line of figures."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    prepare(cfg, args, splits=('test',))
    cfg.load_from = args.checkpoint
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None  # the checkpoint holds it
    if args.show_dir:
        draw(cfg, args.show_dir)
    if args.tta:
        augment(cfg)
    if args.deploy:
        deploy(cfg)
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        save_label_maps(cfg, args.out)

    runner = build_runner(cfg)
    runner.strict = True
    if args.out and args.out.endswith(('.pkl', '.pickle')):
        runner.test_evaluator.metrics.append(DumpResults(args.out))
    metrics = runner.test()
    if runner.rank == 0:
        # COCO gives -1 where there is nothing to measure.
        figures = '  '.join(
            f'{name.split("/")[-1]} {value:.3f}'
            for name, value in metrics.items()
            if value >= 0
        )
        told = [figures] if figures else []
        told += [x for hook in runner.hooks for x in getattr(hook, 'remarks', ())]
        print(f'\n{Path(args.config).stem}: {"; ".join(told) or "no figures"}')
        for kind, place in (('pictures', args.show_dir), ('predictions', args.out)):
            if place:
                print(f'{kind} in {place}')


def draw(cfg: Config, folder: str):
    """Have the visualization hook of either framework draw every image."""
    if 'visualization' not in cfg.get('default_hooks', {}):
        raise ConfigError('--show-dir: default_hooks has no `visualization`')
    cfg.default_hooks.visualization.update(draw=True, interval=1)
    if cfg.default_scope == 'mmdet':
        # The hook puts this folder under work_dir and a time.
        cfg.default_hooks.visualization.test_out_dir = str(Path(folder).absolute())
    else:
        cfg.visualizer.save_dir = folder


def save_label_maps(cfg: Config, folder: str):
    """Have the metric of MMSegmentation write each predicted label map."""
    if cfg.default_scope != 'mmseg':
        raise ConfigError(f'--out {folder}: detections are saved in a file *.pkl')
    metrics = [m for m in nodes(cfg.test_evaluator) if type_of(m) == 'IoUMetric']
    if not metrics:
        raise ConfigError(f'--out {folder}: no IoUMetric in test_evaluator writes maps')
    for metric in metrics:
        metric.update(output_dir=folder, keep_results=True)


def augment(cfg: Config):
    """Wrap the model and its pipeline for test-time augmentation."""
    if cfg.default_scope == 'mmdet':
        from mmrecnext.tta import add_flip_tta

        add_flip_tta(cfg)
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise ConfigError('--tta: the config has no `tta_model` and `tta_pipeline`')
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline


def deploy(cfg: Config):
    """Have the model brought into its inference form once its weights are loaded."""
    # Averaged weights are what a checkpoint holds; their hook would swap unlike forms.
    hooks = [h for h in cfg.get('custom_hooks') or () if h.type != 'EMAHook']
    cfg.custom_hooks = [*hooks, dict(type='DeployHook')]


if __name__ == '__main__':
    run(main)
