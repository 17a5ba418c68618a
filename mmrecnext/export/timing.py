"""How long files take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from torch import Tensor

from mmrecnext.export.proof import Run

ROUNDS = 10
"""How often each is timed, in turn: what else the machine does falls on all."""


def time_in_turn(runs: Sequence[Run], batches: Sequence[Tensor]) -> list[float]:
    """Return the median time of each run, in milliseconds.

    Args:
        runs: run files of the same network.
        batches: ``[N, 3, H, W]``, what to run them with, one in each round.
    """
    times: list[list[float]] = [[] for _ in runs]
    for i in range(ROUNDS + 1):
        for run, seen in zip(runs, times, strict=True):
            start = time.perf_counter()
            run(batches[i % len(batches)])
            seen.append(1e3 * (time.perf_counter() - start))
    return [median(seen[1:]) for seen in times]  # the first makes memory ready
