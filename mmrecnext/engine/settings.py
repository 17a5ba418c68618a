"""Checks of what a config says of a run, before any of it is built."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmrecnext.engine.configs import nodes, type_of
from mmrecnext.engine.data import leaf_datasets
from mmrecnext.errors import ConfigError, is_integer, is_number

DICTS = {
    *('auto_scale_lr', 'default_hooks', 'env_cfg', 'log_processor', 'model'),
    *('optim_wrapper', 'randomness', 'test_cfg', 'train_cfg', 'val_cfg', 'visualizer'),
}
SET = ('env_cfg', 'model', 'randomness')
"""Those that are never None; they can be left out."""

TEXTS = {'default_scope', 'experiment_name', 'launcher', 'load_from', 'work_dir'}

NEEDED = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'test': ('test_dataloader', 'test_cfg'),
}
"""What a run takes, by its split."""

LOOP = {'max_epochs': 1, 'max_iters': 1, 'val_interval': 1, 'val_begin': 0}
LOADER = {'batch_size': 1, 'num_workers': 0, 'prefetch_factor': 1}
HOOK = {'interval': -1}
"""The least that numbers may be; MMEngine's hooks take -1 for never."""

SIZES = ('scale', 'size', 'crop_size', 'img_scale')
"""Settings of transforms that are sides in pixels, or by how much to resize."""

LOG_LEVELS = ('CRITICAL', 'ERROR', 'WARNING', 'INFO', 'DEBUG')
SEGMENTORS = ('EncoderDecoder', 'CascadeEncoderDecoder')
MODES = ('whole', 'slide')
IOU_METRICS = ('mIoU', 'mDice', 'mFscore')
MOST_SEEDS = 2**32


def check_settings(cfg: Config, splits: Sequence[str], name: str):
    """Check that a config says how to run, by numbers that make sense.

    Args:
        cfg: the config.
        splits: those of ``train``, ``val``, ``test`` that will be read.
        name: of the config.

    Raises:
        ConfigError: naming the settings that are missing or impossible.
    """
    check_kinds(cfg)
    check_needed(cfg, splits, name)
    check_machine(cfg)
    for field, settings, least in _counted(cfg, splits):
        if not isinstance(settings, Mapping):
            raise ConfigError(f'{field} is a dict of settings, got {settings!r}')
        check_counts(field, settings, least)
    for node in nodes(cfg.get('model')):
        check_model(node)
    for split in splits:
        for metric in nodes(cfg.get(f'{split}_evaluator')):
            check_metric(f'{split}_evaluator', metric)
        check_loader(f'{split}_dataloader', cfg.get(f'{split}_dataloader') or {})


def check_kinds(cfg: Config):
    """Check that what MMEngine takes for settings, or a list of them, is such.

    Raises:
        ConfigError: naming the first that is something else.
    """
    for key in DICTS & cfg.keys():
        value = cfg[key]
        if not isinstance(value, Mapping) and (value is not None or key in SET):
            raise ConfigError(f'{key} is a dict of settings, got {value!r:.80}')
    for key in TEXTS & cfg.keys():
        if not isinstance(cfg[key], str | os.PathLike | None):
            raise ConfigError(f'{key} is a text, got {cfg[key]!r:.80}')
    hooks = cfg.get('custom_hooks') or ()
    for hook in hooks if isinstance(hooks, Iterable) else [hooks]:
        if not isinstance(hook, Mapping | Hook):
            raise ConfigError(
                f'custom_hooks is a list of dicts, got {hook!r} in it. --cfg-options '
                'cannot say such: write it into the config'
            )
    schedule = cfg.get('param_scheduler') or ()
    for each in schedule if isinstance(schedule, list | tuple) else [schedule]:
        if not isinstance(each, Mapping):
            raise ConfigError(
                f'param_scheduler is a dict of settings or a list of them, got '
                f'{schedule!r:.80}'
            )


def check_needed(cfg: Config, splits: Sequence[str], name: str):
    """Check that a config has what a run takes; see :func:`check_settings`.

    Raises:
        ConfigError: naming what is missing.
    """
    for split in NEEDED.keys() & set(splits):
        missing = [key for key in NEEDED[split] if cfg.get(key) is None]
        if missing:
            raise ConfigError(f'{name} has no {" and no ".join(missing)}: add it')
    for split in ('val', 'test'):
        parts = [f'{split}_{part}' for part in ('dataloader', 'cfg', 'evaluator')]
        missing = [part for part in parts if cfg.get(part) is None]
        if 0 < len(missing) < len(parts):
            raise ConfigError(
                f'{", ".join(parts)} go together: {name} has no '
                f'{" and no ".join(missing)}. Add it, or set all three to None'
            )


def check_machine(cfg: Config):
    """Check what a config says of processes, chance and the log.

    Raises:
        ConfigError: naming the choices.
    """
    level = cfg.get('log_level', 'INFO')
    if level not in LOG_LEVELS:
        raise ConfigError(f'log_level is one of {", ".join(LOG_LEVELS)}, got {level!r}')
    randomness = cfg.get('randomness') or {}
    known = [*signature(Runner.set_randomness).parameters][1:]
    if unknown := sorted(randomness.keys() - {*known}):
        raise ConfigError(
            f'randomness has no {", ".join(unknown)}; it has {", ".join(known)}'
        )
    seed = randomness.get('seed')
    if not (seed is None or (is_integer(seed, 0) and seed < MOST_SEEDS)):
        raise ConfigError(
            f'randomness.seed is None or from 0 to {MOST_SEEDS - 1}, got {seed!r}'
        )
    processes = (cfg.get('env_cfg') or {}).get('mp_cfg') or {}
    start = processes.get('mp_start_method')
    methods = multiprocessing.get_all_start_methods()
    if start is not None and start not in methods:
        raise ConfigError(
            f'env_cfg.mp_cfg.mp_start_method is one of {", ".join(methods)}, got '
            f'{start!r}'
        )


def check_model(node: Mapping):
    """Check what a part of a model looks at only when it is at work.

    Raises:
        ConfigError: naming the setting and its choices.
    """
    normalised = node.get('data_preprocessor') or {}
    if not _are_positive(normalised.get('std')):
        raise ConfigError(
            'data_preprocessor.std are positive, one for each band, got '
            f'{normalised["std"]!r}'
        )
    mode = (node.get('test_cfg') or {}).get('mode', 'whole')
    if type_of(node) in SEGMENTORS and mode not in MODES:
        raise ConfigError(f'test_cfg.mode is {" or ".join(MODES)}, got {mode!r}')


def check_metric(field: str, metric: Mapping):
    """Check what MMSegmentation's metric looks at only when all is predicted.

    Raises:
        ConfigError: naming the figures there are.
    """
    wanted = metric.get('iou_metrics') or ()
    wanted = [wanted] if isinstance(wanted, str) else wanted
    if type_of(metric) == 'IoUMetric' and not {*wanted} <= {*IOU_METRICS}:
        raise ConfigError(
            f'{field}.iou_metrics are of {", ".join(IOU_METRICS)}, got {wanted}'
        )


def _are_positive(values: Any) -> bool:
    listed = isinstance(values, list | tuple)
    return values is None or (listed and all(is_number(x) and x > 0 for x in values))


def _counted(
    cfg: Config, splits: Sequence[str]
) -> Iterator[tuple[str, Any, Mapping[str, int]]]:
    """Yield the parts of a config that have numbers: field, content, least of each."""
    if 'train' in splits:
        yield 'train_cfg', cfg.train_cfg, LOOP
    for split in splits:
        field = f'{split}_dataloader'
        if cfg.get(field) is not None:
            yield field, cfg[field], LOADER
    for key, hook in (cfg.get('default_hooks') or {}).items():
        if hook is not None:
            yield f'default_hooks.{key}', hook, HOOK


def check_counts(field: str, settings: Mapping, least: Mapping[str, int]):
    """Check the settings that count something.

    Args:
        field: where the config has the settings.
        settings: some of which count.
        least: by name, the least that one may be; below 0, it may not be 0.

    Raises:
        ConfigError: naming the first that is out of bounds.
    """
    for key in least.keys() & settings.keys():
        value, bound = settings[key], least[key]
        if value is None and key not in ('batch_size', 'num_workers'):
            continue
        whole = value.is_integer() if isinstance(value, float) else is_integer(value)
        if whole and value >= bound and (bound >= 0 or value != 0):
            continue
        choices = f'{bound} or more' if bound >= 0 else f'1 or more, or {bound} (never)'
        hint = ''
        if key == 'val_interval':
            hint = (
                '. To leave validation out, set val_cfg, val_dataloader and '
                'val_evaluator to None'
            )
        raise ConfigError(f'{field}.{key} is {choices}, got {value!r}{hint}')


def check_loader(field: str, loader: Mapping):
    """Check that a loader has data, and processes for what these would do.

    Raises:
        ConfigError: naming what is missing or cannot be together.
    """
    if loader and not isinstance(loader.get('dataset'), Mapping):
        raise ConfigError(
            f'{field}.dataset is a dict of settings, got {loader.get("dataset")!r}'
        )
    for dataset in leaf_datasets(loader['dataset']) if loader else ():
        check_pipeline(f'{field}.dataset.pipeline', dataset.get('pipeline'))
    if 'shuffle' in loader and 'sampler' in loader:
        raise ConfigError(f'{field}.shuffle is up to {field}.sampler.shuffle: set that')
    if loader.get('num_workers', 0) > 0:
        return
    for key, off in (('persistent_workers', False), ('prefetch_factor', None)):
        if loader.get(key):
            raise ConfigError(
                f'{field}.{key}={loader[key]} takes num_workers of 1 or more: raise '
                f'these, or set {key}={off}'
            )


def check_pipeline(field: str, pipeline: Any):
    """Check that there are transforms, and that none leaves nothing of a picture.

    Raises:
        ConfigError: naming what is missing or not positive.
    """
    if pipeline is not None and not pipeline:
        raise ConfigError(f'{field} is empty: name the transforms that load and pack')
    for step in nodes(pipeline):
        for key in SIZES:
            value = step.get(key)
            sides = value if isinstance(value, list | tuple) else [value]
            if any(is_number(side) and side <= 0 for side in sides):
                raise ConfigError(
                    f'{field}: {key} of {type_of(step)} is positive, got {value!r}'
                )
