"""What tools say, and leave, where nothing can be written.

``python -m tests.reliability.disk`` has every tool that writes meet a full disk (as
root), files that may not grow, and a folder to read only; names of tools, and of ways
after ``--ways``, are those to try alone.
"""

import argparse

from mmrecnext_autoload.arguments import begin, command_line


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(
        __doc__.partition('\n')[0], 'python -m tests.reliability.disk --ways full'
    )
    parser.add_argument('tools', nargs='*', help='[all]')
    parser.add_argument('--ways', nargs='+', metavar='NAME', help='[all]')
    return parser.parse_args()


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from mmrecnext.cli import run
from mmrecnext.engine.resume import LAST
from mmrecnext.engine.stopping import LOCK
from mmrecnext.errors import OptionError
from mmrecnext.files import UNFINISHED
from mmrecnext.models.classifier import RecNeXtClassifier
from tests.helpers import ROOT, RUNNERS, SERVER, check, run_tool
from tests.reliability.small import CONFIG, SETTINGS, draw, train, training

FILLER = '.filler'
CUT_SHORT = 'not all of the video can be written'
"""What is said of a video, whose writer gives no reason."""

SO_FAR = 'pictures/predictions.json'
"""What tells, where there is room for it, of the pictures that are done."""

ENOUGH = 'there was room enough'
OLD = b'of an earlier run'
"""What stands in the files that a tool would write."""

SEGMENTOR = 'sem_fpn_recnext_m0_shapes.py'
SEGMENTOR_SETTINGS = (
    'train_dataloader.batch_size=2',
    'train_cfg.max_iters=1',
    'default_hooks.checkpoint.interval=1',
)


@dataclass
class Given:
    """What the tools read.

    Attributes:
        data: a folder of pictures.
        run: work dir of a detector that was trained for an epoch.
        detector: its checkpoint.
        segmentor: a checkpoint.
        weights: of a classifier, or of a backbone.
        clip: a video.
    """

    data: Path
    run: Path
    detector: Path
    segmentor: Path
    weights: Path
    clip: Path


def prepare(folder: Path, segmentor: bool = True) -> Given:
    """Make what the tools read, perhaps without a segmentor."""
    data, run = draw(folder / 'data'), folder / 'run'
    check(train(data, run, 1))
    segmentors = folder / 'segmentor'
    if segmentor:
        options = ['--data-root', data, '--work-dir', segmentors]
        options += ['--cfg-options', *SEGMENTOR_SETTINGS]
        check(run_tool('tools/train.py', SEGMENTOR, *options))
    weights, clip = folder / 'm0.pth', folder / 'clip.mp4'
    torch.save({'model': RecNeXtClassifier('m0').state_dict()}, weights)
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*'mp4v'), 5, (160, 120))
    for _ in range(5):
        noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
        writer.write(noise)
    writer.release()
    return Given(
        data, run, run / 'epoch_1.pth', segmentors / 'iter_1.pth', weights, clip
    )


def commands(given: Given, out: Path) -> dict[str, list]:
    """Return the tools that write, each with a place below a folder to write to."""
    evaluating = ['--data-root', given.data, '--work-dir', given.data.parent / 'test']
    small = ['--cfg-options', *SETTINGS]
    test = ['tools/test.py', CONFIG, given.detector, *evaluating]
    infer = ['tools/infer.py', CONFIG, given.detector]
    into = ['--out-dir', out / 'pictures', *small]
    convert = ['tools/convert_checkpoint.py', given.weights]
    export = ['tools/export.py', 'recnext_m0', given.weights, '--size', 64]
    maps = ['tools/visualize.py', 'maps', CONFIG, given.detector]
    picture = given.data / 'val2017/000000000001.jpg'
    segmentor = [SEGMENTOR, given.segmentor]
    return {
        'train': training(given.data, out / 'run', 2, '--resume'),
        'train anew': training(given.data, out / 'anew', 1),
        'test --work-dir': [
            *('tools/test.py', CONFIG, given.detector, '--data-root', given.data),
            *('--work-dir', out / 'test', *small),
        ],
        'test --out pkl': [*test, '--out', out / 'found.pkl', *small],
        'test --out json': [*test, '--out', out / 'found.json', *small],
        'test --out maps': [
            *('tools/test.py', *segmentor, *evaluating, '--out', out / 'maps')
        ],
        'test --show-dir': [*test, '--show-dir', out / 'show', *small],
        'test --report': [*test, '--report', out / 'report', *small],
        'infer pictures': [*infer, given.data / 'val2017', *into],
        'infer video': [*infer, given.clip, *into],
        'infer --label-maps': [
            *('tools/infer.py', *segmentor, given.data / 'val2017', '--label-maps'),
            *('--out-dir', out / 'pictures'),
        ],
        'convert pth': [*convert, out / 'converted.pth'],
        'convert safetensors': [*convert, out / 'converted.safetensors'],
        'convert fused': [*convert, out / 'converted_fused.pt'],
        'publish': ['tools/publish.py', 'recnext_m0', given.weights, out / 'released'],
        'export onnx': [*export, '--out', out / 'exported.onnx'],
        'export torchscript': [
            *(*export, '--out', out / 'exported.ts', '--format', 'torchscript')
        ],
        'export pt2': [*export, '--out', out / 'exported.pt2', '--format', 'pt2'],
        'swap_backbone': [
            *('tools/swap_backbone.py', CONFIG, '--arch', 'a0', '--from-scratch'),
            *('--out', out / 'swapped.py'),
        ],
        'visualize maps': [*maps, picture, '--out', out / 'maps.png', *small],
        'visualize fields': [
            *('tools/visualize.py', 'fields', 'm0', '--size', 64),
            *('--out', out / 'fields.svg'),
        ],
        'visualize curves': [
            *('tools/visualize.py', 'curves', given.run, '--out', out / 'curves.png')
        ],
        'make_shapes_data': [
            *('tools/make_shapes_data.py', out / 'shapes', '--train', 2, '--val', 1)
        ],
        'make_stick_figures_data': [
            *('tools/make_stick_figures_data.py', out / 'stick'),
            *('--train', 2, '--val', 1),
        ],
        'benchmark': [
            *('tools/benchmark.py', 'm0', '--shape', 64, '--repeats', 1),
            *('--form', 'deploy', '--out', out / 'benchmark.json'),
        ],
    }


FILES = (
    'found.pkl',
    'found.bbox.json',
    'converted.pth',
    'converted.safetensors',
    'converted_fused.pt',
    'exported.onnx',
    'exported.ts',
    'exported.pt2',
    'swapped.py',
    'maps.png',
    'fields.svg',
    'curves.png',
    'benchmark.json',
    'pictures/predictions.json',
    'pictures/000000000001.png',
    'pictures/clip.mp4',
    'report/index.html',
)
"""Where tools write files of their own, which earlier ones are in the place of."""


def lay_out(given: Given, out: Path):
    """Put into a folder what an earlier run has left there."""
    shutil.copytree(given.run, out / 'run')
    for name in FILES:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(OLD)


@contextmanager
def full(out: Path, left: int = 0) -> Iterator[str]:
    """Make a folder a disk of its own that has so many bytes left."""
    kept = out.with_name('kept')
    out.rename(kept)
    out.mkdir()
    options = ['-t', 'tmpfs', '-o', 'size=256m']
    subprocess.run(['mount', *options, 'tmpfs', out], check=True)
    try:
        shutil.copytree(kept, out, dirs_exist_ok=True)
        disk = os.statvfs(out)
        with open(out / FILLER, 'wb') as file:
            size = disk.f_bavail * disk.f_frsize - left
            os.posix_fallocate(file.fileno(), 0, size)
        yield ''
    finally:
        after = out.with_name('after')
        skipped = shutil.ignore_patterns(FILLER)
        shutil.copytree(out, after, symlinks=True, ignore=skipped)
        subprocess.run(['umount', '-l', out], check=True)
        out.rmdir()
        after.rename(out)
        shutil.rmtree(kept)


def filling(out: Path):
    """Make a folder a disk of its own that has room for the beginning."""
    return full(out, 2**14)


@contextmanager
def ended(out: Path) -> Iterator[str]:
    """Let no file grow beyond what configs and most logs take."""
    yield str(2**14)


@contextmanager
def read_only(out: Path) -> Iterator[str]:
    """Take the right to write from a folder, and from those in it."""
    folders = [out, *(path for path in out.rglob('*') if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        yield ''
    finally:
        for folder in folders:
            folder.chmod(0o755)


WAYS = {
    full: 'No space left on device',
    filling: 'No space left on device',
    ended: 'File too large',
    read_only: 'Permission denied',
}
"""How to keep tools from writing, and what the system then says."""


def run_confined(command: list, limit: str) -> subprocess.CompletedProcess:
    """Run a tool, confined."""
    name, *args = map(str, command)
    confined = [ROOT / 'tests/reliability/confined.py', limit, ROOT / name, *args]
    server = RUNNERS.get(name, SERVER)
    return server.run(confined, ROOT, OMP_NUM_THREADS='1')


def contents(folder: Path) -> dict[str, bytes]:
    """Read all files of a folder, but what each run says of itself."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file() and path.name not in (LOCK, CONFIG)
    }


def faults(command: list, out: Path, way) -> list[str]:
    """Have a tool fail to write; return what is wrong with how it does."""
    before = contents(out)
    with way(out) as limit:
        result = run_confined(command, limit)
    after = contents(out)
    tool = Path(command[0]).name
    if way in (filling, ended) and not result.returncode:
        return [ENOUGH]
    found = []
    if result.returncode != 1:
        found.append(f'exit status {result.returncode}')
    lines = result.stderr.splitlines()
    told = [line for line in lines if line.startswith(f'{tool}: error: ')]
    if 'Traceback' in result.stderr:
        found.append(f'a traceback, {lines[-1]}')
    elif len(told) != 1 or told != lines[-1:]:
        found.append(f'{len(told)} lines of an error, and last {lines[-1:]}')
    elif not re.search(f'{WAYS[way]}|{CUT_SHORT}', told[0]) or str(out) not in told[0]:
        found.append(f'it says {told[0]}')
    elif '.tmp' in told[0]:
        found.append(f'it names an internal file: {told[0]}')
    lost = [name for name in before if after.get(name) != before[name]]
    if way in (filling, ended):
        lost = [x for x in lost if x != SO_FAR]
    if way is filling:  # some of the pictures may be new
        lost = [x for x in lost if x.startswith('run/')]
    if lost:
        found.append(f'changed: {lost}')
    new = {name: after[name] for name in after if name not in before}
    torn = [x for x, v in new.items() if not v and not re.search('vis_data|log$', x)]
    if torn:
        found.append(f'left empty: {torn}')
    left = [x for x in new if UNFINISHED.fullmatch(Path(x).name)]
    if left:
        found.append(f'left unfinished: {left}')
    return found


def trial(folder: Path, given: Given, name: str, way) -> list[str]:
    """Have a tool of :func:`commands` fail in a new folder; see :func:`faults`."""
    out = folder / 'out'
    lay_out(given, out)
    try:
        found = faults(commands(given, out)[name], out, way)
        whole = torch.load(out / 'run/epoch_1.pth', weights_only=False)
        named = Path((out / 'run' / LAST).read_text()).name
        if whole['meta']['epoch'] != 1 or named != 'epoch_1.pth':
            found.append(f'{LAST} names {named}')
    finally:
        shutil.rmtree(out)
    return found


def main(args: argparse.Namespace):
    by_name = {way.__name__: way for way in WAYS}
    if unknown := {*(args.ways or ())} - by_name.keys():
        raise OptionError(f'--ways {", ".join(unknown)}: of {", ".join(by_name)}')
    with tempfile.TemporaryDirectory() as place:
        given = prepare(Path(place))
        count = 0
        for name in args.tools or commands(given, Path()):
            for way in args.ways or by_name:
                found = trial(Path(place), given, name, by_name[way])
                count += found not in ([], [ENOUGH])
                print(f'{name:24s}{way:10s}', *found or ['one line'], flush=True)
    sys.exit(f'{count} faults' if count else 0)


if __name__ == '__main__':
    run(main, args)
