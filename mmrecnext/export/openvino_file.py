"""OpenVINO's files, made of ONNX: the graph in an ``.xml``, the weights beside it."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import torch
from torch import Tensor

from mmrecnext.export import onnx_file
from mmrecnext.export.recording import Recording


def write(recording: Recording, file: Path) -> None:
    """Write a graph.

    Args:
        recording: of a network.
        file: to be written; what holds the weights is called ``.bin`` for ``.xml``.
    """
    import openvino

    content = onnx_file.convert(recording)
    _save(openvino.Core().read_model(content), file)


def halve(file: Path, *_) -> None:
    """Keep the weights of a file in half precision; it computes as before."""
    _save(_load(file), file, halved=True)


def quantise(
    file: Path,
    _: Recording,
    pictures: Sequence[Tensor],
    as_input: Callable[[Tensor], Tensor],
) -> None:
    """Have a file compute in integers of 8 bits, by NNCF.

    Args:
        file: to be changed.
        pictures: ``[3, H, W]`` each, which tell the ranges of values.
        as_input: makes of one what the file takes.
    """
    os.environ.setdefault('NNCF_CI', '1')  # it reports of its use where this is not set
    import nncf

    nncf.set_log_level(logging.ERROR)
    with redirect_stdout(sys.stderr):  # its progress
        quantised = nncf.quantize(
            _load(file),
            nncf.Dataset(pictures, lambda image: as_input(image).numpy()),
            # Not symmetric after GELU: a third of the error, at the same speed.
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(pictures),
        )
    _save(quantised, file)


def annotate(file: Path, about: Mapping[str, str]) -> None:
    """Write what the file tells of itself, by name."""
    model = _load(file)
    for name, value in about.items():
        model.set_rt_info(value, name.split('.'))
    _save(model, file)


def told(file: Path) -> dict[str, str]:
    """Return what a file tells of itself, by name."""
    prefix = 'mmrecnext'
    model = _load(file)
    if not model.has_rt_info(prefix):
        return {}
    values = model.get_rt_info(prefix).value
    return {f'{prefix}.{name}': value for name, value in values.items()}


def read(file: Path, precision: str = 'f32') -> Callable[[Tensor], dict[str, Tensor]]:
    """Return what runs a file, in OpenVINO on the CPU.

    Args:
        file: the ``.xml``, with its ``.bin`` beside it.
        precision: that it computes in, ``f32``, ``bf16`` or ``f16``. By itself OpenVINO
            takes a coarser one where the machine has it.
    """
    import openvino

    settings = {
        'INFERENCE_PRECISION_HINT': precision,
        'INFERENCE_NUM_THREADS': torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(_load(file), 'CPU', settings)

    def run(images: Tensor) -> dict[str, Tensor]:
        results = compiled(images.numpy())
        return {
            output.any_name: torch.from_numpy(value)
            for output, value in results.items()
        }

    return run


def _load(file: Path):
    """Read a file into memory: it may be written anew."""
    import openvino

    core = openvino.Core()
    core.set_property({'ENABLE_MMAP': False})
    return core.read_model(file)


def _save(model, file: Path, halved: bool = False) -> None:
    import openvino

    try:
        openvino.save_model(model, file, compress_to_fp16=halved)
    except RuntimeError as error:
        if 'iostream' not in str(error):
            raise
        reason = 'it cannot be written whole; perhaps the disk is full'
        raise OSError(errno.EIO, reason, str(file)) from error
