"""NumPy's arrays and MMEngine's logs, of which a file says nothing unchecked.

NumPy's own functions trust what they are given: with them a file may read beyond the
end of a buffer, or have its bytes taken for pointers.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal, cast

import numpy as np
from mmengine.logging import HistoryBuffer

from mmrecnext.checkpoint.pickles import MAX_DIMS, NO_BOOL, Pending, are_counts, check

MAX_ITEM_SIZE = 2**20
LAST_CHARACTER = 0x10FFFF
DTYPE = re.compile(r'b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[SU][1-9]\d{0,6}')
"""NumPy's names of plain types; those of objects, records and dates are none."""
NO_LOG = 'a log of training in it is none'


def dtype(code: str, *_) -> Pending:
    """Stand for ``numpy.dtype``, which is told its byte order afterwards."""
    known = type(code) is str and DTYPE.fullmatch(code)
    check(bool(known), f'an array in it is of the type {str(code)[:20]!r}')
    kind = np.dtype(code)
    check(kind.itemsize <= MAX_ITEM_SIZE, 'a text in an array is too long')

    def finish(state: tuple) -> np.dtype:
        plain = type(state) is tuple and state[2:5] == (None, None, None)
        plain = plain and state[5] in (-1, kind.itemsize)
        order: Any = state[1] if plain else None
        check(order in ('<', '>', '|', '='), 'an array in it is of no plain type')
        return kind if order in '|=' else kind.newbyteorder(order)

    return Pending(finish)


def array(*_) -> Pending:
    """Stand for ``numpy.core.multiarray._reconstruct``."""

    def finish(state: tuple) -> np.ndarray:
        _version, shape, dtype, by_columns, content = state
        return array_of(content, dtype, shape, 'F' if by_columns else 'C')

    return Pending(finish)


def array_of(
    content: Any, dtype: Any, shape: Any, order: Literal['C', 'F'] = 'C', *_: Any
) -> np.ndarray:
    """Stand for ``numpy.core.numeric._frombuffer``."""
    if type(content) is str:  # of Python 2
        content = content.encode('latin1')
    check(type(content) in (bytes, bytearray), 'an array in it has no numbers')
    check(isinstance(dtype, np.dtype), 'an array in it has no type')
    check(type(shape) is tuple and are_counts(*shape), 'an array in it has no shape')
    check(order in ('C', 'F'), 'an array in it has no order')
    check(
        len(shape) <= MAX_DIMS and math.prod(shape) * dtype.itemsize == len(content),
        f'an array of shape {list(shape)} has {len(content)} bytes in it',
    )
    array = np.frombuffer(content, dtype).reshape(shape, order=order).copy(order='K')
    if dtype.kind == 'b':
        check(not (array.view(np.uint8) > 1).any(), NO_BOOL)
    if dtype.kind == 'U':
        numbers = np.frombuffer(content, np.dtype('u4').newbyteorder(dtype.byteorder))
        check(not (numbers > LAST_CHARACTER).any(), 'a text in an array is none')
    return array


def scalar(dtype: Any, content: Any = b'') -> np.generic:
    """Stand for ``numpy.core.multiarray.scalar``."""
    return cast(np.generic, array_of(content, dtype, ())[()])


def history(*args) -> Pending:
    """Stand for MMEngine's ``HistoryBuffer``, whose methods a file could set."""
    check(not args, NO_LOG)

    def finish(state: dict) -> HistoryBuffer:
        names = '_log_history', '_count_history', 'max_length'
        check(type(state) is dict and state.keys() >= set(names), NO_LOG)
        values, counts, longest = (state[name] for name in names)
        for each in (values, counts):
            plain = isinstance(each, np.ndarray) and each.ndim == 1
            check(plain and each.dtype.kind in 'biuf', NO_LOG)
        fits = len(values) == len(counts) and are_counts(longest) and longest
        check(bool(fits), NO_LOG)
        history = HistoryBuffer()
        history.__setstate__(
            dict(_log_history=values, _count_history=counts, max_length=longest)
        )
        return history

    return Pending(finish)
