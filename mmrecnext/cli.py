"""What the tools share: reading a config, checking it at the door, running it."""

from __future__ import annotations

import argparse
import difflib
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner as MMEngineRunner
from mmengine.utils import get_installed_path, is_installed

from mmrecnext.errors import ConfigError, UserError
from mmrecnext.runner import leaf_datasets

FRAMEWORKS = {'mmdet': 'mmdet', 'mmseg': 'mmsegmentation'}
"""Default scopes that the tools know, and the distribution that each comes from."""

# MMEngine reloads pkg_resources, which says each time that it will go.
warnings.filterwarnings('ignore', message='pkg_resources is deprecated')

SYNCED_NORMS = ('SyncBN', 'MMSyncBN')
"""Batch norms of PyTorch and of MMCV that count across GPUs."""

NUMBERS_OR_WORDS = ('loss_scale',)
"""Settings of a number whose place a word may take, such as ``dynamic``."""

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def run(main: Callable[[], None]):
    """Run a tool; what the user can mend is told in a line, with no traceback."""
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f'{Path(sys.argv[0]).name}: error: {error}')
    if torch.distributed.is_initialized():
        backend = torch.distributed.get_backend()
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        if backend == 'gloo':  # whose threads at times abort a process that tears down
            logging.shutdown()
            sys.stdout.flush()
            os._exit(0)


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


def shipped(kind: str) -> Path:
    """Return the folder of the ``configs`` or ``tools`` that come with mmrecnext."""
    package = Path(__file__).resolve().parent
    installed = package / '.mim' / kind
    return installed if installed.is_dir() else package.parent / kind


def load_config(path: str, options: Mapping | None = None) -> Config:
    """Read a config of MMDetection or MMSegmentation.

    Args:
        path: config file, the bare name of one that ships with mmrecnext, or one of a
            framework such as ``mmdet::retinanet/retinanet_r50_fpn_1x_coco.py``.
        options: settings to override, by dotted key.

    Raises:
        ConfigError: for a config that is missing, broken or of another framework, a
            framework that is not installed, or an option of unknown name.
    """
    file = locate(path)
    try:
        cfg = Config.fromfile(file)
    except Exception as error:
        raise ConfigError(f'cannot read {file}: {error}') from error
    return _checked(cfg, file, options)


def locate(name: str | Path) -> Path:
    """Return the file of a config.

    Args:
        name: a path, a name such as ``mmdet::FILE``, or that of one in ``configs/`` or
            below.

    Raises:
        ConfigError: where there is none, naming the closest.
    """
    package, _, inner = str(name).rpartition('::')
    if package and not is_installed(package):
        if package in FRAMEWORKS:
            hint = f'is not installed: pip install {FRAMEWORKS[package]}'
        else:
            hint = f'is no framework; those are {" and ".join(FRAMEWORKS)}'
        raise ConfigError(f'there is no config {name}: {package} {hint}')
    folder = configs_of(package) if package else shipped('configs')
    file = folder / inner if package else Path(name)
    if file.is_file():
        return file
    found = sorted(folder.rglob('*.py'))
    if package:
        named = {f'{package}::{x.relative_to(folder).as_posix()}': x for x in found}
    else:
        named = {x.name: x for x in found}
    if str(name) in named:
        return named[str(name)]
    sought = str(name) if package else file.name
    close = difflib.get_close_matches(sought, named, n=3, cutoff=0)
    raise ConfigError(
        f'there is no config {name}; of those in {folder}, the closest are '
        f'{", ".join(close)}'
    )


def configs_of(package: str) -> Path:
    """Return the folder of the configs that an installed framework ships."""
    return Path(get_installed_path(package)) / '.mim' / 'configs'


def _checked(cfg: Config, file: str | Path, options: Mapping | None) -> Config:
    scope = cfg.get('default_scope')
    if scope not in FRAMEWORKS:
        raise ConfigError(
            f'{file} is a config for {scope or "no framework"} (its `default_scope`); '
            f'this tool runs configs for {" and ".join(FRAMEWORKS)}'
        )
    if find_spec(scope) is None:
        raise ConfigError(
            f'{file} needs {scope}, which is not installed: '
            f'pip install {FRAMEWORKS[scope]}'
        )
    if options:
        for option, value in options.items():
            _check_option(cfg, option, value, options)
        try:
            cfg.merge_from_dict(dict(options))
        except (AttributeError, KeyError, TypeError) as error:  # such as a=1 a.b=2
            raise ConfigError(f'--cfg-options {" ".join(options)}: {error}') from error
    return cfg


def _check_option(cfg: Config, option: str, value: Any, options: Mapping):
    runner = inspect.signature(MMEngineRunner.__init__).parameters
    extra = {'auto_scale_lr', 'tta_model', 'tta_pipeline', 'runner_type', 'compile'}
    valid = sorted({*cfg, *runner, *extra} - {'self', 'cfg'})
    place, *below = option.split('.')
    if place not in valid:
        close = difflib.get_close_matches(place, valid, n=1)
        hint = f'did you mean {close[0]}?' if close else f'it has {", ".join(valid)}'
        raise ConfigError(f'--cfg-options {option}: no such setting; {hint}')
    if place not in cfg:
        return
    node = cfg[place]
    for name in below:
        if f'{place}._delete_' in options:
            return
        if isinstance(node, list):
            if not (name.isdigit() and int(name) < len(node)):
                raise ConfigError(
                    f'--cfg-options {option}: {place} is a list, whose items are '
                    f'0 to {len(node) - 1}'
                )
            node = node[int(name)]
        elif not isinstance(node, dict):
            raise ConfigError(
                f'--cfg-options {option}: {place} is {node!r} and has no settings; to '
                f'replace it, add {place}._delete_=True'
            )
        elif name in node:
            node = node[name]
        else:
            # A new name may be meant here, but hardly one that is nearly there.
            close = difflib.get_close_matches(name, node, n=1, cutoff=0.85)
            if close:
                raise ConfigError(
                    f'--cfg-options {option}: {name} is new; did you mean {close[0]}?'
                )
            return
        place = f'{place}.{name}'
    is_number = isinstance(node, int | float) and not isinstance(node, bool)
    word = isinstance(value, str) and option.split('.')[-1] not in NUMBERS_OR_WORDS
    if is_number and word:
        raise ConfigError(
            f'--cfg-options {option}={value}: a number is needed, such as {node}'
        )


def prepare(cfg: Config, args: argparse.Namespace, splits: tuple[str, ...]):
    """Fit a config to this machine and to the command line, in place.

    Args:
        cfg: the config.
        args: arguments of :func:`add_runner_arguments` and of the tool.
        splits: those of ``train``, ``val``, ``test`` that will be read.

    Raises:
        ConfigError: where data are missing.
    """
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
    synced = [node for node in nodes(cfg.model) if node.get('type') in SYNCED_NORMS]
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


def check_data(cfg: Config, splits: tuple[str, ...], moved_to: str | None = None):
    """Check that the files and folders of the data are there.

    Args:
        cfg: the config.
        splits: those that will be read.
        moved_to: folder that the config has been pointed to, if any.

    Raises:
        ConfigError: naming what is missing and the next step.
    """
    for split in splits:
        for path in _data_paths(cfg, split):
            if '://' in path or os.path.exists(path):
                continue
            if moved_to and Path(path).is_relative_to(moved_to):
                reason = (
                    f'--data-root {moved_to} has no {Path(path).relative_to(moved_to)}'
                )
            else:
                root = cfg.get('data_root') or os.path.dirname(path)
                reason = (
                    f'{path} is missing. Put or link the dataset at {root}, or name '
                    'its place with --data-root FOLDER'
                )
            raise ConfigError(f'the data for {split} are not there: {reason}')


def _data_paths(cfg: Config, split: str) -> Iterator[str]:
    loader = cfg.get(f'{split}_dataloader') or {}
    for dataset in leaf_datasets(loader['dataset']) if 'dataset' in loader else ():
        root = dataset.get('data_root') or ''
        if ann_file := dataset.get('ann_file'):
            yield os.path.join(root, ann_file)
        for prefix in dict(dataset.get('data_prefix') or {}).values():
            if isinstance(prefix, str) and prefix:
                yield os.path.join(root, prefix)
    for evaluator in nodes(cfg.get(f'{split}_evaluator')):
        if ann_file := evaluator.get('ann_file'):
            yield ann_file


def nodes(tree: Any) -> Iterator[ConfigDict]:
    """Yield every dict of a config, outermost first."""
    if isinstance(tree, dict):
        yield tree
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return
    for branch in tree:
        yield from nodes(branch)
