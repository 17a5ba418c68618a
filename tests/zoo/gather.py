"""What came of all configs, of frameworks here and in other environments."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.pool import Pool
from pathlib import Path

from rich.progress import Progress

from mmrecnext import stacks
from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.errors import OptionError
from tests.zoo.configs import Row, Training, by_type, check, make_files, train, zoo
from tests.zoo.trial import Trial

ROOT = Path(__file__).resolve().parents[2]

OTHERS = (
    *('torch', 'numpy', 'mmengine', 'mmcv-lite', 'transformers', 'fairscale'),
    *('scikit-image', 'motmetrics', 'lap'),
)
"""Packages that results depend on, besides the frameworks."""


@dataclass
class Results:
    """What came of the configs of some frameworks, in one environment.

    Attributes:
        scopes (list): the frameworks.
        versions (str): of what is installed there.
        rows (list): one of each config.
        trainings (list): one of each type of model that could be swapped.
    """

    scopes: list[str]
    versions: str
    rows: list[Row]
    trainings: list[Training]

    def write(self, file: Path):
        """Write them as JSON."""
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> Results:
        """Read them from there."""
        content = json.loads(file.read_text())
        trainings = [Training(**each) for each in content['trainings']]
        for each in trainings:
            each.trial = Trial(**each.trial)
            each.before = Trial(**each.before) if each.before else None
        rows = [Row(**row) for row in content['rows']]
        return cls(content['scopes'], content['versions'], rows, trainings)


@dataclass(frozen=True)
class Options:
    """What to try, and how.

    Args:
        archs: RecNeXts, of which each config takes the first that fits.
        only: text in the names of the configs.
        jobs: processes.
    """

    archs: Sequence[str]
    only: str
    jobs: int


def gather(
    scopes: Sequence[str], pythons: Mapping[str, str], options: Options
) -> list[Results]:
    """Swap, build and train, here and in other environments, one after the other.

    Args:
        scopes: frameworks to try here.
        pythons: by framework, the interpreter of an environment that has it.
        options: what to try, and how.

    Raises:
        OptionError: where an environment fails.
    """
    found = [elsewhere(python, [scope], options) for scope, python in pythons.items()]
    if scopes:
        found.insert(0, here(scopes, options))
    return found


def elsewhere(python: str, scopes: Sequence[str], options: Options) -> Results:
    """Do it in another environment.

    Raises:
        OptionError: where that fails; the reason has been printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'results.json')
        command = [python, '-m', 'tests.zoo.report', '--arch', *options.archs]
        command += [f'--only={options.only}', '--jobs', str(options.jobs)]
        command += ['--frameworks', *scopes, '--results', str(file)]
        environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
        try:
            done = subprocess.run(command, env=environment, cwd=ROOT)
        except OSError as error:
            raise OptionError(f'--python {scopes[0]}={python}: {error}') from error
        if done.returncode:
            raise OptionError(f'--python {scopes[0]}={python}: it failed, see above')
        return Results.read(file)


def here(scopes: Sequence[str], options: Options) -> Results:
    """Do it in this environment, in processes."""
    names = [name for name in zoo(scopes) if options.only in name]
    with (
        tempfile.TemporaryDirectory() as folder,
        # Before the progress bar has a thread, which a fork would cut off in mid-air.
        multiprocessing.get_context('fork').Pool(options.jobs) as pool,
        Progress() as progress,
    ):
        files = make_files(Path(folder))
        tasks = [(name, options.archs, files) for name in names]
        rows = list(each(check, tasks, pool, progress, 'swap and build'))
        some = by_type(rows).items()
        tasks = [(kind, names, options.archs, files) for kind, names in some]
        trainings = list(each(train, tasks, pool, progress, 'train and predict'))
        pool.close()  # or they are terminated, and a signal may find one in a lock
        pool.join()
    return Results([*scopes], versions(scopes), rows, trainings)


def each(work, tasks: Sequence, pool: Pool, progress: Progress, title: str) -> Iterable:
    """Do the tasks in processes, in order, with a progress bar."""
    return progress.track(pool.imap(work, tasks), total=len(tasks), description=title)


def versions(scopes: Sequence[str]) -> str:
    """Return the versions that the results depend on."""
    names = [FRAMEWORKS[scope].distribution for scope in scopes]
    names += [stacks.distribution_of(stacks.here(name)) for name in OTHERS]
    return ', '.join(f'{n} {v}' for n in names if (v := stacks.version_of(n)))
