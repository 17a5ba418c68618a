#!/usr/bin/env python
"""Export many networks, and tell how far the files are from them, by engine.

Published models are exported as classifiers and as backbones, configs whole; of
``CONFIG+ARCH`` the backbone is swapped for a RecNeXt before. Each is written as an ONNX
file for pictures of any size, and every engine that is installed runs it beside the
network. Without ``--weights`` all weights are random, with the statistics of batch
norms as if they were trained. The result is a report in Markdown.
"""

from __future__ import annotations

import argparse

from mmrecnext_autoload.arguments import begin, command_line, file_to_write


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(__doc__, 'python -m tests.export.report m3 --jobs 2')
    parser.add_argument(
        'names', nargs='*', help='models and configs [all models, and some configs]'
    )
    parser.add_argument(
        '--weights',
        nargs='+',
        default=[],
        metavar='CONFIG=FILE',
        help='checkpoints of configs',
    )
    parser.add_argument(
        '--jobs', type=int, default=1, metavar='N', help='processes [%(default)s]'
    )
    parser.add_argument(
        '--out',
        type=file_to_write,
        default='docs/export_report.md',
        help='file to write',
    )
    return parser.parse_args()


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import torch
from mmengine.logging import MMLogger

from mmrecnext import ARCHS, RecNeXt
from mmrecnext.benchmark.machine import machine
from mmrecnext.benchmark.markdown import table
from mmrecnext.cli import run
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.terminal import counted
from mmrecnext.errors import UserError
from mmrecnext.export import (
    Subject,
    backbone_subject,
    classifier_subject,
    export,
    network_subject,
)
from mmrecnext.export.engines import ENGINES, engines_for
from mmrecnext.export.proof import LIMIT, pictures, try_pictures
from mmrecnext.files import write_file
from mmrecnext.models.classifier import RecNeXtClassifier
from mmrecnext.swap import swap_backbone, write_config
from tests.export.helpers import random_weights
from tests.helpers import randomise

CONFIGS = (
    *(f'sem_fpn_recnext_{arch}_ade20k.py' for arch in ('m0', 'a0', 't')),
    'sem_fpn_recnext_t_share_channel_ade20k.py',
    'sem_fpn_recnext_m0_shapes.py',
    'mask_rcnn_recnext_m0_shapes.py',
    'retinanet_recnext_m0_shapes.py',
    'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py+m0',
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py+m0',
    'mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py+m0',
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
)

COLUMNS = (
    'network',
    'exported',
    'engine',
    'verdict',
    *(told for told, _ in pictures(None, torch.uint8)),
    'MiB',
    's',
)


def main(args: argparse.Namespace):
    """Export all, and write the report."""
    weights = dict(pair.split('=', 1) for pair in args.weights)
    cases = [
        (name, kind, weights.get(name))
        for name in args.names or [*ARCHS, *CONFIGS]
        for kind in (['classifier', 'backbone'] if name in ARCHS else ['whole'])
    ]
    threads = max(1, torch.get_num_threads() // args.jobs)
    rows: list[tuple[str, ...]] = []
    with get_context('spawn').Pool(args.jobs, prepare, (threads,)) as pool:
        with counted('exporting', len(cases), 'networks') as advance:
            for found in pool.imap(examine_one, cases):
                rows += found
                advance()
        pool.close()
        pool.join()
    write_file(args.out, report(rows).encode())
    print(f'report in {args.out}')


def prepare(threads: int):
    """Ready a process that exports."""
    torch.set_num_threads(threads)
    warnings.simplefilter('ignore')
    MMLogger.get_current_instance().setLevel('ERROR')


def examine_one(case: tuple[str, str, str | None]) -> list[tuple[str, ...]]:
    """Export a network, and return its rows."""
    with tempfile.TemporaryDirectory() as folder:
        return [*examine(*case, Path(folder))]


def subject_of(name: str, kind: str, weights: str | None, folder: Path) -> Subject:
    """Build what is exported."""
    torch.manual_seed(0)
    if kind == 'classifier':
        return classifier_subject(randomise(RecNeXtClassifier(name)))
    if kind == 'backbone':
        return backbone_subject(randomise(RecNeXt(name)))
    config, _, arch = name.partition('+')
    if arch:
        swapped = swap_backbone(config, arch, pretrained=False)
        config = str(folder / 'swapped.py')
        write_config(swapped, config)
    cfg = load_config(config)
    if cfg.default_scope == 'mmdet':  # some leave it to the pipeline to pad
        cfg.model.data_preprocessor.pad_size_divisor = 32
    return network_subject(cfg, weights or random_weights(cfg, folder / 'weights.pth'))


def examine(
    name: str, kind: str, weights: str | None, folder: Path
) -> Iterator[tuple[str, ...]]:
    """Export a network; yield a row for each engine."""
    file = folder / 'network.onnx'
    trained = ', trained' if weights else ''
    config, _, arch = name.partition('+')
    swapped = f' on {arch}' if arch else ''
    what = (Path(config).stem + swapped, kind + trained)
    start = time.perf_counter()
    try:
        subject = subject_of(name, kind, weights, folder)
        export(subject, file, verify=False)
    except UserError as error:
        yield *what, '', str(error), '', '', '', ''
        return
    seconds = f'{time.perf_counter() - start:.0f}'
    size = f'{file.stat().st_size / 2**20:.1f}'
    for engine in engines_for(str(file)):
        trials = try_pictures(
            ENGINES[engine].read(file),
            subject.reference,
            subject.compare,
            None,
            torch.uint8,
        )
        cells = []
        verdict = 'equal'
        for trial in trials:
            worst = max(trial.differences, key=lambda x: x.value)
            cells.append(str(worst))
            verdict = verdict if trial.fits else 'DIFFERENT'
        yield *what, engine, verdict, *cells, size, seconds


def report(rows: Sequence[tuple[str, ...]]) -> str:
    """Write the page."""
    about = machine('cpu')
    versions = ', '.join(
        f'{row.name} {version(row.name)}'
        for row in ENGINES.values()
        if row.is_installed
    )
    command = shlex.join(['python', '-m', 'tests.export.report', *sys.argv[1:]])
    equal = sum(row[3] == 'equal' for row in rows)
    return f"""# Exported files beside their networks

`{command}`, {about['date']}, on {about['hardware']}:
torch {about['torch']}, {versions}.

{equal} of {len(rows)} rows are equal to PyTorch: no output differs by more than
{LIMIT:.0e} of its root mean square, and labels agree but where the network itself
prefers one to the other by less. Each row names the output that differs most, of each
batch of pictures, and by how much. Weights are random where it does not say trained.

{table(COLUMNS, rows)}
"""


if __name__ == '__main__':
    run(main, args)
