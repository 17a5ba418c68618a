"""Calling modules again as they were, without their learning from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmrecnext.compat import HOOKS, BatchNorm

# In training, these normalise by the batch, not by what they have learnt.
BATCH_NORM_FORWARDS = (BatchNorm.forward, nn.SyncBatchNorm.forward)


class Moment:
    """The state of modules at a moment: all their attributes.

    Args:
        modules: what is to be called again; it has no hooks.
        owner: a module whose own parts are to be found as they are now.

    Attributes:
        parameters (list[Tensor]): each once, also if several modules share it.
    """

    def __init__(self, modules: Sequence[nn.Module], owner: nn.Module | None = None):
        # Not by `parameters()`, which takes as long as many a small layer.
        parts = dict.fromkeys(part for module in modules for part in module.modules())
        self.states = {part: _state_of(part) for part in parts}
        if owner is not None and owner not in parts:
            self.states[owner] = dict(vars(owner), _modules=dict(owner._modules))
        self.parameters: list[Tensor] = list(
            dict.fromkeys(
                parameter
                for part in parts
                for parameter in part._parameters.values()
                if parameter is not None
            )
        )
        self.needed = [parameter.requires_grad for parameter in self.parameters]
        self.versions = [parameter._version for parameter in self.parameters]

    def leaves(self) -> list[Tensor]:
        """Return the parameters as leaves of a graph of their own.

        Raises:
            RuntimeError: where one of them has changed since.
        """
        if self.versions != [parameter._version for parameter in self.parameters]:
            raise RuntimeError(
                'a parameter that is needed to compute a part of a RecNeXt again has '
                'been modified by an inplace operation between the forward and the '
                'backward pass: change parameters after the backward pass'
            )
        return [
            parameter.detach().requires_grad_(needed)
            for parameter, needed in zip(self.parameters, self.needed, strict=True)
        ]

    @contextmanager
    def restored(self, leaves: Sequence[Tensor] | None = None) -> Iterator[None]:
        """Have the modules compute as at that moment, and stay as they are now.

        Args:
            leaves: what takes the place of the parameters, if not :meth:`leaves`.

        Raises:
            RuntimeError: without ``leaves``, where a parameter has changed since.
        """
        leaves = self.leaves() if leaves is None else leaves
        leaf_of = dict(zip(self.parameters, leaves, strict=True))
        now = {part: vars(part) for part in self.states}
        try:
            for part, state in self.states.items():
                part.__dict__ = _placed(state, leaf_of)
            yield
        finally:
            for part, state in now.items():
                part.__dict__ = state


def _state_of(part: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module, the values of its buffers among them."""
    is_by_batch = part.training and type(part).forward in BATCH_NORM_FORWARDS
    return dict(
        vars(part),
        _modules=dict(part._modules),
        _parameters=dict(part._parameters),
        _buffers=dict(part._buffers) if is_by_batch else _copied(part._buffers),
        **{name: {} for name in HOOKS},
    )


def _placed(state: dict[str, Any], leaf_of: dict[Tensor, Tensor]) -> dict[str, Any]:
    """Return a state with other parameters, and with buffers that may be written to."""
    parameters = state['_parameters'].items()
    return dict(
        state,
        _parameters={name: leaf_of.get(p, p) for name, p in parameters},
        _buffers=_copied(state['_buffers']),
    )


def _copied(buffers: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    with torch.no_grad():
        return {k: None if b is None else b.clone() for k, b in buffers.items()}
