"""Pickles, taken apart into instructions, changed and put together."""

import io
import pickletools
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Chance = random.Random

NUMBERS = (0, 1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, 2**64)
"""That sizes, places and counts are changed to."""


def text(value: str) -> bytes:
    return b'X' + struct.pack('<I', len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    length = value.bit_length() // 8 + 1
    return b'\x8a' + bytes([length]) + value.to_bytes(length, 'little', signed=True)


def name(path: str) -> bytes:
    module, _, last = path.rpartition('.')
    return f'c{module}\n{last}\n'.encode()


COMMAND = 'touch executed'
EVIL = (
    *('os.system', 'posix.system', 'builtins.eval', 'builtins.exec', 'os.remove'),
    *('subprocess.getoutput', 'builtins.__import__', 'importlib.import_module'),
    *('torch.load', 'torch.hub.load', 'numpy.load', 'pickle.loads', 'runpy.run_path'),
    *('builtins.open', 'shutil.rmtree', 'builtins.getattr', 'operator.attrgetter'),
    *('torch.storage._load_from_bytes', 'torch._utils._rebuild_parameter'),
    *('torch._tensor._rebuild_from_type_v2', 'mmengine.config.Config.fromfile'),
)
LETHAL = (
    lambda evil: name(evil) + text(COMMAND) + b'\x85R0',
    lambda evil: name(evil) + b'(' + text(COMMAND) + b'tR0',
    lambda evil: (
        b''.join(map(text, evil.rsplit('.', 1))) + b'\x93' + text(COMMAND) + b'\x85R0'
    ),
    lambda evil: b'(' + text(COMMAND) + b'i' + '\n'.join(evil.rsplit('.', 1)).encode()
    + b'\n0',
    lambda evil: b'(' + name(evil) + text(COMMAND) + b'o0',
    lambda evil: name(evil) + text(COMMAND) + b'\x85\x810',
    lambda evil: name(evil) + text(COMMAND) + b'\x85}\x920',
    lambda evil: (
        name('torch._tensor._rebuild_from_type_v2')
        + b'(' + name(evil) + name('torch.Tensor') + text(COMMAND) + b'\x85NtR0'
    ),
    lambda evil: (
        name('collections.OrderedDict') + b')R}' + text('__setstate__') + name(evil)
        + b'sb' + text(COMMAND) + b'b0'
    ),
    lambda evil: (
        name('mmengine.logging.history_buffer.HistoryBuffer') + b')\x81}'
        + text('statistics_methods') + name(evil) + b'sb0'
    ),
    lambda evil: name(evil) + b'0',
    lambda evil: b'\x82\x01' + text(COMMAND) + b'\x85R0',
    lambda evil: b'(' + text('module') + name(evil) + b'NNtQ0',
)  # fmt: skip
"""What runs a command, or would if it were believed; nothing stays on the stack."""

ODD_STATES = (
    b'N', number(3), b')', b']', b'}', text('x'), b'(NNt', b'}K\1K\2s',
    b'}' + text('__class__') + name('builtins.dict') + b's',
    b'}' + text('__dict__') + b'}s',
    b'}' + text('items') + text('x') + b's',
    b'}' + text('_metadata') + number(5) + b's',
    b'}' + text('data') + b'Ns',
    b'(N}' + text('__class__') + name('builtins.dict') + b'st',
)  # fmt: skip


@dataclass
class Step:
    """An instruction of a pickle, and its bytes."""

    name: str
    value: Any
    content: bytes


def steps_of(content: bytes) -> tuple[list[Step], int]:
    """Return the instructions of the first pickle in ``content``, and its end."""
    file = io.BytesIO(content)
    found = [(op.name, value, place) for op, value, place in pickletools.genops(file)]
    places = [place for *_, place in found] + [file.tell()]
    steps = [
        Step(op, value, content[place:behind])
        for (op, value, place), behind in zip(found, places[1:], strict=True)
    ]
    # What a frame holds may change in length: it is left out.
    return [step for step in steps if step.name != 'FRAME'], file.tell()


def reworded(content: bytes, chance: Chance) -> bytes:
    """Change what a pickle says, an instruction or some."""
    steps, _ = steps_of(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        if len(steps) > 2:
            chance.choice(REWORDINGS)(steps, chance)
    return b''.join(step.content for step in steps)


def _add(steps: list[Step], place: int, content: bytes):
    steps.insert(place, Step('', None, content))


def run_a_command(steps: list[Step], chance: Chance):
    place = chance.randrange(1, len(steps))
    _add(steps, place, chance.choice(LETHAL)(chance.choice(EVIL)))


def set_another_state(steps: list[Step], chance: Chance):
    places = [i for i, step in enumerate(steps) if step.name == 'BUILD']
    state = chance.choice(ODD_STATES)
    if places and chance.random() < 0.5:
        _add(steps, chance.choice(places), b'0' + state)
    else:
        _add(steps, chance.randrange(1, len(steps)), state + b'b')


def change_a_number(steps: list[Step], chance: Chance):
    """A shape, a stride, a place, a count, or what is only told."""
    places = [i for i, step in enumerate(steps) if type(step.value) is int]
    places = [i for i in places if steps[i].name.startswith(('BININT', 'LONG'))]
    if places:
        step = steps[chance.choice([i for i in places if 'PUT' not in steps[i].name])]
        near = (step.value + 1, step.value - 1, step.value * 2, -step.value)
        step.content = number(chance.choice((*near, *NUMBERS, -1)))


def change_a_name(steps: list[Step], chance: Chance):
    places = [i for i, step in enumerate(steps) if step.name == 'GLOBAL']
    if not places:
        return
    step = steps[chance.choice(places)]
    known = [steps[i].value.replace(' ', '.') for i in places]
    kinds = [f'torch.{kind}Storage' for kind in ('Double', 'Half', 'Bool', 'QInt8')]
    step.content = name(chance.choice((*EVIL, *known, *known, *kinds)))


def change_a_text(steps: list[Step], chance: Chance):
    places = [i for i, step in enumerate(steps) if type(step.value) is str]
    places = [i for i in places if 'UNICODE' in steps[i].name]
    if places:
        known = [steps[i].value for i in places]
        odd = ('', '../../x', '0', 'cuda:0', 'meta', 'O8', 'storage', 'module', '\0')
        steps[chance.choice(places)].content = text(chance.choice((*odd, *known)))


def leave_out_a_step(steps: list[Step], chance: Chance):
    del steps[chance.randrange(1, len(steps))]


def repeat_a_step(steps: list[Step], chance: Chance):
    place = chance.randrange(1, len(steps))
    steps.insert(place, steps[place])


def exchange_steps(steps: list[Step], chance: Chance):
    one, two = (chance.randrange(1, len(steps)) for _ in range(2))
    steps[one], steps[two] = steps[two], steps[one]


def move_a_step(steps: list[Step], chance: Chance):
    step = steps.pop(chance.randrange(1, len(steps)))
    steps.insert(chance.randrange(1, len(steps)), step)


REWORDINGS: tuple[Callable[[list[Step], Chance], None], ...] = (
    run_a_command,
    set_another_state,
    change_a_number,
    change_a_number,
    change_a_name,
    change_a_text,
    leave_out_a_step,
    repeat_a_step,
    exchange_steps,
    move_a_step,
)
