"""What is private to other libraries or depends on their version, in one place.

``tests/test_compat.py`` tells when one of them changes.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from mmengine.model.utils import _BatchNormXd
from torch import nn
from torch.fx._symbolic_trace import is_fx_symbolic_tracing
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.module import _has_any_global_hook

if TYPE_CHECKING:
    from PIL import Image

__all__ = ['BatchNorm']  # of PyTorch, the base of all batch norms, SyncBN included

Function = TypeVar('Function', bound=Callable[..., Any])

ONEDNN = torch.ops.mkldnn
"""Operators of oneDNN, which inductor compiles to; a build may lack them."""

PLAIN_BATCH_NORMS = (nn.BatchNorm2d, _BatchNormXd)
"""Those of one process, where MMEngine puts the latter in the place of SyncBN."""

GLIBC_KEEPS = ((-4, 0), (-1, 2**31 - 1))
"""M_MMAP_MAX and M_TRIM_THRESHOLD of ``malloc.h``: no blocks apart, none returned."""

HOOKS = (
    '_forward_hooks',
    '_forward_pre_hooks',
    '_backward_hooks',
    '_backward_pre_hooks',
)
"""Where a module keeps the hooks of its calls."""


def is_symbolic() -> bool:
    """Tell whether the maps at hand stand for others, of another size or layout.

    So it is under ``torch.fx`` and in the transforms of ``torch.func``.
    """
    return not torch.compiler.is_compiling() and (
        is_fx_symbolic_tracing() or torch._C._are_functorch_transforms_active()
    )


def gathered_batches(wrapper: Any) -> int:
    """Return how many batches the wrapper of an optimizer gathers for a step.

    That of several optimizers, which gather each by itself, tells none.
    """
    count: int = getattr(wrapper, '_accumulative_counts', 1)
    return count


def has_hooks(*modules: nn.Module) -> bool:
    """Tell whether a call of ``modules``, or of a part, runs more than its forward."""
    if _has_any_global_hook():
        return True
    waiting: list[nn.Module | None] = [*modules]
    while waiting:
        part = waiting.pop()
        if part is None:
            continue
        # By name, which is several times as fast as by a loop over HOOKS.
        if (
            part._forward_hooks
            or part._forward_pre_hooks
            or part._backward_hooks
            or part._backward_pre_hooks
        ):
            return True
        waiting += part._modules.values()
    return False


def onednn_dtypes() -> tuple[torch.dtype, ...]:
    """Return what build and processor have oneDNN's fused convolution for, if any."""
    if not torch.backends.mkldnn.is_available() or not hasattr(
        getattr(ONEDNN, '_convolution_pointwise_', None), 'binary'
    ):
        return ()
    if not ONEDNN._is_mkldnn_bf16_supported():
        return (torch.float32,)
    return (torch.float32, torch.bfloat16)


def constant_when_compiled(function: Function) -> Function:
    """Have ``torch.compile`` call a function once, and compile for its answer.

    That is what ``torch.compiler.assume_constant_result`` does, without importing the
    compiler, and Triton with it.
    """
    vars(function)['_dynamo_marked_constant'] = True
    return function


def allow_many_compilations(limit: int) -> None:
    """Let ``torch.compile`` keep up to ``limit`` compiled forms of one function."""
    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.config.accumulated_recompile_limit = limit


def without_mmcls_prefix(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint of a classifier of MMClassification as its backbone's."""
    from mmengine.runner.checkpoint import _process_mmcls_checkpoint

    own: dict[str, Any] = _process_mmcls_checkpoint(checkpoint)
    return own


def timm_feature_indices(
    count: int, indices: int | Sequence[int] | None
) -> tuple[list[int], int]:
    """Return which of ``count`` maps timm's ``indices`` ask for, and the last of them.

    A number asks for that many of the last.
    """
    from timm.models._features import feature_take_indices

    some = [*indices] if isinstance(indices, Sequence) else indices
    return feature_take_indices(count, some)


def keep_memory() -> bool:
    """Have this process keep the memory of maps for the next ones, where glibc has it.

    It would give that of large ones back to the system at once, and be given other,
    page by page, which takes a good part of the time of a network. What is held does
    not become more than it was at most. Where variables ``MALLOC_...`` of the
    environment say how to allocate, they stand.

    Returns:
        Whether it does.
    """
    if sys.platform != 'linux' or any(x.startswith('MALLOC_') for x in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    return mallopt is not None and all(mallopt(*pair) for pair in GLIBC_KEEPS)


def let_timm_posterize_to_black() -> None:
    """Have timm's random augmentation keep no bit of a picture, as it may draw.

    Pillow 12 and later refuse that; before, it left a picture black.
    """
    from timm.data import auto_augment

    for name, function in auto_augment.NAME_TO_OP.items():
        if function is auto_augment.posterize:
            auto_augment.NAME_TO_OP[name] = _posterize


def _posterize(picture: Image.Image, bits: int, **options: Any) -> Image.Image:
    from PIL import Image  # here, as timm: most programs need neither
    from timm.data import auto_augment

    if bits < 1:
        return Image.new(picture.mode, picture.size)
    posterized: Image.Image = auto_augment.posterize(picture, bits, **options)
    return posterized
