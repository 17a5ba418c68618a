"""What a checkpoint may call: functions that check all that they are given.

Each stands for one of PyTorch's, NumPy's or MMEngine's by which these put together what
was saved. None of those is called with what a file says unchecked: they trust it, with
shapes beyond the end of a buffer, with pointers, with names of functions.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmrecnext.checkpoint.arrays import array, array_of, dtype, history, scalar
from mmrecnext.checkpoint.pickles import (
    MAPPINGS,
    MAX_DIMS,
    NO_BOOL,
    Name,
    NamesCode,
    Refused,
    are_counts,
    check,
    check_keys,
)
from mmrecnext.checkpoint.structure import Module

STORAGES = {
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
    'ComplexFloatStorage': torch.complex64,
    'ComplexDoubleStorage': torch.complex128,
}
"""Types of numbers by the classes that PyTorch names for them."""


PLAIN = re.compile(
    r'torch\.(bool|u?int(8|16|32|64)|b?float(16|32|64|8_\w+)|complex(32|64|128))'
)
"""Types of numbers of whole bytes, neither quantized nor packed."""


MAX_NUMBERS = 2**48
"""More than any tensor has, but for one of none whose other sides are told so."""


@dataclass(frozen=True)
class Storage:
    """Numbers that tensors are views of.

    Attributes:
        dtype: type of each.
        content: the bytes of all.
    """

    dtype: torch.dtype
    content: torch.UntypedStorage


def _tensor(
    storage: Storage, offset: int, size: tuple, stride: tuple, requires_grad=False, *_
) -> Tensor:
    """Stand for ``torch._utils._rebuild_tensor_v2``, and the version before."""
    check(type(storage) is Storage, 'a tensor in it has no storage')
    return _view(storage.content, storage.dtype, offset, size, stride, requires_grad)


def _tensor_of_dtype(storage, offset, size, stride, requires_grad, _, dtype, *rest):
    """Stand for ``torch._utils._rebuild_tensor_v3``."""
    check(type(storage) is Storage, 'a tensor in it has no storage')
    check(type(dtype) is torch.dtype, 'a tensor in it has no dtype')
    return _view(storage.content, dtype, offset, size, stride, requires_grad)


def _view(
    content: torch.UntypedStorage,
    dtype: torch.dtype,
    offset: int,
    size: tuple,
    stride: tuple,
    requires_grad: bool,
) -> Tensor:
    """Return a tensor of numbers that all stand within ``content``."""
    shape = type(size) in (tuple, torch.Size) and type(stride) in (tuple, torch.Size)
    shape = shape and len(size) == len(stride) <= MAX_DIMS
    check(shape and are_counts(offset, *size, *stride), 'a tensor in it has no shape')
    largest = max(offset, *stride, math.prod(n for n in size if n))
    check(largest < MAX_NUMBERS, 'a tensor in it is of a shape that none has')
    available = content.nbytes() // dtype.itemsize
    count = math.prod(size)
    last = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    check(
        count <= available and (not count or offset + last < available),
        f'a tensor of shape {list(size)} has a storage of {available} numbers in it',
    )
    tensor = torch.empty(0, dtype=dtype, device=content.device)
    if count:
        tensor.set_(content, offset, size, stride)
    else:
        tensor = tensor.new_empty(size)
    if dtype is torch.bool and content.device.type != 'meta':
        check(not (tensor.view(torch.uint8) > 1).any(), NO_BOOL)
    if requires_grad is True and (dtype.is_floating_point or dtype.is_complex):
        tensor.requires_grad = True
    return tensor


def _parameter(data: Tensor, requires_grad: bool = True, *_) -> torch.nn.Parameter:
    """Stand for ``torch._utils._rebuild_parameter``; attributes are left out."""
    check(type(data) is Tensor, 'a parameter in it is no tensor')
    return torch.nn.Parameter(data.detach(), requires_grad is True)


def _tensor_of_type(function: Name, kind: Any, args: tuple, _state: Any) -> Tensor:
    """Stand for ``torch._tensor._rebuild_from_type_v2``.

    A tensor of a class of its own becomes a plain one; its attributes are left out.
    """
    path = function.path if isinstance(function, Name) else type(function).__name__
    if path not in TENSORS:
        raise NamesCode(path)
    check(type(args) is tuple, f'it calls {path} with no arguments')
    return TENSORS[path](*args)


def _unusual(kind: str):
    def refuse(*_):
        raise Refused(f'it holds {kind}, and only plain tensors are read')

    return refuse


TENSORS = {
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor_of_dtype,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch._utils._rebuild_sparse_tensor': _unusual('a sparse tensor'),
    'torch._utils._rebuild_qtensor': _unusual('a quantized tensor'),
    'torch._utils._rebuild_nested_tensor': _unusual('a nested tensor'),
    'torch._utils._rebuild_meta_tensor_no_storage': _unusual(
        'a tensor on the device meta, which has no numbers'
    ),
}


def _method(owner: Any = None, _name: Any = None) -> None:
    """Stand for ``getattr``, by which a log names its statistics: none is taken."""
    if owner != Name(HISTORY):
        raise NamesCode('builtins.getattr')


def _encoded(text: str, encoding: str = 'utf-8') -> bytes:
    """Stand for ``_codecs.encode``, which up to protocol 2 makes all bytes."""
    check(
        type(text) is str and encoding in ('latin1', 'latin-1'),
        f'it has bytes in the encoding {str(encoding)[:20]!r}',
    )
    return text.encode('latin1')


def _bytes(content: bytes = b'') -> bytes:
    check(type(content) is bytes, 'it has bytes that are none')
    return content


def _bytearray(content: Any = b'', encoding: str = 'latin1') -> bytearray:
    if type(content) is str:
        content = _encoded(content, encoding)
    return bytearray(_bytes(content))


def _set(values: Any = ()) -> set:
    check(type(values) in (list, tuple), 'it has a set that is none')
    return set(check_keys(values))


def _mapping(kind: type):
    def make(items: Any = ()) -> Mapping:
        pairs = list(items.items()) if type(items) in MAPPINGS else items
        pair = type(pairs) in (list, tuple) and all(
            type(each) in (list, tuple) and len(each) == 2 for each in pairs
        )
        check(pair, f'it has a {kind.__name__} that is none')
        check_keys([key for key, _ in pairs])
        return kind(dict(pairs))

    return make


def _complex(real: float, imaginary: float) -> complex:
    check({type(real), type(imaginary)} <= {int, float}, 'it has a number that is none')
    return complex(real, imaginary)


def _size(values: tuple = ()) -> torch.Size:
    check(type(values) is tuple and are_counts(*values), 'it has a size that is none')
    return torch.Size(values)


def _device(kind: str, index: int | None = None) -> torch.device:
    check(type(kind) is str and type(index) in (int, type(None)), 'it names no device')
    return torch.device(kind) if index is None else torch.device(kind, index)


def _namespace(*args) -> argparse.Namespace:
    check(not args, 'a command line in it has arguments')
    return argparse.Namespace()


def _instance(kind: Any, *_) -> Any:
    """Stand for ``copyreg._reconstructor``, by which protocol 1 makes objects."""
    path = kind.path if isinstance(kind, Name) else type(kind).__name__
    if path not in INSTANCES:
        raise NamesCode(path)
    return INSTANCES[path]()


HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'

INSTANCES = {HISTORY: history, 'argparse.Namespace': _namespace}
FUNCTIONS = {
    **TENSORS,
    **INSTANCES,
    'copy_reg._reconstructor': _instance,
    'torch._tensor._rebuild_from_type_v2': _tensor_of_type,
    'torch.serialization._get_layout': TENSORS['torch._utils._rebuild_sparse_tensor'],
    'torch.Size': _size,
    'torch.device': _device,
    'numpy.dtype': dtype,
    **{
        f'numpy.{core}.{name}': function
        for core in ('core', '_core')  # of NumPy 1, of NumPy 2
        for name, function in {
            'multiarray._reconstruct': array,
            'multiarray.scalar': scalar,
            'numeric._frombuffer': array_of,
        }.items()
    },
    'builtins.getattr': _method,
    'collections.OrderedDict': _mapping(OrderedDict),
    'collections.Counter': _mapping(Counter),
    'builtins.set': _set,
    'builtins.frozenset': lambda values=(): frozenset(_set(values)),
    'builtins.complex': _complex,
    'builtins.bytearray': _bytearray,
    'builtins.bytes': _bytes,
    '_codecs.encode': _encoded,
}
"""What a file may call."""

CONSTANTS = {
    **{
        f'torch.{part}{name}': kind
        for part in ('', 'cuda.')
        for name, kind in STORAGES.items()
    },
    'torch.storage.UntypedStorage': torch.uint8,
    **{
        str(value): value
        for value in vars(torch).values()
        if isinstance(value, torch.dtype) and PLAIN.fullmatch(str(value))
    },
}
"""What a file may name: types of numbers."""


def set_state(target: Any, state: Any):
    """Set the state of what a function made; all else has none.

    Raises:
        Refused: where it has none, or another.
    """
    check(type(state) is dict, f'it sets the state of a {type(target).__name__}')
    check(all(type(key) is str for key in state), 'it sets attributes without a name')
    if type(target) is OrderedDict:
        check(set(state) <= {'_metadata'}, 'it sets attributes of an OrderedDict')
        vars(target).update(state)
    elif type(target) is argparse.Namespace:
        vars(target).update(state)
    elif type(target) is Module:
        target.content.update(state)
    else:
        raise Refused(f'it sets the state of a {type(target).__name__}')
