"""Take the weights out of a TorchScript archive, and nothing else.

``torch.jit.load`` is no safe way to them: it compiles the code in the archive and runs
the parts by which its classes restore themselves, which may write files. The weights
need none of it. An archive is a zip of raw tensors and of a pickle that names them,
``data.pkl``; that pickle is read here by an unpickler that knows a handful of names,
and to which the archive's own classes are all one empty class.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    'DoubleStorage': torch.float64,
    'FloatStorage': torch.float32,
    'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16,
    'LongStorage': torch.int64,
    'IntStorage': torch.int32,
    'ShortStorage': torch.int16,
    'CharStorage': torch.int8,
    'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool,
}
TYPED_VALUES = (
    'build_boollist',
    'build_doublelist',
    'build_intlist',
    'build_tensorlist',
    'restore_type_tag',
)
"""Functions of ``torch.jit._pickle`` that return their first argument, checked."""


def is_torchscript(path: Path) -> bool:
    """Tell whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return _root(archive) is not None


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Return parameters and buffers by key, as the traced module's ``state_dict``.

    Raises:
        pickle.UnpicklingError: for an archive that names other classes and functions
            than a module of tensors takes.
        Exception: of any type, for one that is broken.
    """
    with zipfile.ZipFile(path) as archive:
        return dict(_named_tensors(_Unpickler(archive).load()))


def _root(archive: zipfile.ZipFile) -> str | None:
    """Return the folder in a TorchScript archive that holds everything."""
    for name in archive.namelist():
        root, _, rest = name.partition('/')
        if rest == 'constants.pkl':
            return root
    return None


class _Object:
    """Whatever the archive has a class for: a module, its content as attributes."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile):
        self.archive = archive
        self.root = _root(archive)
        self.storages: dict[str, Tensor] = {}
        super().__init__(self._open('data.pkl'))

    def find_class(self, module: str, name: str) -> Any:
        if module.split('.')[0] == '__torch__':
            return _Object
        if module == 'torch' and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ('collections', 'OrderedDict'):
            return OrderedDict
        if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
            return _tensor
        if module == 'torch.jit._pickle' and name in TYPED_VALUES:
            return _typed_value
        raise pickle.UnpicklingError(f'GLOBAL {module}.{name}')

    def persistent_load(self, reference: Any) -> Tensor:
        """Return the numbers that a tensor refers to, ``[N]``."""
        _, dtype, key, *_ = reference
        if key not in self.storages:
            content = bytearray(self._open(f'data/{key}').read())
            self.storages[key] = (
                torch.frombuffer(content, dtype=dtype)
                if content
                else torch.empty(0, dtype=dtype)
            )
        return self.storages[key]

    def _open(self, name: str) -> zipfile.ZipExtFile:
        record = self.archive.getinfo(f'{self.root}/{name}')
        if record.compress_type != zipfile.ZIP_STORED:  # might unpack without end
            raise pickle.UnpicklingError(f'{name} is compressed, as PyTorch saves none')
        return self.archive.open(record)


def _tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_) -> Tensor:
    return storage.as_strided(size, stride, offset)  # which checks the bounds


def _typed_value(value: Any, *_) -> Any:
    return value


def _named_tensors(module: Any, prefix: str = '') -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Object):
            yield from _named_tensors(value, f'{prefix}{name}.')
