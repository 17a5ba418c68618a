"""Layers that would freeze the size of the example, and others in their place."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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


class PooledByMatrices(TorchFunctionMode):
    """Has maps of any size averaged into a grid, within.

    Which places a cell of the grid is the mean of depends on the size of the map: the
    operator of PyTorch is recorded as that of the example. One cell alone is left to
    it, a mean of all places.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace adaptive averages, and nothing else."""
        options = kwargs or {}
        if func is F.adaptive_avg_pool2d:
            x, grid = _pool_arguments(*args, **options)
            if grid != (1, 1):
                return averaged(x, grid)
        return func(*args, **options)


def _pool_arguments(input: Tensor, output_size: Any) -> tuple[Tensor, tuple[Any, ...]]:
    many = isinstance(output_size, Sequence)
    return input, tuple(output_size) if many else (output_size, output_size)


def averaged(x: Tensor, grid: Sequence[int | None]) -> Tensor:
    """Average maps ``[N, C, H, W]`` into a grid, as adaptive pooling does.

    Args:
        x: the maps.
        grid: numbers of cells, of height and width; None for as many as there are.
    """
    rows, columns = grid
    if columns is not None:
        x = x @ _shares(x.shape[3], columns, x)
    if rows is not None:
        x = _shares(x.shape[2], rows, x).T @ x
    return x


def _shares(side: int, cells: int, like: Tensor) -> Tensor:
    """Return how much each of ``side`` places adds to each cell, ``[side, cells]``."""
    cell = torch.arange(cells, device=like.device)
    first, end = cell * side // cells, ((cell + 1) * side + cells - 1) // cells
    place = torch.arange(side, device=like.device)[:, None]
    return ((place >= first) & (place < end)).to(like) / (end - first)


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
