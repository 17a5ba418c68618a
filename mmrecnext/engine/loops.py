"""Epochs that a run can stop, and go on, in the middle of."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop

from mmrecnext.errors import CheckpointError

AMID = 'amid_epoch'
"""Field of a checkpoint's ``meta`` that tells how much of an epoch is done."""

WORDS = 624
"""Of the state of NumPy's generator, which looks into them without a check."""


class EpochLoop(EpochBasedTrainLoop):
    """MMEngine's, which can go on from the middle of an epoch.

    The batches before are loaded again and passed over, so that processes that load and
    augment data draw as they did.

    Attributes:
        done (int): batches of the epoch at hand, that of the step at hand among them.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.done = 0
        self._chance: Mapping[str, Any] = {}

    def run_epoch(self) -> None:
        """Train for an epoch, or for what is left of it."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        batches = enumerate(self.dataloader)
        if self.done:
            self.runner.progress.pass_over(batches, self.done)
            if self.runner.rank == 0:  # which has saved its own
                set_chance(self._chance)
        for index, batch in batches:
            self.done = index + 1
            self.run_iter(index, batch)
        self.done = 0
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def place(self) -> dict[str, Any]:
        """Return how much of the epoch is done, once the step at hand is."""
        return dict(done=self.done, of=self._batches(), chance=chance())

    def go_on(self, place: Mapping[str, Any], source: str):
        """Begin in the middle of an epoch.

        Args:
            place: see :meth:`place`.
            source: the checkpoint that it is from.

        Raises:
            CheckpointError: where the epoch has other batches.
        """
        own = self._batches()
        other = [
            f'{key} {place["of"].get(key)}, not {value}'
            for key, value in own.items()
            if place['of'].get(key) != value
        ]
        if other:
            raise CheckpointError(
                f'{source} was saved in the middle of an epoch of other batches: '
                f'{", ".join(other)}. Set these as they were, or name a checkpoint of '
                'the end of an epoch: --resume CHECKPOINT'
            )
        self.done, self._chance = place['done'], place['chance']

    def _batches(self) -> dict[str, Any]:
        """Return what decides which batches an epoch has."""
        sampler = self.dataloader.batch_sampler
        return {
            'batches': len(self.dataloader),
            'batch size': getattr(sampler, 'batch_size', None),
            'processes': self.runner.world_size,
            'seed': self.runner.seed,
        }


def going_on_amid(loop: Any) -> Any:
    """Return the config of a loop, with ours in the place of MMEngine's by epochs."""
    if not isinstance(loop, dict):
        return loop
    kind = loop.get('type')
    if isinstance(kind, str):
        kind = LOOPS.get(kind)
    if kind is not EpochBasedTrainLoop and not loop.get('by_epoch'):
        return loop
    return {**{k: v for k, v in loop.items() if k != 'by_epoch'}, 'type': EpochLoop}


def chance() -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy and PyTorch's on the CPU."""
    return dict(
        python=random.getstate(),
        numpy=np.random.get_state(),
        torch=torch.get_rng_state(),
    )


def set_chance(states: Mapping[str, Any]):
    """Set the generators to states of :func:`chance`."""
    random.setstate(states['python'])
    np.random.set_state(states['numpy'])
    torch.set_rng_state(states['torch'].cpu())


def is_place(place: Any) -> bool:
    """Tell whether what a checkpoint holds is as of :meth:`EpochLoop.place`."""
    try:
        states = place['chance']
        random.Random().setstate(states['python'])
        np.random.RandomState().set_state(states['numpy'])
        torch.Generator().set_state(states['torch'].cpu())
        done, position = place['done'], states['numpy'][2]
        return 0 < done <= place['of']['batches'] and 0 <= position <= WORDS
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False
