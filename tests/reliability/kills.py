"""A training that is killed at random moments, and one that is not.

``python -m tests.reliability.kills --times 20`` prints a line for each kill, and in the
end whether the losses are the same.
"""

import argparse

from mmrecnext_autoload.arguments import begin, command_line


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(
        __doc__.partition('\n')[0], 'python -m tests.reliability.kills --times 20'
    )
    parser.add_argument('--times', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

import os
import random
import re
import signal
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from mmrecnext.cli import run
from mmrecnext.engine.resume import LAST
from mmrecnext.engine.stopping import LOCK
from mmrecnext.files import UNFINISHED
from tests.helpers import check, run_tool
from tests.reliability.small import BATCHES, CONFIG, draw, losses, train

EPOCHS_EACH = 4
"""Epochs of the whole run for each kill: more than one start comes to, on average."""

KEPT = 2
"""Checkpoints that a run keeps."""

SAVING = (
    f'default_hooks.checkpoint.max_keep_ckpts={KEPT}',
    'default_hooks.checkpoint.save_best=auto',
)


@dataclass
class Moment:
    """When to kill a run.

    Attributes:
        event: after which: ``started``; ``writing``, where a checkpoint begins to be
            written; ``written``, where it has got its name.
        count: of these events.
        delay: seconds after.
    """

    event: str
    count: int
    delay: float

    def __str__(self) -> str:
        which = f' no. {self.count}' if self.count > 1 else ''
        return f'{self.delay:.3f} s after {self.event}{which}'


@dataclass
class Kill:
    """What a kill left.

    Attributes:
        moment: of the kill.
        unfinished: file by file, the bytes of what was being written.
        step: of the latest checkpoint, 0 where there is none.
        named: step of the checkpoint that ``last_checkpoint`` names, likewise.
    """

    moment: Moment
    unfinished: dict[str, int]
    step: int
    named: int


def moments(times: int, seed: int) -> list[Moment]:
    """Draw moments, as many of each kind as can be, in any order."""
    rng = random.Random(seed)
    spans = {'writing': 0.05, 'written': 0.02, 'started': 4.0}
    events = [[*spans][i % len(spans)] for i in range(times)]
    rng.shuffle(events)
    return [
        Moment(
            event,
            1 if event == 'started' else rng.randint(1, 3),
            rng.uniform(0, spans[event]),
        )
        for event in events
    ]


def wait_until(happened: Callable[[], object], run: Future):
    """Wait until something has happened, as long as a run goes on."""
    while not (found := happened()):
        if run.done():
            raise RuntimeError(f'it ended before it was killed: {run.result().stderr}')
        time.sleep(0.0002)
    return found


def kill(folder: Path, moment: Moment, run: Future):
    """Kill the run that begins in a work dir, at a moment."""
    pid = int(wait_until(lambda: pid_in(folder / LOCK), run))
    before = {*os.listdir(folder)}
    seen: set[str] = set()

    def happened() -> bool:
        new = [x for x in {*os.listdir(folder)} - before if x.endswith('.pth')]
        begun = {x for x in new if UNFINISHED.fullmatch(x)}
        seen.update(begun if moment.event == 'writing' else {*new} - begun)
        return moment.event == 'started' or len(seen) >= moment.count

    wait_until(happened, run)
    time.sleep(moment.delay)
    os.kill(pid, signal.SIGKILL)
    ended = run.result()
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def pid_in(lock: Path) -> str | None:
    """Return the process that has locked a work dir."""
    found = re.match(
        r'process (\d+) on .*\n', lock.read_text() if lock.exists() else ''
    )
    return found and found[1]


def look(folder: Path, moment: Moment) -> Kill:
    """Look at what a kill has left; each checkpoint that has a name must be whole."""
    steps = {
        file.name: torch.load(file, weights_only=False)['meta']['iter']
        for file in folder.glob('*.pth')
        if not file.name.startswith('.')
    }
    note = folder / LAST
    named = steps[Path(note.read_text()).name] if note.exists() else 0
    return Kill(
        moment,
        unfinished={
            file.name: file.stat().st_size
            for file in folder.iterdir()
            if UNFINISHED.fullmatch(file.name)
        },
        step=max(steps.values(), default=0),
        named=named,
    )


def trial(folder: Path, times: int, seed: int, tell=lambda text: None) -> list[Kill]:
    """Kill a run so many times, resume it as often, and compare with a whole one.

    Args:
        folder: to work in.
        times: to kill it.
        seed: of the moments.
        tell: is told of each kill.

    Returns:
        What each kill left.

    Raises:
        AssertionError: where a checkpoint is torn, another than the latest one was
            resumed from, or a loss differs from the undisturbed run's in any digit.
    """
    data, epochs = draw(folder / 'data'), EPOCHS_EACH * times
    check(train(data, folder / 'whole', epochs, *SAVING))
    (expected,) = losses(folder / 'whole')
    assert [*expected] == [*range(1, BATCHES * epochs + 1)]

    killed, kills = folder / 'killed', []
    with ThreadPoolExecutor() as pool:
        for moment in moments(times, seed):
            (killed / LOCK).unlink(missing_ok=True)
            run = pool.submit(train, data, killed, epochs, '--resume', *SAVING)
            kill(killed, moment, run)
            kills.append(look(killed, moment))
            tell(f'{len(kills):3d}: {describe(kills[-1])}')
    check(train(data, killed, epochs, '--resume', *SAVING))

    # A validation that was killed is not made up for: another may be the best one.
    left = {file.name for file in killed.glob('epoch_*.pth')}
    assert left == {file.name for file in (folder / 'whole').glob('epoch_*.pth')}
    assert not look(killed, moment).unfinished
    compare([*losses(killed)], expected, [0, *(kill.step for kill in kills)])
    return kills


def second_runs(folder: Path) -> list[str]:
    """Start runs in the work dir of one that trains; return what each says at last.

    Raises:
        AssertionError: where one does not fail, or a checkpoint is torn.
    """
    data, work_dir = draw(folder / 'data'), folder / 'shared'
    swap = ['tools/swap_backbone.py', CONFIG, '--arch', 'a0', '--from-scratch']
    places = ['--data-root', data, '--work-dir', work_dir]
    with ThreadPoolExecutor() as pool:
        first = pool.submit(train, data, work_dir, 1000)
        wait_until((work_dir / 'epoch_1.pth').exists, first)
        others = [train(data, work_dir, 1), run_tool(*swap, '--train', *places)]
        os.kill(int(pid_in(work_dir / LOCK)), signal.SIGKILL)
    assert [other.returncode for other in others] == [1, 1]
    assert look(work_dir, Moment('started', 1, 0)).step > 0
    return [other.stderr.splitlines()[-1] for other in others]


def compare(runs: list[dict], expected: dict, steps: list[int]):
    """Compare the losses of runs in turn with those of an undisturbed one."""
    for found in runs:
        assert found == {step: expected[step] for step in found}
        assert not found or min(found) - 1 in steps, (min(found), steps)
    assert {step for run in runs for step in run} == {*expected}


def describe(kill: Kill) -> str:
    """Say what a kill left in a line."""
    during = ', '.join(f'{k} ({v} bytes)' for k, v in kill.unfinished.items())
    return (
        f'{kill.moment}: {during or "nothing"} unfinished, latest of step {kill.step}, '
        f'{LAST} names step {kill.named}'
    )


def main(args: argparse.Namespace):
    with tempfile.TemporaryDirectory() as place:
        start = time.monotonic()
        found = trial(Path(place), args.times, args.seed, print)
        written = sum(bool(kill.unfinished) for kill in found)
        seconds = time.monotonic() - start
        print(*second_runs(Path(place)), sep='\n')
        print(
            f'{len(found)} kills in {seconds:.0f} s, {written} while a file was '
            'written: every loss is that of the undisturbed run'
        )


if __name__ == '__main__':
    run(main, args)
