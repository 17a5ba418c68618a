"""A second way to read checkpoints, which shares nothing with the package's.

Python's own machine for pickles, written in Python, with functions that look at what
they are given; Python's own reader of zips; and the format of safetensors as it is
written down. It knows what the checkpoints of :mod:`tests.reliability.forms` hold.
"""

import json
import math
import pickle
import struct
import zipfile
from argparse import Namespace
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

DTYPES = {
    'DoubleStorage': 'f8',
    'FloatStorage': 'f4',
    'HalfStorage': 'f2',
    'LongStorage': 'i8',
    'IntStorage': 'i4',
    'ShortStorage': 'i2',
    'CharStorage': 'i1',
    'ByteStorage': 'u1',
    'BoolStorage': '?',
}
SAFE_DTYPES = {
    **{'F64': 'f8', 'F32': 'f4', 'F16': 'f2', 'I64': 'i8', 'I32': 'i4', 'I16': 'i2'},
    **{'I8': 'i1', 'U8': 'u1', 'BOOL': '?', 'U16': 'u2', 'U32': 'u4', 'U64': 'u8'},
}


class Nonsense(Exception):
    """A file does not say what a checkpoint says."""


def ensure(condition: bool):
    if not condition:
        raise Nonsense


def item_size(kind: str) -> int:
    return np.dtype(kind).itemsize


def view(kind: str, content: bytearray, offset: int, size: tuple, stride: tuple):
    """A tensor within the bytes of a storage, which may be filled later."""
    whole = [offset, *size, *stride]
    ensure(all(type(n) is int and n >= 0 for n in whole) and len(size) == len(stride))
    item = item_size(kind)
    reach = 0
    if math.prod(size):
        reach = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        ensure((offset + reach) * item <= len(content))
    numbers = np.frombuffer(content, kind, len(content) // item)[offset:][:reach]
    steps = [step * item for step in stride]
    return np.lib.stride_tricks.as_strided(numbers, size, steps)


class Storage:
    def __init__(self, kind: str, content: bytearray):
        self.kind, self.content = kind, content


class Unknown:
    """What a name stands for that no checkpoint uses; of no use but to be left."""


class Module:
    """Of a TorchScript archive."""


class History:
    """In the place of MMEngine's buffer."""


class Dtype:
    def __init__(self, code, *flags):
        ensure(code in ('f8', 'f4', 'i8', 'i4', 'u4', 'b1'))
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        ensure(state[2:5] == (None, None, None) and state[1] in '<>|=')
        if state[1] == '>':
            self.dtype = self.dtype.newbyteorder('>')


class Array:
    def __init__(self, *args):
        self.array = None

    def __setstate__(self, state):
        _, shape, dtype, by_columns, content = state
        order = 'F' if by_columns else 'C'
        if type(content) is str:
            content = content.encode('latin1')
        self.array = np.frombuffer(content, dtype.dtype).reshape(shape, order=order)


def rebuild_tensor(storage, offset, size, stride, *_):
    ensure(type(storage) is Storage)
    return view(storage.kind, storage.content, offset, size, stride)


def scalar(dtype, content):
    return np.frombuffer(content, dtype.dtype).reshape(())[()]


def encode(text, encoding):
    ensure(encoding == 'latin1')
    return text.encode(encoding)


def take(owner, name):
    ensure(owner is History)


def first(value, *_):
    return value


NAMES = {
    'collections.OrderedDict': OrderedDict,
    'argparse.Namespace': Namespace,
    'mmengine.logging.history_buffer.HistoryBuffer': History,
    'builtins.getattr': take,
    '_codecs.encode': encode,
    'torch._utils._rebuild_tensor_v2': rebuild_tensor,
    'numpy.dtype': Dtype,
    'numpy.ndarray': np.ndarray,
    **{
        f'numpy.{core}.multiarray.{name}': function
        for core in ('core', '_core')
        for name, function in (('_reconstruct', Array), ('scalar', scalar))
    },
    'torch.jit._pickle.build_intlist': first,
    'torch.jit._pickle.restore_type_tag': first,
    **{f'torch.{name}': kind for name, kind in DTYPES.items()},
}


class Unpickler(pickle._Unpickler):
    def __init__(self, file, load):
        super().__init__(file)
        self.load_storage = load

    def find_class(self, module, name):
        if module.startswith('__torch__'):
            return Module
        path = f'{module}.{name}'.replace('__builtin__', 'builtins')
        return NAMES.get(path, Unknown())

    def persistent_load(self, reference):
        storage, kind, key, _, count = reference[:5]
        ensure(storage == 'storage' and kind in DTYPES.values() and type(key) is str)
        ensure(type(count) is int and count >= 0)
        return self.load_storage(kind, key, count * item_size(kind))


def read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        ensure(len({*names}) == len(names))
        pickles = (n for n in names if n.endswith('/data.pkl'))
        root = min(pickles, key=len).removesuffix('data.pkl')
        contents = {}

        def load(kind, key, length):
            if key not in contents:
                contents[key] = bytearray(archive.read(f'{root}data/{key}'))
            ensure(length == len(contents[key]) // item_size(kind) * item_size(kind))
            return Storage(kind, contents[key])

        found = Unpickler(BytesIO(archive.read(f'{root}data.pkl')), load).load()
        return tensors_of(found) if f'{root}constants.pkl' in names else found


def tensors_of(module: Module, prefix: str = '') -> dict[str, Any]:
    ensure(type(module) is Module)
    found = {}
    for name, value in vars(module).items():
        if isinstance(value, np.ndarray):
            found[prefix + name] = value
        elif type(value) is Module:
            found |= tensors_of(value, f'{prefix}{name}.')
    return found


def read_old(path: Path) -> Any:
    contents: dict[str, bytearray] = {}

    def load(kind, key, length):
        if key not in contents:
            ensure(length < 2**30)
            contents[key] = bytearray(length)
        ensure(length == len(contents[key]) // item_size(kind) * item_size(kind))
        counts.setdefault(key, length // item_size(kind))
        return Storage(kind, contents[key])

    counts: dict[str, int] = {}
    with path.open('rb') as file:
        start = [Unpickler(file, load).load() for _ in range(3)]
        ensure(start[:2] == [0x1950A86A20F9469CFC6C, 1001])
        found = Unpickler(file, load).load()
        for key in Unpickler(file, load).load():
            (count,) = struct.unpack('<q', file.read(8))
            ensure(count == counts[key])
            ensure(file.readinto(contents[key]) == len(contents[key]))
    return found


def read_safetensors(path: Path) -> Any:
    content = path.read_bytes()
    (length,) = struct.unpack('<Q', content[:8])
    ensure(8 + length <= len(content))
    header = json.loads(content[8 : 8 + length], object_pairs_hook=once)
    header.pop('__metadata__', None)
    numbers, end, found = content[8 + length :], 0, {}
    for name, told in sorted(header.items(), key=lambda x: x[1]['data_offsets']):
        first, last = told['data_offsets']
        ensure(first == end and {*told} == {'dtype', 'shape', 'data_offsets'})
        part = np.frombuffer(numbers[first:last], SAFE_DTYPES[told['dtype']])
        ensure(len(numbers) >= last and all(n >= 0 for n in told['shape']))
        found[name] = part.reshape(told['shape'])
        end = last
    ensure(end == len(numbers))
    return found


def once(pairs):
    ensure(len({key for key, _ in pairs}) == len(pairs))
    return dict(pairs)


def difference(one: Any, other: Any, place: str = '') -> str | None:
    """Say where what the package has read is not what the reference has read."""
    other = other.dtype if isinstance(other, Dtype) else other
    other = other.array if isinstance(other, Array) else other
    if isinstance(one, torch.Tensor):
        if one.is_meta:
            return f'{place}: on meta'
        one = one.detach().numpy()
    if isinstance(other, torch.Tensor):
        other = other.detach().numpy()
    if isinstance(one, (np.ndarray, np.generic)):
        plain = isinstance(other, (np.ndarray, np.generic))
        same = plain and one.dtype == other.dtype and one.shape == other.shape
        same = same and one.tobytes() == other.tobytes()
        return None if same else f'{place}: another array'
    if isinstance(one, HistoryBuffer):
        names = '_log_history', '_count_history'
        if isinstance(other, HistoryBuffer | History):
            sides = ([vars(x).get(n) for n in names] for x in (one, other))
            return difference(*sides, f'{place}.history')
        return f'{place}: a log'
    if type(one) is not type(other):
        return f'{place}: {type(one).__name__}, not {type(other).__name__}'
    if isinstance(one, Namespace):
        return difference(vars(one), vars(other), f'{place}.args')
    if isinstance(one, dict):
        if [*one] != [*other]:
            return f'{place}: other keys'
        pairs = [(one[key], other[key], f'{place}.{key}') for key in one]
        if isinstance(one, OrderedDict):
            own = (getattr(x, '_metadata', None) for x in (one, other))
            pairs.append((*own, f'{place}._metadata'))
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            return f'{place}: of another length'
        pairs = [
            (a, b, f'{place}[{i}]')
            for i, (a, b) in enumerate(zip(one, other, strict=True))
        ]
    else:
        return (
            None if one == other or one != one else f'{place}: {one!r}, not {other!r}'
        )
    return next((told for pair in pairs if (told := difference(*pair))), None)
