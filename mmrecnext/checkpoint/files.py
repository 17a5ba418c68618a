"""Read a checkpoint file of any format without running code."""

from __future__ import annotations

import argparse
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from mmrecnext.checkpoint.torchscript import is_torchscript, read_torchscript
from mmrecnext.errors import CheckpointError

NO_CHECKPOINTS = (
    (b'<', ': a web page'),
    (b'version https://git-lfs', ': a pointer of Git LFS in place of the file'),
)
"""How files begin that are often taken for a checkpoint, and what they are."""

OF_TENSORS = ('torch', 'numpy', 'collections', '_codecs', 'argparse')
"""Packages of what pickles of tensors and arrays name."""


def _history_buffer_method(owner: Any, name: str) -> Any:
    """Stand in for the ``getattr`` that MMEngine's checkpoints name.

    A log history refers to its statistics as ``getattr(HistoryBuffer, 'mean')``; the
    real ``getattr`` would reach everything.
    """
    if owner is not HistoryBuffer or name not in HistoryBuffer._statistics_methods:
        raise pickle.UnpicklingError(f'GLOBAL builtins.getattr({owner!r}, {name!r})')
    return getattr(owner, name)


def allow_common_checkpoints():
    """Let ``torch.load(weights_only=True)`` read what training scripts save.

    Beside tensors, MMEngine's checkpoints hold log histories and the NumPy arrays and
    numbers in them, which NumPy 1 and 2 name differently; those of timm and of the
    authors' scripts hold the command line. Nothing in the list can run code.
    """
    HistoryBuffer()  # its first instance registers the statistics
    core_module = np.core if np.lib.NumpyVersion(np.__version__) < '2.0.0' else np._core
    arrays = [
        (getattr(core_module.multiarray, name), f'numpy.{core}.multiarray.{name}')
        for core in ('core', '_core')
        for name in ('_reconstruct', 'scalar')
    ]
    dtypes = {type(np.dtype(code)) for code in np.typecodes['AllInteger'] + 'efdg?SU'}
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            (_history_buffer_method, 'builtins.getattr'),
            argparse.Namespace,
            np.ndarray,
            np.dtype,
            *dtypes,
            *arrays,
        ]
    )


def read_file(path: str | os.PathLike, map_location: Any = None) -> Any:
    """Read a checkpoint file; what would run code is refused.

    Its content tells the format, not its name: a pickle of PyTorch (``.pth``, ``.bin``,
    zipped or not), safetensors, or a TorchScript archive, of which the weights are read
    and the code is left alone.

    Args:
        path: an existing file.
        map_location: as of ``torch.load``, for a pickle; the other formats are read to
            the CPU.

    Returns:
        What was saved; of safetensors and TorchScript, tensors by key.

    Raises:
        CheckpointError: for a file that is broken or would run code.
    """
    path = Path(path)
    try:
        if is_torchscript(path):
            return read_torchscript(path)
        if _is_safetensors(path):
            return _read_safetensors(path)
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'Detected pickle protocol')
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except (CheckpointError, PermissionError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a spoilt file may raise anything
        raise CheckpointError(_explain(path, str(error))) from error
    return _without_config(checkpoint)


def _without_config(checkpoint: Any) -> Any:
    """Drop the config text of mmcv 1, which MMEngine would execute on resuming."""
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


def _is_safetensors(path: Path) -> bool:
    """Tell safetensors by the brace behind the length of its header.

    A zip has 0 there, and so has a pickle, or PyTorch's magic number.
    """
    with path.open('rb') as file:
        return file.read(9)[8:] == b'{' or path.suffix == '.safetensors'


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            f'{path} takes the package safetensors to read: pip install safetensors'
        ) from error
    return load_file(path)


def _explain(path: Path, message: str) -> str:
    # After PyTorch's advice, which is to run the code, comes what it found.
    found = message.rpartition('WeightsUnpickler error: ')[2].strip()
    code = re.search(r'GLOBAL (\S+)|unrecognized function (.+)|(Can only .+)', found)
    calls = None
    if code:
        calls = [next(filter(None, code.groups()))]
    elif found.startswith('Unsupported operand'):
        calls = _foreign_names(path)
    if calls:
        return (
            f'{path} is refused: loading it would execute code ({calls[0]}). '
            'Ask its author for a file of tensors only'
        )
    if calls is not None:
        return (
            f'{path} is a pickle that PyTorch cannot read safely, of another protocol '
            'than its own. Save it again with `torch.save`'
        )
    if 'map_location' in found:
        return f'{path} cannot be read on this machine: {found.splitlines()[0]}'
    with path.open('rb') as file:
        start = file.read(99).lstrip().lower()
    kind = next((kind for mark, kind in NO_CHECKPOINTS if start.startswith(mark)), '')
    return (
        f'{path} is broken or cut short ({os.path.getsize(path)} bytes{kind}). '
        'Delete it and fetch it again'
    )


def _foreign_names(path: Path) -> list[str] | None:
    """List what a pickle names beside tensors and arrays, unpickling nothing.

    PyTorch's safe reader stops before any name in pickles of protocol 4 and later.

    Returns:
        Names, perhaps none; None for a file that is no entire pickle.
    """
    names, strings = [], []
    try:
        with _open_pickle(path) as file:
            for opcode, value, _ in pickletools.genops(file):
                if opcode.name == 'GLOBAL':
                    names.append(value.replace(' ', '.'))
                elif opcode.name == 'STACK_GLOBAL':
                    names.append('.'.join(strings[-2:]))
                elif isinstance(value, str):
                    strings.append(value)
    except Exception:  # a spoilt file may raise anything
        return None
    return [name for name in names if name.split('.')[0] not in OF_TENSORS]


def _open_pickle(path: Path) -> IO[bytes]:
    if not zipfile.is_zipfile(path):
        return path.open('rb')
    archive = zipfile.ZipFile(path)
    return archive.open(next(n for n in archive.namelist() if n.endswith('/data.pkl')))
