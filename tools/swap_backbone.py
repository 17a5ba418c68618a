#!/usr/bin/env python
"""Put a RecNeXt or MLLA in the place of the backbone of an OpenMMLab config."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from mmrecnext_autoload.arguments import (
    add_runner_arguments,
    begin,
    command_line,
    file_to_write,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(
        __doc__,
        'python tools/swap_backbone.py --arch m3 --out my_retinanet.py '
        'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    )
    parser.add_argument(
        'config',
        help='config of an OpenMMLab framework: a file, or a name such as mmdet::FILE',
    )
    parser.add_argument(
        '--arch',
        default='m3',
        help='the RecNeXt, such as a3, or the MLLA, such as nano_recattn; '
        '`python -m mmrecnext` lists all [m3]',
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        '--pretrained',
        default=True,
        metavar='WEIGHTS',
        help='path, URL or name of weights to start from [the published ones]',
    )
    weights.add_argument(
        '--from-scratch',
        dest='pretrained',
        action='store_false',
        help='start from random weights',
    )
    parser.add_argument(
        '--strides',
        nargs='+',
        type=int,
        metavar='N',
        help='strides of the maps of the old backbone, if it cannot be built here',
    )
    parser.add_argument(
        '--fpn',
        action='store_true',
        help='of a pose estimator whose head takes one map of stride 4, as of an '
        'HRNet: put a feature pyramid in between',
    )
    parser.add_argument(
        '--out',
        type=file_to_write,
        metavar='FILE',
        help='where to write the new config [nowhere: what changes is printed]',
    )
    parser.add_argument(
        '--train', action='store_true', help='train with it at once, as train.py would'
    )
    parser.add_argument(
        '--compare',
        action='store_true',
        help='measure both: parameters, operations, time by part, memory; '
        'tools/benchmark.py --against tells more options',
    )
    add_runner_arguments(parser)
    return parser.parse_args()


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

from mmengine.config import Config
from rich.console import Console

from mmrecnext.archs import timm_name
from mmrecnext.cli import prepare_run, resumable, run
from mmrecnext.engine.build import build_runner
from mmrecnext.engine.terminal import progress_bar
from mmrecnext.swap import (
    ABSENT,
    changes,
    plain,
    read_config,
    swap_backbone,
    write_config,
)


def main(args: argparse.Namespace):
    """Swap, show, and write or train as asked."""
    old = read_config(args.config)
    new = swap_backbone(old, args.arch, args.pretrained, args.strides, args.fpn)
    show(old, new)
    name = f'{Path(args.config.rpartition("::")[2]).stem}_{timm_name(args.arch)}.py'
    if args.out:
        reason = write_config(new, args.out, args.config)
        print(f'Written to {args.out}' + (f', entirely: {reason}' if reason else ''))
        name = args.out
    if args.compare:
        compare(args.config, new)
    if args.train:
        args.config = name
        prepare_run(new, args, splits=('train', 'val'))
        with resumable(new.work_dir, resuming(args, new)):
            build_runner(new).train()
        print(f'checkpoints and logs in {new.work_dir}')


def resuming(args: argparse.Namespace, cfg: Config) -> str:
    """Return the command that goes on with a training, by train.py."""
    train = Path(sys.argv[0]).with_name('train.py')
    # The runner writes the config into its work dir, by the name of the old one.
    config = args.out or Path(cfg.work_dir, Path(cfg.filename).name)
    data = ['--data-root', args.data_root] if args.data_root else []
    words = [sys.orig_argv[0], train, config, '--work-dir', cfg.work_dir, *data]
    return shlex.join([*map(str, words), '--resume'])


def compare(old: str, new: Config):
    """Measure two networks side by side, and print what changed."""
    from mmrecnext.benchmark.against import beside  # here: it takes a while
    from mmrecnext.benchmark.report import as_rich

    with tempfile.TemporaryDirectory() as folder, progress_bar() as progress:
        file = str(Path(folder, 'swapped.py'))
        write_config(new, file)
        table, _ = beside(old, file, progress=progress)
    Console(highlight=False).print(as_rich(*table))


def show(old, new):
    """Print what changed, old and new; no name is broken, so that it can be copied."""
    wrapper = textwrap.TextWrapper(
        width=shutil.get_terminal_size().columns,
        subsequent_indent=' ' * 6,
        break_long_words=False,
        break_on_hyphens=False,
    )
    print('what changed')
    for field, before, after in changes(plain(old), plain(new)):
        print(f'  {field}')
        for sign, value in (('-', before), ('+', after)):
            if value is not ABSENT:
                print(wrapper.fill(f'    {sign} {brief(value)}'))


def brief(value: Any) -> str:
    """Return a setting as text: a dict that has a type as a call."""
    if value is ABSENT:
        return ''
    if isinstance(value, dict):
        options = ', '.join(f'{k}={brief(v)}' for k, v in value.items() if k != 'type')
        return f'{value.get("type", "dict")}({options})'
    if isinstance(value, list | tuple) and any(isinstance(v, dict) for v in value):
        return f'[{", ".join(map(brief, value))}]'
    return repr(value)


if __name__ == '__main__':
    run(main, args)
