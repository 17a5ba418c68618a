"""Core ML, for Apple's systems: written anywhere, run there alone."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from mmrecnext.errors import ExportError
from mmrecnext.export.onnx_file import INPUT
from mmrecnext.export.recording import Recording

ELSEWHERE = "Core ML runs on Apple's systems alone"
SPECIFICATION = 'Data/com.apple.CoreML/model.mlmodel'
"""What holds the graph in the folder of a program."""

REPLACED = 'Falling back'
"""What coremltools says where it takes an operator for another."""


def write(recording: Recording, file: Path, half: bool = False) -> None:
    """Write a program, a folder.

    Args:
        recording: of a network for one picture.
        file: the folder.
        half: whether it keeps its weights and computes in half precision, as the neural
            engine asks for.
    """
    with _heard():
        from coremltools import precision
    chosen = precision.FLOAT16 if half else precision.FLOAT32
    _convert(recording, file, convert_to='mlprogram', compute_precision=chosen)
    # Of use to debuggers of the conversion.
    (file / 'executorch_debug_handle_mapping.json').unlink(missing_ok=True)


def write_half(file: Path, recording: Recording, *_: Any) -> None:
    """Write a program that computes in half precision, in the place of another."""
    write(recording, file, half=True)


def write_layers(recording: Recording, file: Path) -> None:
    """Write the older form, a file of the layers of a neural network."""
    _convert(recording, file, convert_to='neuralnetwork')


def _convert(recording: Recording, file: Path, **options: Any) -> None:
    with _heard() as said:
        import coremltools

        if recording.pictures == 'uint8':
            images = coremltools.ImageType(
                INPUT, recording.shape, color_layout=recording.order
            )
        else:
            images = coremltools.TensorType(INPUT, recording.shape)
        model = coremltools.convert(
            _known(recording),
            inputs=[images],
            outputs=[coremltools.TensorType(name) for name in recording.outputs],
            skip_model_load=True,
            **options,
        )
        if wrong := [line for line in said if REPLACED in line]:
            raise ExportError(f'Core ML would compute something else: {wrong[0]}')
        model.save(str(file))


def _known(recording: Recording) -> ExportedProgram:
    """Return a graph of operators that coremltools knows."""
    program = recording.program.run_decompositions({})
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.alias.default:  # of a cut that cuts nothing
            node.target = torch.ops.aten.clone.default
    return program


def annotate(file: Path, about: Mapping[str, str]) -> None:
    """Write what the file tells of itself, by name."""
    with _heard():
        from coremltools.models.utils import load_spec, save_spec

        spec = load_spec(str(_specification(file)))
        spec.description.metadata.userDefined.update(about)
        save_spec(spec, str(_specification(file)))


def told(file: Path) -> dict[str, str]:
    """Return what the file tells of itself, by name."""
    with _heard():
        from coremltools.models.utils import load_spec

        spec = load_spec(str(_specification(file)))
    return dict(spec.description.metadata.userDefined)


def read(file: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """Refuse to run a file.

    Raises:
        ExportError: always.
    """
    raise ExportError(f'{file.name}: {ELSEWHERE}')


def _specification(file: Path) -> Path:
    return file / SPECIFICATION if file.is_dir() else file


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Keep what coremltools says from the terminal; yield its warnings."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger = logging.getLogger('coremltools')
    listener = Listener(logging.WARNING)
    logger.addHandler(listener)
    try:
        with redirect_stderr(io.StringIO()):
            yield said
    finally:
        logger.removeHandler(listener)
