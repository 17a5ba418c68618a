"""The published ablations of M1: counted, measured, and beside what is published.

Source: RecNeXt (https://github.com/suous/RecNeXt), its logs and figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import nn

from mmrecnext.benchmark.measure import time_in_turns
from mmrecnext.benchmark.operations import Cost, classifier_cost
from mmrecnext.benchmark.workloads import Workload
from mmrecnext.engine.named import Named, named
from mmrecnext.errors import OptionError, did_you_mean
from mmrecnext.models.classifier import RecNeXtClassifier

BATCHES = {'cuda': (1, 256), 'cpu': (1, 16)}

COLUMNS = (
    'token mixer',
    'top-1',
    'params (M)',
    'here',
    'MACs (G)',
    'here',
    'NPU (ms)',
    'CPU (ms)',
    'img/s',
)


@dataclass(frozen=True)
class Ablation:
    """What is published of M1 with other token mixers, trained for 120 epochs.

    Args:
        train_params: parameters in training, with both heads, as its log has them.
        top1: on ImageNet, in percent.
        params: parameters for inference, in millions.
        macs: multiply-adds, in billions.
        npu_ms: on the neural engine of a phone, in milliseconds; None where there was
            no file for it.
        cpu_ms: on a processor that is not named.
        gpu_images: in a second, on a GPU that is not named.
    """

    train_params: int
    top1: float
    params: float
    macs: float
    npu_ms: float | None
    cpu_ms: float | None
    gpu_images: float


ABLATIONS = {
    '224x224_3x3': Ablation(5198984, 74.64, 4.80, 0.82, 1.24, 7.4, 4538),
    '224x224_7x7': Ablation(5362184, 75.52, 4.96, 0.87, 1.27, 7.4, 3583),
    '224x224_bxb': Ablation(5655944, 75.41, 5.26, 0.96, 1.31, 7.5, 2634),
    '224x224_rec_3x3': Ablation(5303336, 75.48, 4.90, 0.83, 1.33, 12.9, 389),
    '224x224_rec_5x5': Ablation(5561384, 76.03, 5.16, 0.87, 1.36, 13.0, 384),
    '224x224_rec_7x7': Ablation(5948456, 75.67, 5.55, 0.92, 1.43, 13.0, 374),
    '224x224_rec_7x7_nearest': Ablation(5948456, 75.71, 5.55, 0.91, 1.43, 14.6, 2677),
    '224x224_rec_7x7_nearest_ssm': Ablation(
        6120152, 75.93, 5.72, 0.99, 1.46, 17.2, 2077
    ),
    '224x224_rec_7x7_unpool': Ablation(5748536, 75.48, 5.35, 0.89, None, None, 2770),
    '384x384_3x3': Ablation(5198984, 76.35, 4.80, 2.40, 2.07, 13.2, 1575),
    '384x384_7x7': Ablation(5362184, 77.42, 4.96, 2.55, 2.20, 13.2, 1239),
    '384x384_bxb': Ablation(5655944, 78.00, 5.26, 2.82, 2.27, 13.8, 889),
    '384x384_rec_3x3': Ablation(5303336, 77.72, 4.90, 2.44, 2.71, 20.6, 320),
    '384x384_rec_5x5': Ablation(5561384, 78.11, 5.16, 2.54, 2.79, 20.6, 311),
    '384x384_rec_7x7': Ablation(5948456, 78.03, 5.55, 2.69, 2.84, 20.6, 295),
    '384x384_rec_convtrans_3x3_basic': Ablation(
        5368616, 77.26, 4.97, 2.44, 2.40, 41.5, 1017
    ),
    '384x384_rec_convtrans_5x5_basic': Ablation(
        5406734, 77.87, 5.31, 2.57, 2.48, 63.5, 616
    ),
    '384x384_rec_convtrans_7x7_basic': Ablation(
        6209576, 78.24, 5.81, 2.75, 2.63, 94.1, 502
    ),
    '384x384_rec_convtrans_7x7_group': Ablation(
        6164129, 77.91, 5.76, 2.70, None, 120.3, 563
    ),
    '384x384_rec_convtrans_7x7_split': Ablation(
        5832926, 76.83, 5.43, 2.64, 2.33, 54.3, 740
    ),
}
"""The 20 ablations, as their logs are named: size of images, and token mixer."""


@dataclass
class MeasuredAblation:
    """One ablation here.

    Args:
        name: a key of ``ABLATIONS``.
        side: height and width of the images.
        cost: parameters and multiply-adds.
        seconds: of a call, one per repeat, by the number of images in it.
    """

    name: str
    side: int
    cost: Cost
    seconds: dict[int, list[float]] = field(default_factory=dict)


def config_of(name: str) -> str:
    """Return the name of the config that trains an ablation."""
    return f'recnext_m1_120e_{name}.py'


def named_ablation(name: str) -> Named:
    """Return the classifier of an ablation, as its config has it.

    Raises:
        OptionError: for an unknown name.
    """
    if name not in ABLATIONS:
        hint = did_you_mean(name, ABLATIONS)
        raise OptionError(
            f'unknown ablation {name!r}; {hint or "they are " + ", ".join(ABLATIONS)}'
        )
    return named(config_of(name))


def measure_ablations(
    names: Sequence[str] = tuple(ABLATIONS),
    device: str = 'cpu',
    repeats: int = 5,
    batches: Sequence[int] | None = None,
    side: int | None = None,
    clock: str = 'wall',
    progress: Callable[[str, float], None] = lambda text, done: None,
) -> list[MeasuredAblation]:
    """Count and measure classifiers with 1000 classes, batch norms merged, in fp32.

    Each repeat runs all of them once, in an order drawn anew.

    Args:
        names: of ``ABLATIONS``.
        device: where.
        repeats: how often; 0 to count alone.
        batches: numbers of images in a call; by default as ``BATCHES`` says.
        side: of the images, in pixels; by default what each was trained with.
        clock: a name in ``CLOCKS``.
        progress: is told what comes next, and what share is done.

    Raises:
        OptionError: for an unknown name.
    """
    models = {name: named_ablation(name) for name in names}
    found, workloads, places = [], [], []
    kind = torch.device(device).type
    for i, (name, known) in enumerate(models.items()):
        progress(name, 0.3 * i / len(models))
        size = side or known.side
        row = MeasuredAblation(name, size, classifier_cost(known.arch, size, size))
        found.append(row)
        if repeats:
            model = RecNeXtClassifier(known.arch).eval()
            model.switch_to_deploy()
            for batch in batches or BATCHES.get(kind, BATCHES['cuda']):
                workloads.append(_workload(model, batch, size, device))
                places.append((row, batch))

    times = time_in_turns(
        workloads, repeats, clock, lambda text, done: progress(text, 0.3 + 0.7 * done)
    )
    for (row, batch), seconds in zip(places, times, strict=True):
        row.seconds[batch] = seconds
    return found


def _workload(model: nn.Module, batch: int, side: int, device: str) -> Workload:
    images = torch.randn(batch, 3, side, side, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def forward() -> object:
        return model(images)

    return Workload(forward, None, model, device)


def ablation_rows(
    found: Sequence[MeasuredAblation],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return columns and rows: what is published, each beside what was found here."""
    batches = sorted({batch for row in found for batch in row.seconds})
    columns = (
        *COLUMNS,
        *(['here (ms)'] if batches else []),
        *(f'here (img/s, x{batch})' for batch in batches[1:]),
    )
    rows = []
    for row in found:
        known = ABLATIONS[row.name]
        times = {batch: median(row.seconds[batch]) for batch in batches}
        figures = (
            f'{known.top1:.2f}',
            f'{known.params:.2f}',
            f'{row.cost.params / 1e6:.2f}',
            f'{known.macs:.2f}',
            f'{row.cost.macs / 1e9:.2f}',
            '' if known.npu_ms is None else f'{known.npu_ms:.2f}',
            '' if known.cpu_ms is None else f'{known.cpu_ms:.1f}',
            f'{known.gpu_images:.0f}',
            *(f'{1e3 * times[batch] / batch:.3g}' for batch in batches[:1]),
            *(f'{batch / times[batch]:.3g}' for batch in batches[1:]),
        )
        rows.append((row.name, *figures))
    return columns, rows
