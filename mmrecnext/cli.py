"""What the tools share: their arguments, fitting a config to them, running it."""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner as MMEngineRunner

from mmrecnext.configs import load_config as load_config  # for the tools
from mmrecnext.configs import nodes, type_of
from mmrecnext.data import check_data
from mmrecnext.ending import run as run  # for the tools
from mmrecnext.errors import ConfigError, OptionError
from mmrecnext.runner import leaf_datasets as leaf_datasets  # with it RecNeXtRunner
from mmrecnext.settings import check_settings
from mmrecnext.stopping import RANKS, check_launched

# MMEngine reloads pkg_resources, which says each time that it will go.
warnings.filterwarnings('ignore', message='pkg_resources is deprecated')

SYNCED_NORMS = ('SyncBN', 'MMSyncBN', 'SyncBatchNorm')
"""Batch norms of PyTorch, by its own name as well, and of MMCV that count across GPUs.
"""

LAUNCHERS = ('none', *RANKS)


class SettingsAction(DictAction):
    """Reads settings KEY=VALUE; what is none is told as other mistakes are."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Add settings to those before.

        Raises:
            ConfigError: where there is no ``=``, or a bracket lacks another.
        """
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, ValueError) as error:
            raise ConfigError(
                f'{option_string} takes KEY=VALUE, with brackets in pairs, got '
                f'{" ".join(values)}'
            ) from error


def file_to_write(path: str) -> str:
    """Read a file name of the command line.

    Raises:
        argparse.ArgumentTypeError: where a folder has that name.
    """
    if os.path.isdir(path):
        raise argparse.ArgumentTypeError(f'{path} is a folder; name a file')
    return path


def check_device(name: str):
    """Check that PyTorch knows and has a device.

    Raises:
        OptionError: where it has not.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f'--device {name} cannot be used: {reason}') from error


def add_config_arguments(parser: argparse.ArgumentParser):
    """Add the arguments of every tool that reads a config."""
    parser.add_argument(
        'config', help='config file; a bare name is sought in configs/ and below'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=SettingsAction,
        metavar='KEY=VALUE',
        help='override settings of the config, such as '
        'optim_wrapper.optimizer.lr=1e-4 "model.neck.in_channels=[64,128,256,512]"',
    )


def add_ema_argument(parser: argparse.ArgumentParser):
    """Add the argument of tools that read checkpoints of classifiers."""
    parser.add_argument(
        '--ema',
        action='store_true',
        help='take the moving averages that timm saves beside the weights',
    )


def add_runner_arguments(parser: argparse.ArgumentParser):
    """Add the arguments of tools that run a runner, by MMDetection's names."""
    parser.add_argument(
        '--work-dir', help='folder of logs and checkpoints [work_dirs/CONFIG]'
    )
    parser.add_argument(
        '--data-root',
        metavar='FOLDER',
        help='where the data stand, in place of `data_root` of the config',
    )
    parser.add_argument(
        '--launcher', choices=LAUNCHERS, default='none', help='job launcher [none]'
    )
    # torch.distributed.launch passes it; torchrun sets the variable itself.
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS
    )


def prepare(cfg: Config, args: argparse.Namespace, splits: tuple[str, ...]):
    """Fit a config to this machine and to the command line, in place.

    Args:
        cfg: the config.
        args: arguments of :func:`add_runner_arguments` and of the tool.
        splits: those of ``train``, ``val``, ``test`` that will be read.

    Raises:
        ConfigError: where data are missing, or settings of what is to run.
    """
    check_launched(args.launcher)
    check_settings(cfg, splits, args.config)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.launcher = args.launcher
    name = Path(args.config).stem
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'work_dirs/{name}'
    if args.data_root:
        move_data_root(cfg, args.data_root)
    check_data(cfg, splits, args.data_root)
    if not torch.cuda.is_available():
        fit_cpu(cfg)


def fit_cpu(cfg: Config):
    """Replace what needs a GPU: NCCL by Gloo, synchronised batch norm by plain."""
    launcher = cfg.get('launcher', 'none')
    if launcher == 'pytorch':
        # MMEngine would choose a GPU for each process first, and for its wrapper.
        torch.distributed.init_process_group('gloo')
        cfg.setdefault(
            'model_wrapper_cfg',
            dict(
                type='MMDistributedDataParallel',
                device_ids=None,
                broadcast_buffers=False,
                find_unused_parameters=cfg.get('find_unused_parameters', False),
            ),
        )
    synced = [node for node in nodes(cfg.model) if type_of(node) in SYNCED_NORMS]
    for node in synced:
        node.type = 'BN'
    if synced and launcher != 'none' and is_main_process():
        print_log(
            'SyncBN needs GPUs: each process normalises its own batch (BN)', 'current'
        )


def build_runner(cfg: Config) -> MMEngineRunner:
    """Build the runner that the config names, by default one that checks more."""
    cfg.setdefault('runner_type', 'RecNeXtRunner')
    return RUNNERS.build(cfg)


def move_data_root(cfg: Config, folder: str):
    """Point a config, evaluators included, to data that stand elsewhere.

    Raises:
        ConfigError: where the config has no single ``data_root``.
    """
    old = cfg.get('data_root')
    if not old:
        raise ConfigError('--data-root: the config has no `data_root` to replace')
    old = old.rstrip('/')
    data = [v for k, v in cfg.items() if k.endswith(('_dataloader', '_evaluator'))]
    for node in nodes(data):
        for key, value in node.items():
            if isinstance(value, str) and f'{value}/'.startswith(f'{old}/'):
                node[key] = os.path.join(folder, value[len(old) :].lstrip('/'))
    cfg.data_root = folder
