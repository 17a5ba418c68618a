"""Training in automatic mixed precision, on a GPU or a CPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from mmrecnext.errors import ConfigError
from mmrecnext.ops.conv import ONEDNN_DTYPES

AMP_DTYPES = {'bf16': 'bfloat16', 'fp16': 'float16'}


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
    if wrapper.get('type', 'OptimWrapper') not in ('OptimWrapper', 'AmpOptimWrapper'):
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
    if torch.bfloat16 not in ONEDNN_DTYPES:
        print_log(
            '--amp: oneDNN has no bf16 for this processor; its convolutions take many '
            'times as long as in single precision',
            'current',
            logging.WARNING,
        )
    for option in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(option, None)
    wrapper.type = 'CPUAmpOptimWrapper'
