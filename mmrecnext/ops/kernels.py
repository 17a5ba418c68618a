"""Whether a Triton kernel can stand in for PyTorch's own operators.

The kernels have no gradient. They stand in ``recconv_triton`` and ``attention_triton``,
which are imported, and Triton with them, where they are first used.
"""

from __future__ import annotations

import functools
import logging
import textwrap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmrecnext.compat import constant_when_compiled
from mmrecnext.ops import fast_paths

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def equal_or_above(number: int, choices: Sequence[int]) -> int | None:
    """Return the first of ``choices`` that is no less, a constant where traced."""
    return next((choice for choice in choices if number <= choice), None)


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Return what has Triton launch on the GPU of ``x``, not on the current one.

    What ``torch.compile`` makes sees to that by itself.
    """
    return nullcontext() if torch.compiler.is_compiling() else torch.cuda.device_of(x)


def triton_is_usable(
    tensors: Sequence[Tensor], attempt: Callable, *setting: int | str
) -> bool:
    """Tell whether a kernel can stand in for PyTorch's operators.

    Args:
        tensors: all that it would be given, the map first.
        attempt: runs it on a small map, on the default device.
        setting: arguments of ``attempt``, what decides whether a kernel compiles.
    """
    if not fast_paths.are_on():
        return False
    x = tensors[0]
    if not all(t.is_cuda for t in tensors) or x.dtype not in DTYPES or 0 in x.shape:
        return False
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return False
    return kernel_runs(attempt, x.device, x.dtype, *setting)


@constant_when_compiled
def kernel_runs(
    attempt: Callable,
    device: torch.device,
    dtype: torch.dtype,
    *setting: int | str,
) -> bool:
    """Tell whether a kernel compiles and runs; a failure is told in one warning.

    It is tried once per process and setting.
    """
    return _kernel_runs(attempt, device, dtype, *setting)


@functools.cache
def _kernel_runs(
    attempt: Callable,
    device: torch.device,
    dtype: torch.dtype,
    *setting: int | str,
) -> bool:
    try:
        with torch.no_grad(), torch.device(device):
            attempt(dtype, *setting)
            torch.accelerator.synchronize(device)
    except Exception as error:
        # Whatever a compiler or a driver raises, the plain operators give the result.
        reason = textwrap.shorten(f'{type(error).__name__}: {error}', 300)
        print_log(
            f'{attempt.__name__}{setting} fails with Triton on {device} in {dtype}; '
            f"PyTorch's own operators are used, which are slower. {reason}",
            logger='current',
            level=logging.WARNING,
        )
        return False
    return True
