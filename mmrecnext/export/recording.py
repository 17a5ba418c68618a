"""Networks as graphs, from which every format is written."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode

from mmrecnext.engine.terminal import logged_from
from mmrecnext.export.layers import PooledByMatrices
from mmrecnext.export.proof import EXAMPLE
from mmrecnext.export.subjects import Subject


@dataclass(frozen=True)
class Recording:
    """A recorded network.

    Args:
        program: from pictures to outputs.
        outputs: their names.
        shape: of the pictures that it was recorded with, ``[N, 3, H, W]``.
        order: of their channels, ``RGB`` or ``BGR``.
        pictures: the type of their numbers in the file, by name.
    """

    program: ExportedProgram
    outputs: tuple[str, ...]
    shape: tuple[int, ...]
    order: str
    pictures: str

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Run the graph in PyTorch, by one picture ``[1, 3, H, W]`` after another."""
        module = self.program.module()
        with torch.no_grad():
            results = [module(image[None]) for image in images]
        batches = (torch.cat(parts) for parts in zip(*results, strict=True))
        return dict(zip(self.outputs, batches, strict=True))


class ChannelsFirst(TorchFunctionMode):
    """Has no map put in channels-last, within, which is for speed in PyTorch alone."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Leave out what changes nothing but the order in memory."""
        options = kwargs or {}
        is_layout = func is Tensor.contiguous
        if is_layout and options.get('memory_format') is torch.channels_last:
            return args[0]
        return func(*args, **options)


@contextmanager
def quietly(name: str) -> Iterator[None]:
    """Keep a library, by the name of its logger, from telling of its own affairs."""
    with (
        logged_from(logging.ERROR, logging.getLogger(name)),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter('ignore')
        yield


def record(
    subject: Subject,
    size: tuple[int, int] | None,
    pictures: str,
    dtype: torch.dtype,
    single: bool = False,
    way: AbstractContextManager[Any] | None = None,
) -> Recording:
    """Record the graph of a subject, for any number of pictures, or for one.

    Args:
        subject: whose network to record.
        size: height and width of the pictures; None for any.
        pictures: the type of their numbers in the file, by name.
        dtype: of their numbers in the graph.
        single: whether it takes one picture at a time.
        way: changes how operators are recorded.
    """
    images = torch.zeros(1 if single else 2, 3, *(size or EXAMPLE), dtype=dtype)
    free = () if single else (0,) if size else (0, 2, 3)
    with torch.no_grad(), PooledByMatrices(), way or nullcontext():
        program = torch.export.export(
            subject.network,
            (images,),
            dynamic_shapes=(dict.fromkeys(free, Dim.DYNAMIC),),
            strict=False,
        )
    order = subject.about['preparation']['order']
    return Recording(program, subject.outputs, tuple(images.shape), order, pictures)
