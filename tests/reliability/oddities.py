"""What is given in the place of a checkpoint, and small files that would be large."""

import io
import json
import os
import pickle
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmrecnext.checkpoint import read_checkpoint, read_file
from mmrecnext.errors import CheckpointError
from tests.reliability.guard import Outcome, watched
from tests.reliability.pickled import name, number, text

NUMBERS = 2**40
"""Of four bytes each: 4 TB."""

START = [pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {})]


def pickled(count: int = NUMBERS, stride: int = 1, told: int | None = None) -> bytes:
    """A tensor of so many numbers, of a storage of as many or those ``told``."""
    kind, told = name('torch.FloatStorage'), count if told is None else told
    storage = b'(' + text('storage') + kind + text('0') + text('cpu') + number(told)
    tensor = name('torch._utils._rebuild_tensor_v2') + b'(' + storage + b'tQK\0'
    tensor += number(count) + b'\x85' + number(stride) + b'\x85\x89'
    tensor += name('collections.OrderedDict') + b')RtR'
    return b'\x80\2}' + text('x') + tensor + b's.'


def zipped(path: Path, content: bytes, packing: int = 0, **records: bytes):
    with zipfile.ZipFile(path, 'w', packing) as archive:
        records = {'data.pkl': content, 'data/0': b'\2' * 16, **records}
        for record, part in records.items():
            archive.writestr(f'x/{record}', part)


def of_terabytes(path: Path):
    zipped(path, pickled())


def of_one_number_repeated(path: Path):
    zipped(path, pickled(stride=0, told=4))


def of_terabytes_before_1_6(path: Path):
    keys = b'\x80\2]' + text('0') + b'a.'
    numbers = struct.pack('<q', NUMBERS) + b'\2' * 16
    path.write_bytes(b''.join([*START, pickled(), keys, numbers]))


def of_terabytes_in_torchscript(path: Path):
    zipped(path, pickled(), **{'constants.pkl': b'\x80\2).'})


def of_terabytes_in_safetensors(path: Path):
    told = dict(dtype='F32', shape=[NUMBERS], data_offsets=[0, 4 * NUMBERS])
    header = json.dumps({'x': told}).encode()
    path.write_bytes(struct.pack('<Q', len(header)) + header + b'\2' * 16)


def header_of_terabytes(path: Path):
    path.write_bytes(struct.pack('<Q', NUMBERS) + b'{"x": {}}')


def zip_bomb(path: Path):
    """256 MB of zeros, in one."""
    count = 2**26
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr('x/data.pkl', pickled(count), zipfile.ZIP_STORED)
        with archive.open('x/data/0', 'w', force_zip64=True) as record:
            for _ in range(4 * count // 2**20):
                record.write(bytes(2**20))


def pickle_bomb(path: Path):
    """A pickle of 300 MB, in some hundred kilobytes."""
    content = b'\x80\2' + b'N0' * (150 * 2**20) + b'N.'
    zipped(path, content, zipfile.ZIP_DEFLATED)


def lists_in_lists(path: Path):
    """Forty lists, each of which holds the one before twice."""
    held = (
        b'0](h' + bytes([n, ord('h'), n]) + b'eq' + bytes([n + 1]) for n in range(40)
    )
    zipped(path, b'\x80\2]q\0' + b''.join(held) + b'.')


def records_by_the_million(path: Path):
    """A directory of 60,000 records, all of them the same bytes."""
    zipped(path, pickled(4))
    content = path.read_bytes()
    start, end = content.index(b'PK\1\2'), content.rindex(b'PK\5\6')
    entries = content[start:end] * 30_000
    told = struct.pack('<HHII', 60_000, 60_000, len(entries), start)
    path.write_bytes(
        content[:start] + entries + content[end : end + 8] + told + b'\0\0'
    )


def folder(path: Path):
    path.mkdir()


def fifo(path: Path):
    os.mkfifo(path)


def a_socket(path: Path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def device_without_end(path: Path):
    path.symlink_to('/dev/zero')


def link_to_itself(path: Path):
    path.symlink_to(path.name)


def nothing(path: Path):
    path.touch()


def npz(path: Path):
    with path.open('wb') as file:
        np.savez(file, x=np.ones(3))


def npy_of_objects(path: Path):
    with path.open('wb') as file:
        np.save(file, np.array([{}]), allow_pickle=True)


def a_plain_pickle(path: Path):
    path.write_bytes(pickle.dumps({'x': 1}))


def a_module(path: Path):
    torch.save(torch.nn.Linear(1, 1), path)


def a_picture(path: Path):
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + bytes(99))


def a_web_page(path: Path):
    path.write_text('<!DOCTYPE html><html><body>Not found</body></html>')


def zeros(path: Path):
    path.write_bytes(bytes(100_000))


def zip_of_nothing(path: Path):
    zipfile.ZipFile(path, 'w').close()


def tar(path: Path):
    """As PyTorch saved before 0.1.10."""
    with tarfile.open(path, 'w') as archive:
        record = tarfile.TarInfo('storages')
        record.size = 16
        archive.addfile(record, io.BytesIO(bytes(16)))


ODDITIES: tuple[Callable[[Path], None], ...] = (
    *(of_terabytes, of_one_number_repeated, of_terabytes_before_1_6),
    *(of_terabytes_in_torchscript, of_terabytes_in_safetensors, header_of_terabytes),
    *(zip_bomb, pickle_bomb, lists_in_lists, records_by_the_million),
    *(folder, fifo, a_socket, device_without_end, link_to_itself, nothing),
    *(npz, npy_of_objects, a_plain_pickle, a_module, a_picture, a_web_page, zeros),
    *(zip_of_nothing, tar),
)


def read_oddities(place: Path, **limits: float) -> list[Outcome]:
    """Read each in two ways, by either suffix; all are to be refused."""
    items = []
    for make in ODDITIES:
        for suffix in ('.pth', '.safetensors'):
            path = place / f'{make.__name__}{suffix}'
            make(path)
            items += [(path.name, read) for read in (read_file, read_checkpoint)]

    def act(item: tuple[str, Callable]) -> Any:
        return item[1](place / item[0])

    def judge(item: tuple[str, Callable], result: Any) -> str:
        if isinstance(result, CheckpointError):
            return (
                'refused' if len(str(result).splitlines()) == 1 else 'traceback: lines'
            )
        kind = type(result).__name__
        return (
            f'traceback: {kind}'
            if isinstance(result, Exception)
            else 'accepted wrongly'
        )

    return [*watched(act, judge, items, **limits)]
