"""Checkpoints saved so that there always is one to resume from."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.registry import HOOKS

from mmrecnext.errors import ConfigError
from mmrecnext_autoload.signals import termination


class RemovingLater:
    """A file backend of MMEngine that puts off what it is told to remove."""

    def __init__(self, backend: Any):
        self._backend = backend
        self._outdated: dict[str, Callable[[str], object]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str):
        """Have a file removed later."""
        self._outdated[path] = self._backend.remove

    def rmtree(self, path: str):
        """Have a folder removed later."""
        self._outdated[path] = self._backend.rmtree

    def remove_outdated(self, kept: Collection[str | None]):
        """Remove now what was to be removed, but what has been written anew."""
        for path, remove in self._outdated.items():
            if path not in kept:
                remove(path)
        self._outdated.clear()


class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's, which first saves and then removes, and saves before it is ended.

    MMEngine removes an outdated checkpoint, then writes the next: with one to keep, a
    kill or a full disk between the two leaves none. A run by iterations that is told to
    end (Ctrl-C, SIGTERM) saves after the step at hand; one by epochs could not go on
    from the middle of an epoch.
    """

    file_backend: Any

    def before_train(self, runner):
        """Find where to save; see MMEngine."""
        super().before_train(runner)
        self.file_backend = RemovingLater(self.file_backend)
        termination.arrived = 0  # of an earlier run of this process

    def before_train_iter(self, runner, batch_idx: int, data_batch=None):
        """Hold signals back until the step is done."""
        termination.held = not self.by_epoch

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None):
        """Save if it is time, or the last time.

        Raises:
            KeyboardInterrupt: where a signal arrived during the step.
        """
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        # The first process saves; the others, who may hear of it a step sooner or
        # later, take part in its steps until it leaves.
        if termination.arrived and not self.by_epoch and is_main_process():
            name = self.filename_tmpl.format(runner.iter + 1)
            if os.path.basename(self.last_ckpt or '') != name:
                self._save_checkpoint(runner)
            termination.end()

    def before_val_epoch(self, runner):
        """Let signals end a validation, whose weights may be averaged ones."""
        termination.held = False

    def after_train(self, runner):
        """Publish what is to be; see MMEngine."""
        termination.held = False
        super().after_train(runner)

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict):
        super()._save_checkpoint_with_step(runner, step, meta)
        self._remove_outdated()

    def _save_best_checkpoint(self, runner, metrics: dict):
        wanted = getattr(self, 'key_indicators', ())
        unknown = [key for key in wanted if key not in ('auto', *metrics)]
        if metrics and unknown:
            raise ConfigError(
                f'save_best: there is no figure {", ".join(unknown)}; it is auto or of '
                f'{", ".join(metrics)}'
            )
        super()._save_best_checkpoint(runner, metrics)
        self._remove_outdated()

    def _remove_outdated(self):
        best = getattr(self, 'best_ckpt_path', None)
        bests = getattr(self, 'best_ckpt_path_dict', {}).values()
        self.file_backend.remove_outdated({self.last_ckpt, best, *bests})


def saving_safely(hook: Any) -> Any:
    """Return the config of a hook, with our hook in the place of MMEngine's."""
    if not isinstance(hook, dict):
        return hook
    kind = hook.get('type')
    if isinstance(kind, str):
        kind = HOOKS.get(kind)
    return {**hook, 'type': CheckpointHook} if kind is MMEngineCheckpointHook else hook
