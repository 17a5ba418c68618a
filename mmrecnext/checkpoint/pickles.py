"""Read a pickle as plain data: nothing that it names is imported, let alone called.

A pickle is a program for a machine with a stack. Some of its instructions name Python
objects, call them and set their state, and that is how one runs code. In the machine
here a name stays a :class:`Name`, which cannot be called. What a file calls is looked
up, by that name, in a closed table of functions that check what they are given
(:mod:`mmrecnext.checkpoint.rebuild`), and so is what has its state set.

The work is bounded too: how many instructions there are, and how many bytes are made
of those in the file. What comes of it, :mod:`mmrecnext.checkpoint.structure` bounds.
"""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pickletools import genops, opcodes
from typing import IO, Any

import numpy as np

MAX_STEPS = 1_000_000
"""Instructions in a pickle; a tensor takes about 45."""

LITERALS = {
    *('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4'),
    *('FLOAT', 'BINFLOAT', 'STRING', 'BINSTRING', 'SHORT_BINSTRING'),
    *('UNICODE', 'SHORT_BINUNICODE', 'BINUNICODE', 'BINUNICODE8'),
    *('SHORT_BINBYTES', 'BINBYTES', 'BINBYTES8', 'BYTEARRAY8'),
}
"""Instructions that push the value which stands behind them."""

CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}
NO_STEPS = {'PROTO', 'FRAME', 'STOP'}

NO_BOOL = 'a boolean in it is neither true nor false'
MAX_DIMS = 32
POINTER = 8
"""Bytes that a value in a container takes there."""

MAPPINGS = (dict, OrderedDict, Counter)
KEYS = (type(None), bool, int, float, str, bytes)


class Refused(pickle.UnpicklingError):
    """What a file holds is not read, although the file may be whole."""


class NamesCode(Refused):
    """A file calls something that is not in the table of functions."""


@dataclass(frozen=True)
class Name:
    """What a pickle refers to by module and name."""

    path: str


@dataclass(eq=False)
class Pending:
    """What can be made only of its state, which comes later in the file.

    Attributes:
        finish: makes the value of the state.
        places: where the memo holds this.
    """

    finish: Callable[[Any], Any]
    places: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Meaning:
    """What the names and references in a pickle stand for.

    Attributes:
        constants: values, by name.
        find: returns the function to call for a name, None where there is none.
        set_state: takes an object that a function made, and the state of it.
        load_storage: takes what a file refers to outside of its pickle.
    """

    constants: Mapping[str, Any]
    find: Callable[[str], Callable | None]
    set_state: Callable[[Any, Any], None]
    load_storage: Callable[[Any], Any]


def unpickle(file: IO[bytes], meaning: Meaning, max_bytes: int) -> Any:
    """Read one pickle, and leave ``file`` behind it.

    Args:
        file: that the pickle begins in.
        meaning: of its names.
        max_bytes: how many bytes the functions may make.

    Raises:
        Refused: where it names code or is out of bounds.
        Exception: of any type, where it is broken.
    """
    return _Machine(meaning, max_bytes).run(file)


class _Machine:
    """Has a method for each instruction, named as it is in :mod:`pickletools`."""

    def __init__(self, meaning: Meaning, max_bytes: int):
        self.meaning = meaning
        self.bytes_left = max_bytes
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: IO[bytes]) -> Any:
        steps = {op.name: getattr(self, f'_{op.name}', None) for op in opcodes}
        for count, (opcode, value, _) in enumerate(genops(file)):
            name = opcode.name
            if name in LITERALS:
                self.stack.append(value)
            elif name in CONSTANTS:
                self.stack.append(CONSTANTS[name])
            elif step := steps[name]:
                step(value)
            elif name not in NO_STEPS:
                raise NamesCode(name)
            if count == MAX_STEPS:
                raise Refused(f'its pickle has more than {MAX_STEPS:,} instructions')
        return self.stack.pop()

    # What moves values about.

    def _MARK(self, _):
        self.marks.append(self.stack)
        self.stack = []

    def _pop_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.marks.pop()
        return values

    def _POP(self, _):
        if self.stack:
            self.stack.pop()
        else:
            self._pop_mark()

    def _POP_MARK(self, _):
        self._pop_mark()

    def _DUP(self, _):
        self.stack.append(self.stack[-1])

    def _PUT(self, place: int):
        value = self.stack[-1]
        if isinstance(value, Pending):
            value.places.append(place)
        self.memo[place] = value

    _BINPUT = _LONG_BINPUT = _PUT

    def _MEMOIZE(self, _):
        self._PUT(len(self.memo))

    def _GET(self, place: int):
        self.stack.append(self.memo[place])

    _BINGET = _LONG_BINGET = _GET

    # What builds containers.

    def _TUPLE(self, _):
        values = self._pop_mark()
        self.stack.append(tuple(values))

    def _TUPLE1(self, _):
        self.stack[-1:] = [(self.stack[-1],)]

    def _TUPLE2(self, _):
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def _TUPLE3(self, _):
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def _EMPTY_LIST(self, _):
        self.stack.append([])

    def _LIST(self, _):
        values = self._pop_mark()
        self.stack.append(values)

    def _APPEND(self, _):
        value = self.stack.pop()
        self._top(list).append(value)

    def _APPENDS(self, _):
        values = self._pop_mark()
        self._top(list).extend(values)

    def _EMPTY_DICT(self, _):
        self.stack.append({})

    def _DICT(self, _):
        items = self._pop_mark()
        self.stack.append({})
        self._set_items(items)

    def _SETITEM(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def _SETITEMS(self, _):
        self._set_items(self._pop_mark())

    def _set_items(self, items: list[Any]):
        target = self._top(*MAPPINGS)
        for key, value in zip(check_keys(items[::2]), items[1::2], strict=True):
            target[key] = value

    def _EMPTY_SET(self, _):
        self.stack.append(set())

    def _ADDITEMS(self, _):
        values = self._pop_mark()
        self._top(set).update(check_keys(values))

    def _FROZENSET(self, _):
        values = self._pop_mark()
        self.stack.append(frozenset(check_keys(values)))

    def _top(self, *kinds: type) -> Any:
        """Return the value on top, which must be of one of some types, exactly."""
        if type(self.stack[-1]) not in kinds:
            raise Refused(f'it adds items to a {type(self.stack[-1]).__name__}')
        return self.stack[-1]

    # What elsewhere imports and calls.

    def _GLOBAL(self, module_and_name: str):
        self._push_name(*module_and_name.split(' '))

    def _STACK_GLOBAL(self, _):
        name, module = self.stack.pop(), self.stack.pop()
        self._push_name(module, name)

    def _push_name(self, module: Any, name: Any):
        # Up to protocol 2, builtins go by the name that Python 2 has for them.
        path = f'{"builtins" if module == "__builtin__" else module}.{name}'
        self.stack.append(self.meaning.constants.get(path, Name(path)))

    def _INST(self, module_and_name: str):
        raise NamesCode(module_and_name.replace(' ', '.'))

    def _REDUCE(self, _):
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name):
            raise Refused(f'it calls a {type(function).__name__}')
        known = self.meaning.find(function.path)
        if known is None:
            raise NamesCode(function.path)
        self.stack.append(self._count(known(*args)))

    _NEWOBJ = _REDUCE

    def _BUILD(self, _):
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Pending):
            self.meaning.set_state(target, self._count(state))
            return
        value = self._count(target.finish(state))
        for place in target.places:
            self.memo[place] = value
        self.stack[-1] = value

    def _BINPERSID(self, _):
        self.stack.append(self.meaning.load_storage(self.stack.pop()))

    def _count(self, made: Any) -> Any:
        """Count the bytes that a function made; tensors are views of the file's."""
        if isinstance(made, np.ndarray):
            self.bytes_left -= made.nbytes
        elif isinstance(made, (bytes, bytearray)):
            self.bytes_left -= len(made)
        elif isinstance(made, (tuple, set, frozenset, dict)):
            self.bytes_left -= POINTER * len(made)
        if self.bytes_left < 0:
            raise Refused('it makes many times the bytes that it has')
        return made


def check_keys(keys: list[Any]) -> list[Any]:
    """Check that keys are such as take no time to look up.

    That of a tuple is the time for all that is inside of it; and numbers of many
    digits can be chosen such that a dict takes each for the last.
    """
    for key in keys:
        if type(key) not in KEYS:
            raise Refused(f'a {type(key).__name__} is a key in it')
        if type(key) is int and not -(2**63) <= key < 2**64:
            raise Refused('a number of many digits is a key in it')
    return keys


def check(condition: bool, what: str):
    """Refuse what does not hold.

    Raises:
        Refused: with ``what``.
    """
    if not condition:
        raise Refused(what)


def are_counts(*values: Any) -> bool:
    """Tell whether all values are integers from zero on."""
    return all(type(value) is int and value >= 0 for value in values)
