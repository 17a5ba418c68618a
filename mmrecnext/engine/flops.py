"""Counting operations and parameters, with nothing computed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

FLOPS_PER_MAC = 2
MACS_PER_BILINEAR_PIXEL = 4


def count_flops(call: Callable[[], object], interpolation: bool = True) -> int:
    """Count the operations of convolutions and matrix products in a call.

    Args:
        call: what is to be counted, on tensors of the meta device.
        interpolation: whether bilinear interpolation counts too.
    """
    from torch.utils.flop_counter import FlopCounterMode  # here: it imports Triton

    counter, bilinear = FlopCounterMode(display=False), _Bilinear()
    with torch.no_grad(), torch.device('meta'), counter, bilinear:
        call()
    return counter.get_total_flops() + (bilinear.flops if interpolation else 0)


def count_parameters(model: nn.Module) -> int:
    """Count the parameters of a network, each once."""
    return sum(p.numel() for p in model.parameters())


class _Bilinear(TorchFunctionMode):
    """Counts bilinear interpolation, and has nearest pixels in its place.

    These have the same shape, which is all there is on the meta device, and come of a
    tenth of the operations there.
    """

    flops = 0

    def __torch_function__(
        self,
        func: Callable,
        types: Any,
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch."""
        kwargs = kwargs or {}
        if func is not F.interpolate:
            return func(*args, **kwargs)
        # Whoever wrote the network may have named the options or not.
        options = inspect.signature(func).bind(*args, **kwargs).arguments
        if options.get('mode') != 'bilinear':
            return func(**options)
        changes = dict(mode='nearest', align_corners=None, antialias=False)
        enlarged = func(**{**options, **changes})
        self.flops += FLOPS_PER_MAC * MACS_PER_BILINEAR_PIXEL * enlarged.numel()
        return enlarged
