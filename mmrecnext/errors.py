"""The errors that users meet, checks of what they give, and the nearest valid choice.

The tools tell these errors in a line, with no traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from math import isfinite
from numbers import Integral, Real
from typing import Any


class UserError(Exception):
    """Base of the errors whose message says what is wrong and what to do."""


class OptionError(UserError, ValueError):
    """An option of unknown name or impossible value; names the valid choices."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that is missing, broken, unsafe, or not of the model at hand."""


class ConfigError(UserError, ValueError):
    """A config, or data it names, that cannot be used."""


class ExportError(UserError, RuntimeError):
    """A network that cannot leave PyTorch, or whose file gives other results."""


class DataError(ConfigError):
    """Pictures, label maps or annotations that cannot be used."""

    def __init__(self, message: str):
        # PyTorch tells an error of a worker process by its whole traceback.
        super().__init__(message.rpartition(f'{type(self).__name__}: ')[2].strip())


def printable(text: str) -> str:
    """Return a text in one line, its control characters escaped.

    Names of files and keys of foreign checkpoints may hold what moves the cursor.
    """
    return ''.join(
        c if c.isprintable() else c.encode('unicode_escape').decode()
        for c in text.strip()
    )


def did_you_mean(name: Any, choices: Iterable[Any], cutoff: float = 0.6) -> str:
    """Ask whether one of the choices was meant; empty where none is near ``name``."""
    near = closest(name, choices, cutoff)
    return f'did you mean {" or ".join(near)}?' if near else ''


def closest(name: Any, choices: Iterable[Any], cutoff: float = 0.6) -> list[str]:
    """Return up to three choices that ``name`` may be a slip of, the nearest first."""
    return difflib.get_close_matches(str(name), map(str, choices), cutoff=cutoff)


def brief(names: Iterable[Any], count: int = 3) -> str:
    """List the first of many names, and tell how many more there are."""
    names = [*map(str, names)]
    more = len(names) - count
    return ', '.join(names[:count]) + (f' and {more} more' if more > 0 else '')


def check_option(name: str, value: Any, valid: bool, choices: str) -> None:
    """Raise an :class:`OptionError` unless the value is ``valid``."""
    if not valid:
        raise OptionError(f'{name} is {choices}, got {value!r}')


def check_flag(name: str, value: Any) -> None:
    """Check an option that is on or off."""
    check_option(name, value, isinstance(value, bool), 'True or False')


def is_integer(value: Any, least: int | None = None, most: int | None = None) -> bool:
    """Tell whether a value is a whole number, no flag, from ``least`` to ``most``."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    return (
        is_whole
        and (least is None or value >= least)
        and (most is None or value <= most)
    )


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number, no flag."""
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def is_settings(value: Any) -> bool:
    """Tell whether a value is a dict of settings by name."""
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
