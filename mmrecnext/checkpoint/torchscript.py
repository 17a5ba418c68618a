"""Take the weights out of a TorchScript archive, and nothing else.

``torch.jit.load`` is no safe way to them: it compiles the code in the archive and runs
the parts by which its classes restore themselves, which may write files. The weights
need none of it: they are read as those of any other archive, and the archive's own
classes are all one empty class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from mmrecnext.checkpoint.archives import Archive
from mmrecnext.checkpoint.pickles import Refused
from mmrecnext.checkpoint.rebuild import FUNCTIONS
from mmrecnext.checkpoint.structure import Module

TYPED_VALUES = (
    'build_boollist',
    'build_doublelist',
    'build_intlist',
    'build_tensorlist',
    'restore_type_tag',
)
"""Functions of ``torch.jit._pickle`` that return their first argument, checked."""

MAX_TENSORS = 100_000
MAX_KEY = 1_000
"""Of one archive, and in letters."""


def is_torchscript(archive: Archive) -> bool:
    """Tell whether an archive is one of TorchScript."""
    return 'constants.pkl' in archive


def read_torchscript(archive: Archive) -> dict[str, Tensor]:
    """Return parameters and buffers by key, as the traced module's ``state_dict``.

    Raises:
        Refused: for an archive that names other classes and functions than a module of
            tensors takes, or is out of bounds.
        Exception: of any type, for one that is broken.
    """
    module = archive.unpickle('cpu', _find)
    if type(module) is not Module:
        raise Refused('it is a TorchScript archive without a module')
    found: dict[str, Tensor] = {}
    for key, value in _named_tensors(module):
        if len(found) == MAX_TENSORS:
            raise Refused(f'it has more than {MAX_TENSORS:,} tensors')
        found[key] = value
    return found


def _find(path: str) -> Callable | None:
    if path.startswith('__torch__.'):
        return Module
    if path in {f'torch.jit._pickle.{name}' for name in TYPED_VALUES}:
        return _typed_value
    return FUNCTIONS.get(path)


def _typed_value(value: Any, *_) -> Any:
    return value


def _named_tensors(module: Module, prefix: str = '') -> Iterator[tuple[str, Tensor]]:
    if len(prefix) > MAX_KEY:
        raise Refused(f'it has a key of more than {MAX_KEY:,} letters')
    for name, value in module.content.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif type(value) is Module:
            yield from _named_tensors(value, f'{prefix}{name}.')
