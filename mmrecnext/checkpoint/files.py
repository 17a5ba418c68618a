"""Read a checkpoint file of any format without running code."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmrecnext.checkpoint.archives import ZIP, Archive, read_old
from mmrecnext.checkpoint.pickles import NamesCode, Refused
from mmrecnext.checkpoint.torchscript import is_torchscript, read_torchscript
from mmrecnext.errors import CheckpointError, printable

LONGEST = 300
"""Letters of a message."""

NO_CHECKPOINTS = (
    (b'<', ': a web page'),
    (b'version https://git-lfs', ': a pointer of Git LFS in place of the file'),
)
"""How files begin that are often taken for a checkpoint, and what they are."""


PICTURE = 'a picture'
TEXT = 'a text file'
FOREIGN = {
    '.py': 'a Python file, such as a config',
    **dict.fromkeys(('.json', '.yaml', '.yml', '.txt', '.log', '.csv'), TEXT),
    **dict.fromkeys(('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.webp'), PICTURE),
    '.onnx': 'a model of ONNX',
    '.engine': 'a model of TensorRT',
    '.tflite': 'a model of TensorFlow',
    '.h5': 'a file of HDF5, such as of Keras',
}
"""What files are by their names, if they cannot be read."""


def read_file(path: str | os.PathLike, map_location: Any = None) -> Any:
    """Read a checkpoint file; nothing in it is run.

    Its content tells the format, not its name: a pickle of PyTorch (``.pth``, ``.bin``,
    zipped or not), safetensors, or a TorchScript archive, of which the weights are read
    and the code is left alone. Of a pickle, tensors are read and plain data, with the
    arrays of NumPy, the logs of MMEngine and the command lines that training scripts
    save.

    Args:
        path: the file.
        map_location: as of ``torch.load``, for a pickle; the other formats are read to
            the CPU.

    Returns:
        What was saved; of safetensors and TorchScript, tensors by key.

    Raises:
        CheckpointError: for a file that is missing or broken, names code, or is made to
            take more time or memory than it is worth.
    """
    path = Path(path)
    if not path.is_file():  # a pipe would wait for what nobody writes
        raise CheckpointError(f'{printable(str(path))} is not a file')
    try:
        return _read(path, map_location)
    except (CheckpointError, PermissionError, MemoryError, torch.OutOfMemoryError):
        raise
    except NamesCode as error:
        raise CheckpointError(
            f'{path} is refused: loading it would execute code ({_shown(error)}). '
            'Ask its author for a file of tensors and plain data only'
        ) from error
    except Refused as error:
        raise CheckpointError(f'{path} is refused: {_shown(error)}') from error
    except Exception as error:  # a spoilt file may raise anything
        raise CheckpointError(_explain(path, error)) from error


def _read(path: Path, map_location: Any) -> Any:
    with path.open('rb') as file:
        start = file.read(9)
    if start.startswith(ZIP):
        with Archive(path) as archive:
            if is_torchscript(archive):
                return read_torchscript(archive)
            return archive.unpickle(map_location)
    # The length of a header is before its brace. A pickle is not of that length.
    if start[8:] == b'{' or path.suffix == '.safetensors':
        return _read_safetensors(path)
    return read_old(path, map_location)


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            f'{path} takes the package safetensors to read: pip install safetensors'
        ) from error
    return load_file(path)


def _shown(error: Exception) -> str:
    """Return a message fit for a terminal: parts of it a file may have chosen."""
    return printable(str(error)[:LONGEST])


def _explain(path: Path, error: Exception) -> str:
    if kind := FOREIGN.get(path.suffix.lower()):
        return f'{path} is {kind}, and no checkpoint, such as a .pth or .safetensors'
    if 'map_location' in str(error):
        return f'{path} cannot be read on this machine: {str(error).splitlines()[0]}'
    with path.open('rb') as file:
        start = file.read(99).lstrip().lower()
    kind = next((kind for mark, kind in NO_CHECKPOINTS if start.startswith(mark)), '')
    if isinstance(error, zipfile.BadZipFile) and 'checksum' in str(error):
        kind = ': a checksum in it does not match'
    return (
        f'{path} is broken or cut short ({os.path.getsize(path)} bytes{kind}). '
        'Delete it and fetch it again'
    )
