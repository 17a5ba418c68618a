"""Tell with which Pythons mmrecnext works.

``python -m tests.pythons [INTERPRETER ...]``: for each of these, else for each from
3.10 on that is on PATH or that pyenv has, one after the other, an environment is built
from the pinned requirements, the demo trains for ten steps and is evaluated, and the
quick tests run. The figures are printed as a table; what was printed on the way is in
``work_dirs/pythons``. ``STACK=onedl`` in the environment takes the fork of OpenMMLab's
packages. An environment, 6 GB, is removed when it is done with; each takes a quarter of
an hour on two cores.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOGS = ROOT / 'work_dirs/pythons'
VERSIONS = ('3.10', '3.11', '3.12', '3.13')
HEADER = (
    'Python',
    'PyTorch',
    'NumPy',
    'MMEngine',
    'loss after ten steps',
    'quick tests',
)
TELL = """
import platform
from importlib.metadata import version
from mmrecnext.stacks import distribution_of, here
names = ('torch', 'numpy', distribution_of(here('mmengine')))
print(platform.python_version(), *map(version, names))
"""
STEPS = 10
BATCH = 4  # of configs/mask_rcnn_recnext_m0_shapes.py
DATA = [
    '--size',
    '160',
    '--val',
    '4',
    '--objects',
    '2-5',
    '--train',
    str(STEPS * BATCH),
]
OPTIONS = [
    'train_cfg.max_epochs=1',
    'train_cfg.val_interval=1',
    f'default_hooks.logger.interval={STEPS}',
    'default_hooks.checkpoint.interval=1',
]


def find_pythons() -> Iterator[str]:
    """Yield the interpreters of ``VERSIONS`` that are here."""
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv'), 'versions')
    for version in VERSIONS:
        of_pyenv = [str(path) for path in pyenv.glob(f'{version}.*/bin/python')]
        for python in filter(None, [shutil.which(f'python{version}'), *of_pyenv]):
            # pyenv has a command for each, which says no for those that are not chosen.
            if not subprocess.run([python, '-c', ''], capture_output=True).returncode:
                yield python
                break


def run(log: Path, *command: str | Path) -> bool:
    """Run a command, and tell whether it succeeds."""
    with log.open('a') as file:
        done = subprocess.run(command, cwd=ROOT, stdout=file, stderr=file)
    return done.returncode == 0


def row(python: str) -> tuple[list[str], bool]:
    """Return the figures of an interpreter, and whether all went well."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        log = Path(tempfile.mkdtemp(prefix='run-', dir=LOGS))
        variables = [f'PYTHON={python}', f'VENV={place / "env"}']
        if not run(log / 'env', 'make', 'env', *variables):
            told = re.findall(r'^ERROR: (.*)', (log / 'env').read_text(), re.M)
            return [
                python,
                '',
                '',
                '',
                '',
                f'no environment: {"; ".join(told[:1])}',
            ], False
        inside = place / 'env/bin/python'
        command = [inside, '-c', TELL]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        )
        demo = run(
            log / 'demo', inside, 'tools/make_shapes_data.py', place / 'data', *DATA
        ) and run(
            *(log / 'demo', inside, 'tools/train.py'),
            *(
                'configs/mask_rcnn_recnext_m0_shapes.py',
                '--data-root',
                f'{place}/data/',
            ),
            *('--work-dir', place / 'run', '--cfg-options', *OPTIONS),
        )
        tests = run(log / 'tests', 'make', 'test-fast', *variables)
        figures = [last_loss(place / 'run'), summary((log / 'tests').read_text())]
        return [*done.stdout.split(), *figures], demo and tests


def last_loss(run_folder: Path) -> str:
    """Return the last loss that a run has logged, if any."""
    steps = [
        json.loads(line)
        for file in run_folder.glob('*/vis_data/scalars.json')
        for line in file.read_text().splitlines()
    ]
    losses = [f'{step["loss"]:.3f}' for step in steps if 'loss' in step]
    return losses[-1] if losses else 'none'


def summary(output: str) -> str:
    """Return the last line of pytest, which counts."""
    lines = re.findall(r'^=* ?(\d+ \w+.* in [\d.]+s.*?) ?=*$', output, re.M)
    return lines[-1] if lines else 'none'


def main() -> int:
    """Print a row of figures for each interpreter."""
    parser = argparse.ArgumentParser(
        'python -m tests.pythons', description=__doc__.partition('\n')[0]
    )
    parser.add_argument('interpreters', nargs='*', help='[those that are found]')
    pythons = parser.parse_args().interpreters or [*find_pythons()]
    if not pythons:
        print(
            f'no Python of {", ".join(VERSIONS)} is found; name some', file=sys.stderr
        )
        return 2
    LOGS.mkdir(parents=True, exist_ok=True)
    results = []
    for cells in (HEADER, ['---'] * len(HEADER)):
        print('|', ' | '.join(cells), '|')
    for python in pythons:
        cells, went_well = row(python)
        print('|', ' | '.join(cells), '|', flush=True)
        results.append(went_well)
    return 0 if all(results) else 1


if __name__ == '__main__':
    sys.exit(main())
