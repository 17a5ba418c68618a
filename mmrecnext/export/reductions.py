"""Weights of fewer bits: how files come by them, and what PyTorch makes of the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmrecnext.export.proof import LIMIT, try_pictures
from mmrecnext.export.recording import Recording
from mmrecnext.export.subjects import Subject

SINGLE = 'fp32'
"""The type of weights that every format is first written with."""

SLACK = 3
"""By how much a file may differ more than PyTorch with weights of the same type.

Formats differ in which arrays they round, such as the few numbers of a normalisation.
"""


@dataclass(frozen=True)
class Reduction:
    """A way to make the weights of a file smaller.

    Args:
        apply: changes a file of single precision, given what it was written from,
            pictures ``[3, H, W]`` to measure the network with, and what makes of one
            what the file takes.
        alike: returns a network whose weights are rounded in the same way; None where
            PyTorch has no such thing, and the differences are told alone.
        packages: that it needs besides those of the format.
        is_calibrated: whether it takes any pictures.
    """

    apply: Callable[
        [Path, Recording, Sequence[Tensor], Callable[[Tensor], Tensor]], None
    ]
    alike: Callable[[nn.Module], nn.Module] | None = None
    packages: tuple[str, ...] = ()
    is_calibrated: bool = False

    def limit(
        self, subject: Subject, size: tuple[int, int] | None, dtype: torch.dtype
    ) -> float:
        """Return the largest difference that it explains.

        Args:
            subject: what was written.
            size: height and width of the pictures; None for any.
            dtype: of the pictures.
        """
        if self.alike is None:
            return float('inf')
        network = self.alike(subject.network)
        trials = try_pictures(
            lambda images: dict(zip(subject.outputs, network(images), strict=True)),
            subject.reference,
            subject.compare,
            size,
            dtype,
        )
        largest = max(x.value for trial in trials for x in trial.differences)
        return SLACK * largest + LIMIT


def halved(network: nn.Module) -> nn.Module:
    """Return a copy of a network whose weights have the digits of half precision."""
    network = copy.deepcopy(network)
    for weight in (*network.parameters(), *network.buffers()):
        if weight.is_floating_point():
            weight.data = weight.data.half().to(weight.dtype)
    return network
