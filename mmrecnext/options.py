"""What values an option may have; an error tells the choices and what was given."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from numbers import Integral, Real
from typing import Any

from mmrecnext.errors import OptionError


def check_option(name: str, value: Any, valid: bool, choices: str):
    """Raise an :class:`OptionError` unless the value is ``valid``."""
    if not valid:
        raise OptionError(f'{name} is {choices}, got {value!r}')


def check_flag(name: str, value: Any):
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
