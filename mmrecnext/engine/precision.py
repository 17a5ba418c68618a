"""Mixed precision, of training and of inference, on a GPU or a CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from mmrecnext.engine.configs import type_of
from mmrecnext.errors import ConfigError
from mmrecnext.ops.conv import ONEDNN_DTYPES
from mmrecnext_autoload.choices import AMP_DTYPES

REPLACED = ('OptimWrapper', 'AmpOptimWrapper', 'CPUAmpOptimWrapper')
"""What can be trained in mixed precision instead, the last in a config that was."""


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Trains in automatic mixed precision on a CPU, which MMEngine's own refuses to.

    The low precision is bfloat16, whose range is that of single precision: there is
    no loss to scale.
    """

    @contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        """Compute losses in mixed precision."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def use_amp(cfg: Config, dtype: str | None):
    """Wrap the optimizer for mixed precision, whatever wrapper the config has.

    Args:
        cfg: config to change.
        dtype: a key of ``AMP_DTYPES``; None for what MMEngine takes by itself.
    """
    wrapper = cfg.optim_wrapper
    if type_of(wrapper) not in ('', *REPLACED):
        raise ConfigError(
            f'--amp: the optimizer is wrapped by {wrapper.type}; '
            'it can only take the place of OptimWrapper'
        )
    if torch.cuda.is_available():
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
        if dtype:
            wrapper.dtype = AMP_DTYPES[dtype]
        return
    if dtype == 'fp16':
        raise ConfigError('--amp-dtype fp16 needs a GPU; a CPU trains in bf16')
    warn_of_slow_bf16('--amp')
    for option in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(option, None)
    wrapper.type = 'CPUAmpOptimWrapper'


def warn_of_slow_bf16(option: str) -> None:
    """Say so where a CPU has no instructions for bf16."""
    if torch.bfloat16 not in ONEDNN_DTYPES:
        print_log(
            f'{option}: oneDNN has no bf16 for this processor; its convolutions take '
            'many times as long as in single precision',
            'current',
            logging.WARNING,
        )


def infer_in(model: nn.Module, dtype: str) -> None:
    """Have a network infer in mixed precision, in place.

    Backbone, neck and heads compute in the lower one where ``torch.autocast`` holds
    that safe; a deployed RecNeXt has its weights in it. What heads return is brought
    back to single precision: boxes, scores, suppression, and the enlarging of masks and
    logits are computed as before. Where something else takes the maps, as the
    transformer of a DETR does, it gets them in single precision, and stays in it.

    Args:
        model: a detector or segmentor, on the device where it infers; may be wrapped,
            for several processes or for test-time augmentation.
        dtype: a key of ``AMP_DTYPES``.

    Raises:
        ConfigError: for fp16 on a CPU.
    """
    while isinstance(wrapped := getattr(model, 'module', None), nn.Module):
        model = wrapped
    device = next(model.parameters()).device.type
    if device == 'cpu':
        if dtype == 'fp16':
            raise ConfigError('--dtype fp16 needs a GPU; a CPU infers in bf16')
        warn_of_slow_bf16(f'--dtype {dtype}')
    lower = partial(_lower, autocast=partial(torch.autocast, device))
    low = getattr(torch, AMP_DTYPES[dtype])
    parts = dict(model.named_children())
    parts.pop('data_preprocessor', None)
    trunk = [parts.pop(name) for name in ('backbone', 'neck') if name in parts]
    if 'roi_head' in parts:
        parts.update(parts.pop('roi_head').named_children())
    heads = [part for name, part in parts.items() if name.endswith('_head')]
    only_heads = all(name.endswith(('_head', '_roi_extractor')) for name in parts)
    for part in trunk:
        lower(part, low, is_last=part is trunk[-1] and not only_heads)
    for head in heads if only_heads else []:
        for stage in head if isinstance(head, nn.ModuleList) else [head]:
            lower(stage, low, is_last=True)


def _lower(
    part: nn.Module,
    dtype: torch.dtype,
    autocast: Callable[..., torch.autocast],
    is_last: bool,
) -> None:
    """Have a part of a network compute in a lower precision.

    Args:
        part: changed.
        dtype: of the lower precision.
        autocast: the context, for the device of the part.
        is_last: whether what it returns is brought back to single precision.
    """
    is_whole = getattr(part, 'deployed', False)
    forward = part.to(dtype).forward if is_whole else part.forward

    def lowered(*args: Any, **kwargs: Any) -> Any:
        if is_whole:
            args = tuple(x.to(dtype) for x in args)
        with autocast(dtype, enabled=not is_whole):
            result = forward(*args, **kwargs)
        return tree_map_only(Tensor, _single, result) if is_last else result

    part.forward = lowered


def _single(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x
