"""Bound what was read: whoever prints, copies or walks through it then comes to an end.

Of forty lists, each of which holds the one before twice, a file takes 300 bytes, but
whoever walks through them sees a million million. So what is shared counts each time.
"""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from mmrecnext.checkpoint.pickles import KEYS, MAPPINGS, Name, Refused

MAX_DEPTH = 100
MAX_SIZE = 1_000_000

TEXT = 64
"""Letters that count as one value more."""

TEXTS = (str, bytes, bytearray)
SEQUENCES = (list, tuple, set, frozenset, torch.Size)
LEAVES = (
    *(*KEYS, complex, bytearray, Tensor, torch.nn.Parameter),
    *(torch.dtype, torch.device, np.ndarray, HistoryBuffer),
)


class Module:
    """A module of a TorchScript archive: its content by name."""

    def __init__(self):
        self.content: dict[str, Any] = {}


def check_structure(root: Any):
    """Check that what was read is plain, of no great size, and holds no circle.

    Raises:
        Refused: where it is not so.
    """
    known: dict[int, tuple[int, int]] = {}  # depth and size
    entered: set[int] = set()
    ahead = [root]
    while ahead:
        value = ahead[-1]
        parts = [part for part in _parts(value) if not _is_leaf(part)]
        waiting = [part for part in parts if id(part) not in known]
        if id(value) in known:
            ahead.pop()
        elif not waiting:
            known[id(value)] = _depth_and_size(value, [known[id(p)] for p in parts])
        elif id(value) in entered:
            raise Refused('it holds something that contains itself')
        else:
            entered.add(id(value))
            ahead.extend(waiting)


def _depth_and_size(value: Any, parts: list[tuple[int, int]]) -> tuple[int, int]:
    depth = 1 + max((depth for depth, _ in parts), default=0)
    own = sum(len(each) // TEXT for each in _parts(value) if type(each) in TEXTS)
    size = len(_parts(value)) + own + sum(size for _, size in parts)
    if depth > MAX_DEPTH or size > MAX_SIZE:
        raise Refused(
            f'what it holds is nested more than {MAX_DEPTH} deep, or repeated to more '
            f'than {MAX_SIZE:,} values'
        )
    return depth, size


def _is_leaf(value: Any) -> bool:
    return type(value) in LEAVES or isinstance(value, np.generic)


def _parts(value: Any) -> Sequence[Any]:
    if type(value) in SEQUENCES:
        return value if type(value) in (list, tuple) else list(value)
    if type(value) in MAPPINGS:
        metadata = (
            vars(value).get('_metadata', ()) if type(value) is OrderedDict else ()
        )
        return [metadata, *value.values()]
    if type(value) is Namespace:
        return list(vars(value).values())
    if type(value) is Module:
        return list(value.content.values())
    if _is_leaf(value):
        return ()
    name = value.path if type(value) is Name else type(value).__name__
    raise Refused(f'it holds {name}, which is neither a tensor nor plain data')
