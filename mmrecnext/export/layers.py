"""Layers of the frameworks that would freeze the size of the example, and others."""

from __future__ import annotations

import copy
import sys
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Module = TypeVar('Module', bound=nn.Module)


class Enlarge(nn.Module):
    """What MMSegmentation's ``Upsample`` does, for maps of any size.

    That one computes the size as ``int(side * scale)``, of Python's numbers: a graph
    then keeps the size of its example.

    Args:
        scale: by which both sides grow.
        mode: of ``F.interpolate``.
        align_corners: likewise.
    """

    def __init__(self, scale: float, mode: str, align_corners: bool | None):
        super().__init__()
        self.scale = int(scale) if scale == int(scale) else scale
        self.mode = mode
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge ``[N, C, H, W]``."""
        size = [torch.sym_int(side * self.scale) for side in x.shape[2:]]
        return F.interpolate(x, size, None, self.mode, self.align_corners)


def for_any_size(model: Module) -> Module:
    """Return a copy of a network that computes sizes in a way that a graph can keep."""
    model = copy.deepcopy(model)
    if 'mmseg' not in sys.modules:  # of which no layer can be, then
        return model
    from mmseg.models.utils import Upsample

    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Upsample) and not child.size:
                layer: Any = child
                setattr(
                    parent,
                    name,
                    Enlarge(layer.scale_factor, layer.mode, layer.align_corners),
                )
    return model
