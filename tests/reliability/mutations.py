"""Spoil checkpoints of every form by chance, and see what reading makes of them.

``python -m tests.reliability.mutations --number 2000`` prints a table. A spoilt file is
refused in a line, or read as what it says: where checksums tell of all of it, and the
change was none that they are made of anew, that is what was saved. Elsewhere a second
reader says what it is, which shares nothing with the first.
"""

import argparse

from mmrecnext_autoload.arguments import begin, command_line


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(
        __doc__.partition('\n')[0],
        'python -m tests.reliability.mutations --number 2000',
    )
    parser.add_argument('--number', type=int, default=2000)
    parser.add_argument('--start', type=int, default=0, help='the first seed')
    return parser.parse_args()


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

import io
import os
import re
import struct
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mmrecnext.checkpoint import load_network, read_checkpoint
from mmrecnext.cli import run
from mmrecnext.engine.terminal import counted
from mmrecnext.errors import CheckpointError
from tests.reliability.forms import FORMS, network
from tests.reliability.guard import MEMORY, Outcome, watched
from tests.reliability.oddities import read_oddities
from tests.reliability.pickled import NUMBERS, Chance, reworded, steps_of
from tests.reliability.reference import difference

# What a file may be spoilt by, whatever it is.


def flip(content: bytearray, place: int, chance: Chance):
    content[place] ^= 1 << chance.randrange(8)


def blank(content: bytearray, place: int, chance: Chance):
    part = content[place : place + chance.choice((1, 8, 512, 4096))]
    content[place : place + len(part)] = bytes(len(part))


def cut(content: bytearray, place: int, chance: Chance):
    del content[place:]


def leave_out(content: bytearray, place: int, chance: Chance):
    del content[place : place + chance.choice((1, 8, 512, 4096))]


def repeat(content: bytearray, place: int, chance: Chance):
    length = chance.choice((1, 8, 512, 4096))
    content[place:place] = content[place : place + length]


def exchange(content: bytearray, place: int, chance: Chance):
    length, other = chance.choice((1, 8, 512)), chance.randrange(len(content))
    length = min(length, abs(place - other), len(content) - max(place, other))
    one, two = slice(place, place + length), slice(other, other + length)
    content[one], content[two] = content[two], content[one]


def miscount(content: bytearray, place: int, chance: Chance):
    """Put another number where one may stand, of 1 to 8 bytes."""
    length = chance.choice((1, 2, 4, 8))
    number = (chance.choice(NUMBERS) + chance.randint(-1, 1)) % 256**length
    part = number.to_bytes(length, chance.choice(('little', 'little', 'big')))
    content[place : place + length] = part


DAMAGE = (flip, flip, blank, cut, leave_out, repeat, exchange, miscount)


def damage(content: bytes, chance: Chance, structure: list[range]) -> bytes:
    """Spoil bytes anywhere, more often where those stand that tell of the others."""
    spoilt = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        whole = [range(len(spoilt))]
        part = chance.choice(structure if chance.random() < 0.7 else whole)
        if spoilt:
            place = min(chance.choice(part), len(spoilt) - 1)
            chance.choice(DAMAGE)(spoilt, place, chance)
    return bytes(spoilt)


# What the directory of a zip may say that is not so.

FIELDS = {
    **dict(version=(4, 2), flags=(8, 2), method=(10, 2), checksum=(16, 4)),
    **dict(packed=(20, 4), size=(24, 4), name_length=(28, 2), extra_length=(30, 2)),
    **dict(comment_length=(32, 2), disk=(34, 2), place=(42, 4)),
}
"""Where an entry has them, and of how many bytes."""

ENTRY, HEADER, END = b'PK\1\2', b'PK\3\4', b'PK\5\6'


def entries_of(content: bytes) -> list[slice]:
    """Return where the entries of the directory of a zip stand."""
    start = content.rindex(END)
    (place,) = struct.unpack('<I', content[start + 16 : start + 20])
    found = []
    while content[place : place + 4] == ENTRY:
        lengths = struct.unpack('<3H', content[place + 28 : place + 34])
        found.append(slice(place, place + 46 + sum(lengths)))
        place = found[-1].stop
    return found


def misfiled(content: bytes, chance: Chance) -> bytes:
    """Have the directory of a zip say other things of its records."""
    entries = entries_of(content)
    spoilt = bytearray(content)
    one, two = chance.sample(entries, 2)

    def field(entry: slice, name: str) -> slice:
        place, length = FIELDS[name]
        return slice(entry.start + place, entry.start + place + length)

    def name_of(entry: slice) -> bytes:
        (length,) = struct.unpack('<H', content[field(entry, 'name_length')])
        return content[entry.start + 46 : entry.start + 46 + length]

    way = chance.randrange(6)
    if way == 0:  # another number
        part = field(one, chance.choice([*FIELDS]))
        length = part.stop - part.start
        number = chance.choice((*NUMBERS, chance.randrange(len(content))))
        spoilt[part] = (number % 256**length).to_bytes(length, 'little')
    elif way == 1:  # that of another record
        for name in chance.sample([*FIELDS], chance.randint(1, 5)):
            spoilt[field(one, name)] = content[field(two, name)]
    elif way == 2:  # the names of two records, the one for the other
        alike = [e for e in entries if len(name_of(e)) == len(name_of(one))]
        two = chance.choice(alike)
        for entry, other in ((one, two), (two, one)):
            start = entry.start + 46
            spoilt[start : start + len(name_of(one))] = name_of(other)
    elif way == 3:  # all but the names
        for name in ('checksum', 'packed', 'size', 'place'):
            for entry, other in ((one, two), (two, one)):
                spoilt[field(entry, name)] = content[field(other, name)]
    elif way == 4:  # an entry less
        del spoilt[one]
    else:  # an entry more, of a record that there is
        spoilt[one.stop : one.stop] = content[two]
    if way >= 4:
        _recount(spoilt, len(spoilt) - len(content), chance)
    return bytes(spoilt)


def _recount(spoilt: bytearray, growth: int, chance: Chance):
    """Have the end of a zip count the entries that there are now, as a rule."""
    end = spoilt.rindex(END)
    count, again, size = struct.unpack('<HHI', spoilt[end + 8 : end + 16])
    more = (growth > 0) - (growth < 0) if chance.random() < 0.8 else 0
    told = struct.pack('<HHI', count + more, again + more, size + growth)
    spoilt[end + 8 : end + 16] = told


# What it may say, with checksums that are right.


def reworded_zip(content: bytes, chance: Chance) -> bytes:
    """Change the pickle in a zip, or its records, and write it anew."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {n: archive.read(n) for n in archive.namelist()}
    pickled = next(n for n in records if n.endswith('/data.pkl'))
    packing = zipfile.ZIP_STORED
    way = chance.randrange(8)
    one, two = chance.sample([*records], 2)
    if way == 0:
        del records[one]
    elif way == 1:
        records[one], records[two] = records[two], records[one]
    elif way == 2:
        records[one] = damage(records[one], chance, [range(len(records[one]) + 1)])
    elif way == 3:
        packing = chance.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    else:
        records[pickled] = reworded(records[pickled], chance)
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', packing) as archive:
        for record, part in records.items():
            archive.writestr(record, part)
    return file.getvalue()


def reworded_old(content: bytes, chance: Chance) -> bytes:
    """Change one of the pickles at the beginning, mostly the one of the weights."""
    pickles, rest = [], content
    for _ in range(5):
        _, end = steps_of(rest)
        pickles.append(rest[:end])
        rest = rest[end:]
    place = chance.choice((0, 1, 2, 3, 3, 3, 3, 3, 3, 4))
    pickles[place] = reworded(pickles[place], chance)
    return b''.join(pickles) + rest


def reworded_header(content: bytes, chance: Chance) -> bytes:
    """Change a word, a number or a sign in the header of safetensors."""
    (length,) = struct.unpack('<Q', content[:8])
    header = content[8 : 8 + length].decode()
    parts = re.findall(r'"[^"]*"|\d+|.', header)
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(len(parts))
        odd = ('', '0', '1', '-1', '1e3', '1.5', 'null', '[]', '{}', '"F64"', '"BOOL"')
        odd = (*odd, *map(str, NUMBERS), chance.choice(parts), chance.choice(parts))
        parts[place] = chance.choice(odd)
    told = ''.join(parts).encode()
    length = len(told) if chance.random() < 0.8 else chance.choice(NUMBERS) % 2**64
    return struct.pack('<Q', length) + told + content[8 + len(header) :]


def structure_of(content: bytes, form: str) -> list[range]:
    """Return where those bytes stand that tell of the others."""
    if content.startswith(HEADER):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            record = next(r for r in archive.infolist() if r.filename.endswith('.pkl'))
        start = record.header_offset
        pickled = range(start, start + 120 + record.file_size)
        return [pickled, range(entries_of(content)[0].start, len(content))]
    if form == 'safetensors':
        return [range(8 + struct.unpack('<Q', content[:8])[0])]
    end = 0
    for _ in range(5):
        end += steps_of(content[end:])[1]
    return [range(end), range(end + 16)]


@dataclass(frozen=True)
class Mutant:
    """A spoilt checkpoint.

    Attributes:
        form: of what it was.
        seed: of chance.
    """

    form: str
    seed: int

    def make(self) -> tuple[bytes, str]:
        """Return the bytes of the file, and what it was spoilt by."""
        content = saved(self.form)[0]
        chance = Chance(f'{self.form} {self.seed}')
        zipped = content.startswith(HEADER)
        if chance.random() < 0.4:
            return damage(content, chance, structure_of(content, self.form)), 'damage'
        if zipped and chance.random() < 0.4:
            return misfiled(content, chance), 'directory'
        if zipped:
            return reworded_zip(content, chance), 'said'
        if self.form == 'safetensors':
            return reworded_header(content, chance), 'said'
        return reworded_old(content, chance), 'said'


@cache
def saved(form: str) -> tuple[bytes, Any]:
    """Return a whole file of a form, and what reading it gives."""
    kind = FORMS[form]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f'x{kind.suffix}')
        kind.save(path, kind.content())
        found = kind.read(path)
        told = difference(read_checkpoint(path, 'cpu'), found)
        assert told is None, f'{form}: {told}'
        return path.read_bytes(), found


def judged(form: str, way: str, path: Path, result: Any) -> str:
    """Say what is to be thought of what reading a spoilt file has given."""
    if isinstance(result, CheckpointError):
        return 'refused' if len(str(result).splitlines()) == 1 else 'traceback: lines'
    if isinstance(result, BaseException):
        return f'traceback: {type(result).__name__}: {str(result)[:100]}'
    expected, kind = saved(form)[1], FORMS[form]
    if difference(result, expected) is None:
        return 'as saved'
    if kind.has_checksums and way != 'said':
        return f'accepted wrongly: {difference(result, expected)}'
    try:
        expected = kind.read(path)
    except Exception as error:
        return f'accepted wrongly: {type(error).__name__} by the reference'
    told = difference(result, expected)
    return f'accepted wrongly: {told}' if told else 'as it says'


def read_and_load(path: Path) -> Any:
    """Read a file, and load it into a network, which may refuse it."""
    found = read_checkpoint(path, 'cpu')
    with suppress(CheckpointError):
        load_network(network(), str(path))
    return found


def spoil(
    number: int,
    forms: tuple[str, ...] = tuple(FORMS),
    start: int = 0,
    read: Callable[[Path], Any] = read_and_load,
    each: Callable[[], object] = lambda: None,
    **limits: float,
) -> list[Outcome]:
    """Read so many mutants, of each form as many, in processes that are watched."""
    mutants = [Mutant(forms[i % len(forms)], start + i) for i in range(number)]
    for form in forms:
        saved(form)
    for encoding in ('cp437', 'unicode_escape'):  # of names in zips, of what is told
        ''.encode(encoding)  # has Python import it
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f'{folder}/here')
        ways = {}

        def path_of(mutant: Mutant) -> Path:
            suffix = FORMS[mutant.form].suffix
            return Path(folder, f'{mutant.seed}{suffix}')

        for mutant in mutants:
            content, ways[mutant] = mutant.make()
            path_of(mutant).write_bytes(content)
        torch.set_num_threads(1)
        with suppress(Exception):
            read_and_load(path_of(mutants[0]))  # imports what it takes

        def judge(mutant: Mutant, result: Any) -> str:
            told = judged(mutant.form, ways[mutant], path_of(mutant), result)
            return 'EXECUTED' if os.path.exists('executed') else told

        here = os.getcwd()
        os.chdir(f'{folder}/here')
        try:
            outcomes = []
            for outcome in watched(
                lambda m: read(path_of(m)), judge, mutants, **limits
            ):
                outcomes.append(outcome)
                each()
        finally:
            os.chdir(here)
    return outcomes


FAULTS = ('accepted wrongly', 'executed', 'traceback', 'hangs', 'dies', 'memory')


def fault_of(outcome: Outcome, memory: int = MEMORY) -> str | None:
    """Name what may not become of a spoilt checkpoint."""
    if outcome.executed:
        return 'executed'
    if outcome.grown > memory:
        return 'memory'
    told = outcome.verdict.lower()
    return next((fault for fault in FAULTS if told.startswith(fault)), None)


def main(args: argparse.Namespace):
    with counted('reading', args.number, 'checkpoints') as advance:
        outcomes = spoil(args.number, start=args.start, each=advance)
    columns = ('refused', 'as saved', 'as it says', *FAULTS)
    print(f'| form | mutants | {" | ".join(columns)} |\n|{"---|" * (len(columns) + 2)}')
    for form in (*FORMS, 'all'):
        own = [o for o in outcomes if form in (o.item.form, 'all')]
        counts = Counter(fault_of(o) or o.verdict for o in own)
        cells = ' | '.join(str(counts[column]) for column in columns)
        print(f'| {form} | {len(own)} | {cells} |')
    with tempfile.TemporaryDirectory() as folder:
        odd = read_oddities(Path(folder))
    counts = Counter(fault_of(o) or o.verdict for o in odd)
    cells = ' | '.join(str(counts[column]) for column in columns)
    print(f'| no checkpoints | {len(odd)} | {cells} |')
    outcomes += odd
    slowest = max(outcomes, key=lambda o: o.seconds)
    largest = max(outcomes, key=lambda o: o.peak)
    print(f'longest: {slowest.seconds:.2f} s; most memory: {largest.peak >> 20} MB')
    bad = [o for o in outcomes if fault_of(o)]
    for outcome in bad[:40]:
        print(outcome.item, outcome.verdict, *outcome.executed[:2])
    sys.exit(bool(bad))


if __name__ == '__main__':
    run(main, args)
