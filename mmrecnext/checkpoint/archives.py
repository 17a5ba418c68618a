"""Where the numbers stand: in the records of a zip, or one after another.

PyTorch writes a zip of one pickle and of one record for each storage, as it is; so does
TorchScript. Before version 1.6 it wrote pickles, and the storages behind them.
"""

from __future__ import annotations

import io
import os
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor
from torch.serialization import default_restore_location

from mmrecnext.checkpoint.pickles import (
    Meaning,
    Name,
    NamesCode,
    Refused,
    check,
    unpickle,
)
from mmrecnext.checkpoint.rebuild import CONSTANTS, FUNCTIONS, Storage, set_state
from mmrecnext.checkpoint.structure import check_structure

ZIP = b'PK\3\4'
OLD_START = (0x1950A86A20F9469CFC6C, 1001)
"""The first two numbers in files of PyTorch before 1.6."""

NAME_LENGTH = 26
"""Bytes before the length of its name, in the header of a record."""

UTF_8 = 0x800
"""The flag of a record whose name is in UTF-8."""

QUANTIZED = re.compile(r'torch\.(cuda\.)?QU?Int\d+(x\d+)?Storage')
"""Types of numbers that stand for others, in files of PyTorch."""

CHUNK = 2**18
MAX_GROWTH = 4
SLACK = 2**20
"""How many times its own bytes a pickle may make, and how many more."""

Find = Callable[[str], Callable | None]


class Archive:
    """Records of a zip, by name without the folder in which all of them are.

    Raises:
        Refused: where a record is compressed.
        Exception: of any type, where the zip is broken, or a record is not of its
            checksum.
    """

    def __init__(self, path: Path):
        self.zip = zipfile.ZipFile(path)
        records = self.zip.infolist()
        pickles = [r.filename for r in records if r.filename.endswith('/data.pkl')]
        self.root = min(pickles, key=len).removesuffix('data.pkl')
        # TorchScript compresses its code, which is not read.
        stored = [r.file_size for r in records if r.compress_type == zipfile.ZIP_STORED]
        names = {record.filename for record in records}
        check(
            len(names) == len(records) and sum(stored) <= os.path.getsize(path),
            'records of it overlap',
        )
        # Zeros, where PyTorch was told to write no checksums.
        self.has_checksums = any(record.CRC for record in records)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_):
        self.zip.close()

    def __contains__(self, name: str) -> bool:
        return self.root + name in self.zip.NameToInfo

    def read(self, name: str) -> Tensor:
        """Return the bytes of a record, ``[N]``."""
        record = self.zip.getinfo(self.root + name)
        if record.compress_type != zipfile.ZIP_STORED:  # might unpack without end
            raise Refused(f'its record {name} is compressed, as PyTorch saves none')
        content = torch.empty(record.file_size, dtype=torch.uint8)
        view, checksum = content.numpy().data, 0
        file = cast(io.BufferedReader, self.zip.fp)
        file.seek(record.header_offset + NAME_LENGTH)
        name_length, extra_length = struct.unpack('<HH', file.read(4))
        encoding = 'utf-8' if record.flag_bits & UTF_8 else 'cp437'
        if file.read(name_length) != record.orig_filename.encode(encoding):
            raise zipfile.BadZipFile(f'{name} is elsewhere than the directory says')
        file.seek(extra_length, os.SEEK_CUR)
        for start in range(0, len(view), CHUNK):  # of a size that caches hold
            part = view[start : start + CHUNK]
            if file.readinto(part) < len(part):
                raise EOFError(name)
            checksum = zlib.crc32(part, checksum)
        if self.has_checksums and checksum != record.CRC:
            raise zipfile.BadZipFile(f'the checksum of {name} does not match')
        return content

    def unpickle(self, map_location: Any = None, find: Find = FUNCTIONS.get) -> Any:
        """Return what the pickle and the storages hold.

        Args:
            map_location: as of ``torch.load``.
            find: functions that the pickle may call, by name.
        """
        order: str = sys.byteorder
        if 'byteorder' in self:
            order = bytes(self.read('byteorder')).decode()
        check(order == sys.byteorder, f'it was saved on a machine of {order} endian')
        storages = _Storages(lambda key: self.read(f'data/{key}'), map_location)
        content = self.read('data.pkl').numpy().tobytes()
        return _unpickle(io.BytesIO(content), len(content), storages, find)


class _Storages:
    """Loads each storage once.

    Args:
        read: returns the bytes that have a key.
        map_location: as of ``torch.load``.
    """

    def __init__(self, read: Callable[[str], Tensor], map_location: Any):
        self.read = read
        self.map_location = map_location
        self.contents: dict[str, torch.UntypedStorage] = {}

    def __call__(self, reference: Any) -> Storage:
        dtype, key, location, count = check_reference(reference)
        if key not in self.contents:
            content = self.read(key).untyped_storage()
            self.contents[key] = _move(content, location, self.map_location)
        content = self.contents[key]
        check(
            count == content.nbytes() // dtype.itemsize,
            f'a storage of {count} numbers has {content.nbytes()} bytes in it',
        )
        return Storage(dtype, content)


def check_reference(reference: Any) -> tuple[torch.dtype, str, str, int]:
    """Check what a pickle says of a storage.

    Returns:
        Type of the numbers, key, device, and how many numbers there are.

    Raises:
        Refused: where it is the class of a module, or no storage.
    """
    check(type(reference) is tuple and len(reference) >= 2, 'it refers to no storage')
    kind, dtype, *rest = reference
    if kind == 'module':
        raise NamesCode(getattr(dtype, 'path', 'a module'))
    check(
        not (isinstance(dtype, Name) and QUANTIZED.fullmatch(dtype.path)),
        'it holds a quantized tensor, and only plain tensors are read',
    )
    check(
        kind == 'storage'
        and type(dtype) is torch.dtype
        and [type(each) for each in rest[:3]] == [str, str, int]
        and rest[2] >= 0
        and rest[3:] in ([], [None]),
        'it refers to no storage',
    )
    return (dtype, *rest[:3])


def _move(content: torch.UntypedStorage, saved_on: str, map_location: Any):
    """Move a storage as ``torch.load`` does."""
    if callable(map_location):
        moved = map_location(content, saved_on)
        if moved is not None:
            return moved
    elif isinstance(map_location, Mapping):
        saved_on = map_location.get(saved_on, saved_on)
    elif map_location is not None:
        saved_on = str(map_location)
    return default_restore_location(content, saved_on)


def _unpickle(
    file: IO[bytes],
    size: int,
    load_storage: Callable[[Any], object],
    find: Find = FUNCTIONS.get,
) -> Any:
    meaning = Meaning(CONSTANTS, find, set_state, load_storage)
    found = unpickle(file, meaning, MAX_GROWTH * size + SLACK)
    check_structure(found)
    return found


class _Bounded:
    """A file to unpickle from that reserves no memory for more than it has."""

    def __init__(self, file: IO[bytes], size: int):
        self.file = file
        self.size = size
        self.tell, self.readline = file.tell, file.readline

    def read(self, size: int) -> bytes:
        if size > CHUNK:
            size = min(size, self.size - self.tell())
        return self.file.read(size)


def read_old(path: Path, map_location: Any = None) -> Any:
    """Read a file of pickles with the storages behind them.

    How long each storage is, the pickle tells where it refers to it. So it is read
    twice: first on the device meta, to find the storages.

    Raises:
        Refused: where it names code or is out of bounds, or is a plain pickle.
        Exception: of any type, where it is broken.
    """
    size = os.path.getsize(path)
    with path.open('rb') as file:
        pickles = cast(IO[bytes], _Bounded(file, size))  # all that unpickling needs
        start = _unpickle(pickles, size, check_reference)
        check(start == OLD_START[0], 'it is a plain pickle. Save it with `torch.save`')
        version = _unpickle(pickles, size, check_reference)
        check(version == OLD_START[1], 'it is of an unknown version')
        _unpickle(pickles, size, check_reference)  # of the machine
        start = file.tell()
        counts: dict[str, tuple[int, int]] = {}  # of numbers, of bytes in each

        def note(reference: Any) -> Storage:
            dtype, key, _, count = check_reference(reference)
            counts.setdefault(key, (count, dtype.itemsize))
            content = torch.UntypedStorage(count * dtype.itemsize, device='meta')
            return Storage(dtype, content)

        _unpickle(pickles, size, note)
        keys = _unpickle(pickles, size, check_reference)
        places = _places(file, size, keys, counts)

        def read(key: str) -> Tensor:
            place, length = places[key]
            content = torch.empty(length, dtype=torch.uint8)
            behind = file.tell()
            file.seek(place)
            file.readinto(content.numpy().data)
            file.seek(behind)
            return content

        file.seek(start)
        return _unpickle(pickles, size, _Storages(read, map_location))


def _places(
    file: IO[bytes], size: int, keys: list[str], counts: dict[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """Return where storages begin that stand one after another, and their lengths."""
    places = {}
    for key in keys:
        count, item_size = counts[key]
        (said,) = struct.unpack('<q', file.read(8))
        places[key] = file.tell(), count * item_size
        end = file.seek(count * item_size, os.SEEK_CUR)
        check(said == count and end <= size, 'a storage in it is of another length')
    return places
