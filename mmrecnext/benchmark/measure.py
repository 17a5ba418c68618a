"""Measuring: time, memory, what is saved for the backward pass, and operations."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median, quantiles

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mmrecnext.archs import ARCHS
from mmrecnext.benchmark.cases import Case, kind_of, short_name
from mmrecnext.benchmark.detector import PartClock
from mmrecnext.benchmark.original import Original
from mmrecnext.benchmark.workloads import Workload, build, build_backbone, matmul
from mmrecnext.engine.flops import count_flops as count_operations

CLOCKS = {'wall': time.perf_counter, 'process': time.process_time}
"""The second counts what this process computes, whatever else the machine does."""

SAMPLE_SECONDS = 0.05
"""Least time of a measurement; what takes less is run several times in it."""


@dataclass
class Result:
    """What was measured of a case.

    Args:
        case: what was run.
        seconds: of one run, one per repeat.
        first_seconds: of the very first run, which compiles.
        peak_bytes: most memory that a run held beside what was held before; None for a
            file, whose engine does not tell.
        saved_bytes: memory saved for the backward pass; None for inference.
        flops: operations of convolutions and matrix products; None where not counted.
        parts: seconds by part of a detector, the medians; empty for a backbone.
    """

    case: Case
    seconds: list[float] = field(default_factory=list)
    first_seconds: float = 0.0
    peak_bytes: int | None = None
    saved_bytes: int | None = None
    flops: int | None = None
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median seconds of a run."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Interquartile range of the seconds; 0 of a single repeat."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = quantiles(self.seconds, n=4, method='inclusive')
        return high - low

    @property
    def images_per_second(self) -> float:
        """Throughput."""
        return self.case.batch / self.median


@dataclass
class Report:
    """All results of one process.

    Args:
        results: one per case.
        matmul_rates: operations per second of a large matrix product, by type.
    """

    results: list[Result]
    matmul_rates: dict[str, float]

    def share(self, result: Result) -> float | None:
        """Return the rate of a result over that of the matrix product."""
        if result.flops is None:
            return None
        return result.flops / result.median / self.matmul_rates[result.case.dtype]


def synchronizer(device: str) -> Callable[[], None]:
    """Return what waits until the device has finished."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.synchronize
    return lambda: None


def measure(
    cases: Sequence[Case],
    device: str = 'cpu',
    repeats: int = 7,
    checkpoint: str | None = None,
    clock: str = 'wall',
    progress: Callable[[str, float], None] = lambda text, done: None,
) -> Report:
    """Measure cases side by side.

    All are built first. Then each repeat runs every one of them once, in an order
    drawn anew, so that what disturbs the machine for a while disturbs them alike.

    Args:
        cases: what to measure.
        device: where.
        repeats: how often.
        checkpoint: see :func:`~mmrecnext.benchmark.workloads.build`.
        clock: a name in ``CLOCKS``.
        progress: is told what comes next, and what share is done.
    """
    seconds_of = partial(time_calls, CLOCKS[clock])
    results = [Result(case) for case in cases]
    workloads, loops = [], []
    for i, result in enumerate(results):
        progress(f'prepare {result.case.model}', 0.4 * i / len(cases))
        workload = build(result.case, device, checkpoint)
        result.first_seconds = seconds_of(workload, 1)
        workloads.append(workload)
        # A run of a second is long enough, compiled or not.
        slow = result.first_seconds > 1 and result.case.mode == 'eager'
        loops.append(1 if slow else loops_for(seconds_of(workload, 1)))

    yardsticks = {case.dtype: matmul(case.dtype, device) for case in cases}
    seconds = time_in_turns(
        [*workloads, *(workload for workload, _ in yardsticks.values())],
        repeats,
        clock,
        lambda text, done: progress(text, 0.4 + 0.5 * done),
        [*loops, *(1 for _ in yardsticks)],
    )
    for i, (result, workload) in enumerate(zip(results, workloads, strict=True)):
        result.seconds = seconds[i]
        progress('memory', 0.9 + 0.1 * i / len(cases))
        examine(result, workload, repeats)
    rates = {
        dtype: flops / median(own)
        for (dtype, (_, flops)), own in zip(
            yardsticks.items(), seconds[len(workloads) :], strict=True
        )
    }
    return Report(results, rates)


def time_in_turns(
    workloads: Sequence[Workload],
    repeats: int,
    clock: str,
    progress: Callable[[str, float], None],
    loops: Sequence[int] = (),
) -> list[list[float]]:
    """Time workloads: each repeat runs every one once, in an order drawn anew.

    Args:
        workloads: what to time.
        repeats: how often.
        clock: a name in ``CLOCKS``.
        progress: is told what comes next, and what share is done.
        loops: calls of each workload in a repeat; by default as many as take long
            enough to be timed, of which a call tells that follows a first one.

    Returns:
        Of each workload the seconds of a call, one per repeat.
    """
    seconds_of = partial(time_calls, CLOCKS[clock])
    if not loops:
        for workload in workloads:
            seconds_of(workload, 1)
        loops = [loops_for(seconds_of(workload, 1)) for workload in workloads]
    found: list[list[float]] = [[] for _ in workloads]
    order = list(range(len(workloads)))
    shuffle = random.Random(0).shuffle
    for repeat in range(repeats):
        shuffle(order)
        for k, i in enumerate(order):
            done = (repeat + k / len(order)) / repeats
            progress(f'repeat {repeat + 1} of {repeats}', done)
            found[i].append(seconds_of(workloads[i], loops[i]))
    return found


def time_calls(clock: Callable[[], float], workload: Workload, loops: int) -> float:
    """Return the seconds of one call, averaged over ``loops`` of them."""
    synchronize = synchronizer(workload.device)
    synchronize()
    start = clock()
    for _ in range(loops):
        workload.call()
    synchronize()
    return (clock() - start) / loops


def loops_for(seconds: float) -> int:
    """Return how many calls of so many seconds take long enough to be timed."""
    return max(1, math.ceil(SAMPLE_SECONDS / max(seconds, 1e-9)))


def examine(result: Result, workload: Workload, repeats: int):
    """Add what is not measured by the clock alone to a result."""
    case = result.case
    if kind_of(case.model) == 'file':
        return
    result.peak_bytes = peak_bytes(workload)
    if case.work == 'step':
        result.saved_bytes = saved_bytes(workload)
    if kind_of(case.model) == 'config':
        if case.work == 'forward':
            clock = PartClock(workload.model, synchronizer(workload.device))
            runs = [clock.run(workload.call) for _ in range(repeats)]
            result.parts = {part: median(r[part] for r in runs) for part in runs[0]}
    else:
        result.flops = count_flops(case)


def peak_bytes(workload: Workload) -> int:
    """Return how much memory a call holds at most, beside what was held before.

    On CUDA as the allocator tells; on a CPU by the allocations that PyTorch's profiler
    sees, which leave out what other libraries allocate for themselves.
    """
    if torch.device(workload.device).type == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        workload.call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        workload.call()
    events = seen.profiler.kineto_results.events()
    changes = [event for event in events if event.name() == '[memory]']
    held = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        peak = max(peak, held)
    return peak


def saved_bytes(workload: Workload) -> int:
    """Return how much memory a forward pass saves for the backward pass.

    Each storage counts once; parameters and buffers, which exist anyway, do not.
    """
    model = workload.model
    own = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = workload.forward()
    size = sum(saved.values())
    assert workload.backward is not None  # else nothing need be saved
    workload.backward(result)
    return size


def count_flops(case: Case) -> int:
    """Count the operations of convolutions and matrix products, computing nothing.

    Those of a RecNeXt are counted in its original computation, attention in the
    cheaper order, so that they are the same in whatever way it is run. A backward pass
    counts twice the forward pass.
    """
    with torch.device('meta'):
        if kind_of(case.model) == 'recnext':
            arch = ARCHS[short_name(case.model)]
            model: nn.Module = Original(arch, fused=True, late_stages=())
        else:
            model = build_backbone(case)
        images = torch.empty(case.batch, 3, *case.shape)
    flops = count_operations(lambda: model.eval()(images), interpolation=False)
    return flops * (3 if case.work == 'step' else 1)


def speedups(results: Sequence[Result]) -> dict[Case, float]:
    """Return how many times faster each case is than its model's original in fp32.

    That is the eager one, of the same images and work; what it was not measured for is
    left out.
    """

    def task(case: Case) -> tuple:
        return case.model, case.work, case.shape, case.batch

    base = {
        task(r.case): r.median
        for r in results
        if (r.case.form, r.case.mode, r.case.dtype) == ('original', 'eager', 'fp32')
    }
    return {
        r.case: base[task(r.case)] / r.median for r in results if task(r.case) in base
    }
