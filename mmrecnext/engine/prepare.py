"""A config made ready to run: checked, and fitted to the machine and its data."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from mmengine.config import Config

from mmrecnext.engine.build import fit_cpu
from mmrecnext.engine.configs import nodes
from mmrecnext.engine.data import check_data
from mmrecnext.engine.settings import check_settings
from mmrecnext.engine.stopping import check_launched
from mmrecnext.errors import ConfigError


def prepare(
    cfg: Config,
    name: str,
    splits: tuple[str, ...],
    work_dir: str | None = None,
    data_root: str | None = None,
    launcher: str = 'none',
):
    """Fit a config to this machine, its data and a launcher, in place.

    Args:
        cfg: the config.
        name: of its file.
        splits: those of ``train``, ``val``, ``test`` that will be read.
        work_dir: folder of logs and checkpoints, by default the config's own, or
            ``work_dirs/`` and the name of its file.
        data_root: where the data stand, in place of the config's ``data_root``.
        launcher: what has started this process, a key of
            :data:`~mmrecnext_autoload.choices.RANKS`, or ``none``.

    Raises:
        ConfigError: where data are missing, or settings of what is to run.
    """
    check_launched(launcher)
    check_settings(cfg, splits, name)
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(name).stem}'
    if data_root:
        move_data_root(cfg, data_root)
    check_data(cfg, splits, data_root)
    if not torch.cuda.is_available():
        fit_cpu(cfg)


def move_data_root(cfg: Config, folder: str):
    """Point a config, evaluators included, to data that stand elsewhere.

    Raises:
        ConfigError: where the config has no single ``data_root``.
    """
    old = cfg.get('data_root')
    if not old or not isinstance(old, str):
        raise ConfigError('--data-root: the config has no `data_root` to replace')
    old = old.rstrip('/')
    data = [v for k, v in cfg.items() if k.endswith(('_dataloader', '_evaluator'))]
    for node in nodes(data):
        for key, value in node.items():
            if isinstance(value, str) and f'{value}/'.startswith(f'{old}/'):
                node[key] = os.path.join(folder, value[len(old) :].lstrip('/'))
    cfg.data_root = folder
