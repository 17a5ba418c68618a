"""Whole classifiers, measured as the published speeds were, beside these."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmrecnext.archs import ARCHS
from mmrecnext.benchmark.measure import CLOCKS, synchronizer
from mmrecnext.models.classifier import RecNeXtClassifier
from mmrecnext.pretrained import INPUT_SIDE, SPEEDS

CLASSES = 1000
LARGEST = {'cuda': 2048, 'cpu': 64}
"""Batch to begin with; on a CPU larger ones take minutes."""

COLUMNS = (
    'model',
    'iPhone 13, ms',
    'Cortex-A57, ms',
    'RTX 3090, img/s',
    'here, img/s',
    'batch',
    'here, ms of 1',
)


@dataclass
class Measured:
    """The speed of one classifier here.

    Args:
        arch: the model.
        batch: the largest power of two that fits, of those asked for.
        images_per_second: of such batches.
        seconds: of a single image.
    """

    arch: str
    batch: int
    images_per_second: float
    seconds: float


def measure_published(
    archs: Sequence[str] = tuple(ARCHS),
    device: str = 'cpu',
    batch: int | None = None,
    seconds: float = 10.0,
    clock: str = 'wall',
    progress: Callable[[str, float], None] = lambda text, done: None,
) -> list[Measured]:
    """Measure classifiers with 1000 classes, batch norms merged, fp32, NCHW, 224 px.

    Batches are timed one by one, after half as long of warming up.

    Args:
        archs: names of models.
        device: where.
        batch: images, halved until they fit; by default the start is of ``LARGEST``.
        seconds: that are timed at least, of each model.
        clock: a name in ``CLOCKS``.
        progress: is told what comes next, and what share is done.
    """
    found = []
    for i, arch in enumerate(archs):
        progress(arch, i / len(archs))
        model = RecNeXtClassifier(arch, num_classes=CLASSES).eval()
        model.switch_to_deploy()
        model.to(device)
        kind = torch.device(device).type
        size = fitting(model, device, batch or LARGEST.get(kind, LARGEST['cuda']))
        several = timed(model, images(size, device), device, seconds, clock)
        one = timed(model, images(1, device), device, seconds / 4, clock)
        found.append(Measured(arch, size, size / several, one))
    return found


def images(count: int, device: str) -> Tensor:
    """Return random images."""
    return torch.randn(count, 3, INPUT_SIDE, INPUT_SIDE, device=device)


@torch.no_grad()
def fitting(model: Callable[[Tensor], object], device: str, batch: int) -> int:
    """Return how many images fit into memory, halving from ``batch``."""
    while True:
        try:
            model(images(batch, device))
            synchronizer(device)()
            return batch
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2


@torch.no_grad()
def timed(
    model: Callable[[Tensor], object],
    batch: Tensor,
    device: str,
    seconds: float,
    clock: str,
) -> float:
    """Return the mean seconds of a batch."""
    synchronize, now = synchronizer(device), CLOCKS[clock]
    start = time.perf_counter()
    while time.perf_counter() - start < seconds / 2:
        model(batch)
        synchronize()
    total, count = 0.0, 0
    while total < seconds:
        start = now()
        model(batch)
        synchronize()
        total += now() - start
        count += 1
    return total / count


def published_rows(
    found: Sequence[Measured],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return columns and rows: what is published, and what was measured."""
    rows: list[tuple[str, ...]] = []
    for row in found:
        speed = SPEEDS[row.arch]
        figures = (
            f'{speed.npu_ms:.1f}',
            f'{speed.cpu_ms:.0f}',
            f'{speed.gpu_images:.0f}',
            f'{row.images_per_second:.3g}',
            str(row.batch),
            f'{1000 * row.seconds:.3g}',
        )
        rows.append((row.arch, *figures))
    return COLUMNS, rows
