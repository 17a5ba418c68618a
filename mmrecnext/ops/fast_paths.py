"""Whether layers may be computed together, rather than called one by one.

What follows a convolution can be done in the same pass, and the backward pass can
compute again what is cheap: the layers themselves are then not called. Where somebody
has attached a hook to one of them, they are, as without any fast path.

``MMRECNEXT_FAST_PATHS=0`` in the environment turns all fast paths off, and
:func:`off` does so for a while.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import nn

from mmrecnext.compat import has_hooks
from mmrecnext.ops.tracing import is_traced

SWITCH = 'MMRECNEXT_FAST_PATHS'
_on = os.environ.get(SWITCH) != '0'


def are_on() -> bool:
    """Tell whether fast paths are taken at all: not where a graph is recorded."""
    return _on and not is_traced()


def off() -> AbstractContextManager[None]:
    """Compute by PyTorch's own layers and operators alone, whatever they cost.

    What counts is the forward pass; the backward pass follows it.
    """
    return _set(False)


def as_now() -> Callable[[], AbstractContextManager[None]]:
    """Return what has later computations take the paths that are taken now."""
    return partial(_set, _on)


@contextmanager
def _set(on: bool) -> Iterator[None]:
    global _on
    before, _on = _on, on
    try:
        yield
    finally:
        _on = before


def suit(*modules: nn.Module) -> bool:
    """Tell whether what ``modules`` do may be computed without calling their parts."""
    return _on and not has_hooks(*modules)


def is_eager_training() -> bool:
    """Tell whether operations run one by one, gradients are recorded, and paths on."""
    return are_on() and torch.is_grad_enabled() and not torch.compiler.is_compiling()
