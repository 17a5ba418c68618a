"""PyTorch's own files of graphs, which ``torch.export.load`` reads."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from mmrecnext.export import archives
from mmrecnext.export.recording import Recording


def write(recording: Recording, file: Path) -> None:
    """Write a graph.

    Args:
        recording: of a network; loses what it tells of its making.
        file: to be written.
    """
    _forget_origin(recording.program)
    _save(recording.program, file, archives.named(recording.outputs))


def annotate(file: Path, about: Mapping[str, str]) -> None:
    """Write what the file tells of itself, by name."""
    program = torch.export.load(file)
    _forget_origin(program)
    _save(program, file, {**told(file), **about})


told = archives.told


def read(file: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return what runs a file, in PyTorch."""
    module = torch.export.load(file).module()
    return archives.runner(module, file)


def _save(program: ExportedProgram, file: Path, about: Mapping[str, str]) -> None:
    content = io.BytesIO()  # where a disk is full, PyTorch's own writer aborts
    torch.export.save(program, content, extra_files=dict(about))
    file.write_bytes(content.getbuffer())


def _forget_origin(program: ExportedProgram) -> None:
    """Take out the example, and where each node was made: lines of files of here."""
    program.example_inputs = None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop('stack_trace', None)
