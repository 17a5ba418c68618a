"""How long it takes until there is a model: imports, then building."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence

from mmrecnext.benchmark.measure import CLOCKS

STEPS = (
    'import torch, mmengine',
    'import mmrecnext',
    'mmrecnext.RecNeXt  # brings mmengine.model and mmengine.runner',
    'mmrecnext.RecNeXt({arch!r})',
)
CLOCK = """
import json, time
seconds = []
for code in {steps!r}:
    start = time.{clock}()
    exec(code)
    seconds.append(time.{clock}() - start)
print(json.dumps(seconds))
"""


def measure_startup(
    archs: Sequence[str],
    repeats: int = 5,
    clock: str = 'wall',
    progress: Callable[[str, float], None] = lambda text, done: None,
) -> dict[str, list[list[float]]]:
    """Time ``STEPS``, each time in a fresh process.

    Args:
        archs: models to build.
        repeats: processes per model; the models take turns.
        clock: a name in ``CLOCKS``.
        progress: is told what comes next, and what share is done.

    Returns:
        Per model, per process, the seconds of each step.
    """
    found: dict[str, list[list[float]]] = {arch: [] for arch in archs}
    for repeat in range(repeats):
        for i, arch in enumerate(archs):
            done = (repeat + i / len(archs)) / repeats
            progress(f'repeat {repeat + 1} of {repeats}', done)
            steps = [step.format(arch=arch) for step in STEPS]
            code = CLOCK.format(steps=steps, clock=CLOCKS[clock].__name__)
            run = subprocess.run(
                [sys.executable, '-c', code],
                capture_output=True,
                text=True,
                check=True,
            )
            found[arch].append(json.loads(run.stdout.splitlines()[-1]))
    return found


def startup_rows(
    found: dict[str, list[list[float]]],
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return columns and rows, one per step: the least time and the median."""
    processes = [seconds for runs in found.values() for seconds in runs]
    timed = [
        (step.split('  #')[0], [seconds[k] for seconds in processes])
        for k, step in enumerate(STEPS[:-1])
    ]
    timed += [
        (STEPS[-1].format(arch=arch), [seconds[-1] for seconds in runs])
        for arch, runs in found.items()
    ]
    rows: list[tuple[str, ...]] = [
        (name, f'{min(times):.3f}', f'{sorted(times)[len(times) // 2]:.3f}')
        for name, times in timed
    ]
    return ['step', 'least s', 'median s'], rows
