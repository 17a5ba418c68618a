"""TorchScript, for programs that have not left it: ``torch.jit.load`` reads it."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from mmrecnext.export import archives
from mmrecnext.export.recording import Recording, quietly

SAME: dict[Any, Any] = {
    torch.ops.aten.sym_size.int: torch.ops.aten.size,
    torch.sym_max: max,
    torch.sym_min: min,
    torch.sym_int: int,
    torch.sym_float: float,
    math.trunc: int,
}
"""What TorchScript calls the operators on sizes."""

CHECKS = {torch.ops.aten._assert_tensor_metadata.default}
"""What has no result, and no name in TorchScript."""


def write(recording: Recording, file: Path) -> None:
    """Write a graph.

    It is compiled, and not traced by an example, whose sizes it would keep.

    Args:
        recording: of a network.
        file: to be written.
    """
    module = plain(recording.program)
    with quietly('torch.jit'):
        script = torch.jit.script(module)
    _save(script, file, archives.named(recording.outputs))


def plain(program: ExportedProgram) -> fx.GraphModule:
    """Return a graph that is called with tensors alone, of operators without types."""
    whole = program.run_decompositions({}).module(check_guards=False)
    graph, weights = fx.Graph(), nn.Module()
    copies: dict[fx.Node, fx.Node] = {}
    for node in whole.graph.nodes:
        if node.target in CHECKS or node.op == 'call_module':  # that of the guards
            continue
        if node.op == 'get_attr':
            name = node.target.replace('.', '_')
            value: Any = whole
            for part in node.target.split('.'):
                value = getattr(value, part)
            weights.register_buffer(name, value.detach())
            copies[node] = graph.get_attr(name)
            continue
        copies[node] = copy = graph.node_copy(node, copies.__getitem__)
        target: Any = SAME.get(copy.target, copy.target)
        if isinstance(target, torch._ops.OpOverload):
            target = target.overloadpacket
        copy.target = target
    return fx.GraphModule(weights, graph)


def annotate(file: Path, about: Mapping[str, str]) -> None:
    """Write what the file tells of itself, by name."""
    with quietly('torch.jit'):
        script = torch.jit.load(file)
    _save(script, file, {**told(file), **about})


told = archives.told


def read(file: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return what runs a file, in PyTorch."""
    with quietly('torch.jit'):
        script = torch.jit.load(file)
    return archives.runner(script, file)


def _save(script: torch.jit.ScriptModule, file: Path, about: Mapping[str, str]) -> None:
    content = io.BytesIO()  # where a disk is full, PyTorch's own writer aborts
    with quietly('torch.jit'):
        torch.jit.save(script, content, _extra_files=dict(about))
    file.write_bytes(content.getbuffer())
