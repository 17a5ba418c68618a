"""ExecuTorch's programs, for small devices, with what they tell in a file beside."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mmrecnext.export import archives
from mmrecnext.export.recording import Recording, quietly

BESIDE = '.json'
"""Suffix of the file of texts, which a program has no place for."""


def write(recording: Recording, file: Path) -> None:
    """Write a program, as far as it can for XNNPACK.

    Args:
        recording: of a network for one picture.
        file: the program; what it tells is called ``.json`` for ``.pte``.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackPartitioner,
    )
    from executorch.exir import to_edge_transform_and_lower

    with quietly('executorch'):
        lowered = to_edge_transform_and_lower(
            recording.program, partitioner=[XnnpackPartitioner()]
        )
        content = lowered.to_executorch().buffer
    file.write_bytes(content)
    annotate(file, archives.named(recording.outputs))


def annotate(file: Path, about: Mapping[str, str]) -> None:
    """Write what the file tells of itself, by name."""
    file.with_suffix(BESIDE).write_text(json.dumps(dict(about), indent=1) + '\n')


def told(file: Path) -> dict[str, str]:
    """Return what the file tells of itself, by name."""
    texts: dict[str, str] = json.loads(file.with_suffix(BESIDE).read_text())
    return texts


def read(file: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return what runs a file, in ExecuTorch on the CPU, picture by picture."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(file).load_method('forward')
    outputs = json.loads(told(file)[archives.OUTPUTS])

    def run(images: Tensor) -> dict[str, Tensor]:
        # What it returns is memory that the next picture is computed in.
        results = [[x.clone() for x in method.execute([i[None]])] for i in images]
        batches = map(torch.cat, zip(*results, strict=True))
        return dict(zip(outputs, batches, strict=True))

    return run
