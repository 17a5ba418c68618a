"""A test set up to write what is asked for, in the form that it can be tested in."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from mmrecnext.engine.configs import type_of
from mmrecnext.engine.frameworks import framework_of
from mmrecnext.engine.unlabelled import metrics_of
from mmrecnext.errors import ConfigError

PICKLES = ('.pkl', '.pickle')


def check_out(cfg: Config, out: str | None):
    """Refuse a place that predictions of this framework cannot go to."""
    if not out:
        return
    of_file = out.endswith((*PICKLES, '.json'))
    instances = framework_of(cfg).predicts == 'instances'
    if instances and not of_file:
        raise ConfigError(
            f'--out {out}: detections are saved in a file *.pkl, or *.json as of COCO'
        )
    if not instances and out.endswith('.json'):
        raise ConfigError(
            f'--out {out}: segments are saved as label maps in a folder, or in a file '
            '*.pkl'
        )
    if of_file == Path(out).is_dir() and Path(out).exists():
        raise ConfigError(f'--out {out} is a {"folder" if of_file else "file"}')
    (Path(out).parent if of_file else Path(out)).mkdir(parents=True, exist_ok=True)


def save_coco_json(cfg: Config, out: str):
    """Have the metric of COCO write what its server takes."""
    metrics = [m for m in metrics_of(cfg) if type_of(m) == 'CocoMetric']
    if not metrics:
        raise ConfigError(f'--out {out}: no CocoMetric in test_evaluator writes it')
    for metric in metrics:
        metric.outfile_prefix = out.removesuffix('.json')


def drop_idle_metrics(cfg: Config):
    """Leave out metrics that would format label maps and have no folder for them."""
    cfg.test_evaluator = [
        m
        for m in metrics_of(cfg)
        if not (type_of(m) == 'IoUMetric' and m.get('format_only'))
        or m.get('output_dir')
    ]


def drawing_settings(cfg: Config) -> dict:
    """Return how to draw; a config without a visualizer gets its framework's."""
    framework = framework_of(cfg)
    cfg.setdefault('visualizer', dict(type=framework.visualizer, name='visualizer'))
    scored = framework.predicts == 'instances'
    hook = cfg.get('default_hooks', {}).get('visualization') or {}
    return {'pred_score_thr': hook.get('score_thr', 0.3)} if scored else {}


def deploy(cfg: Config):
    """Have the model brought into its inference form once its weights are loaded."""
    # Averaged weights are what a checkpoint holds; their hook would swap unlike forms.
    hooks = [h for h in cfg.get('custom_hooks') or () if h.type != 'EMAHook']
    cfg.custom_hooks = [*hooks, dict(type='DeployHook')]
