"""Checkpoints saved so that there always is one to resume from."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS

from mmrecnext.engine.loops import AMID, EpochLoop
from mmrecnext.engine.resume import INTERRUPTED, LAST
from mmrecnext.errors import ConfigError
from mmrecnext.files import write_file
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
    kill or a full disk between the two leaves none. Here a checkpoint also lists those
    that are removed after it, for a run that resumes from it to remove, and
    ``last_checkpoint`` is a whole name at any moment. A run that is told to end
    (Ctrl-C, SIGTERM) saves after the step at hand: one by iterations a checkpoint as
    any other; one by epochs ``INTERRUPTED``, in the middle of an epoch, which is not
    counted and goes once the next one is there.
    """

    file_backend: Any

    def before_train(self, runner):
        """Find where to save; see MMEngine."""
        super().before_train(runner)
        self.file_backend = RemovingLater(self.file_backend)
        termination.arrived = 0  # of an earlier run of this process

    def before_train_iter(self, runner, batch_idx: int, data_batch=None):
        """Hold signals back until the step is done."""
        termination.held = not self.by_epoch or has_place(runner)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None):
        """Save if it is time, or the last time.

        Raises:
            KeyboardInterrupt: where a signal arrived during the step.
        """
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        # The first process saves; the others, who may hear of it a step sooner or
        # later, take part in its steps until it leaves.
        if not (termination.arrived and termination.held and is_main_process()):
            return
        if gathers_gradients(runner):  # which no checkpoint holds
            return
        if self.by_epoch:
            meta = {'epoch': runner.epoch, 'iter': runner.iter + 1}
            self._write(runner, INTERRUPTED, {**meta, AMID: runner.train_loop.place()})
        elif self._name_of_last() != self.filename_tmpl.format(runner.iter + 1):
            self._save_checkpoint(runner)
        termination.end()

    def after_train_epoch(self, runner):
        """Save if it is time; or the last time, where a signal came after the steps.

        Raises:
            KeyboardInterrupt: in the latter case.
        """
        super().after_train_epoch(runner)
        if not (self.by_epoch and termination.held):
            return
        if termination.arrived and is_main_process():
            if self._name_of_last() != self.filename_tmpl.format(runner.epoch + 1):
                meta = {'epoch': runner.epoch + 1, 'iter': runner.iter}
                self._write(runner, INTERRUPTED, meta)
            termination.end()

    def before_val_epoch(self, runner):
        """Let signals end a validation, whose weights may be averaged ones."""
        termination.held = False

    def after_train(self, runner):
        """Publish what is to be; see MMEngine."""
        termination.held = False
        super().after_train(runner)

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict):
        outdated = []
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            steps = [*self.keep_ckpt_ids, step]
            runner.message_hub.update_info('keep_ckpt_ids', steps)
            outdated = steps[: -self.max_keep_ckpts]
            self.keep_ckpt_ids.append(step)  # which drops the first of too many
        if has_place(runner) and runner.train_loop.done:
            meta[AMID] = runner.train_loop.place()
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._write(runner, name, meta)
        if not is_main_process():
            return
        for name in (INTERRUPTED, *map(self.filename_tmpl.format, outdated)):
            path = self.file_backend.join_path(self.out_dir, name)
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
        self._remove_outdated()

    def _write(self, runner, name: str, meta: dict):
        """Save a checkpoint, and note it as the last one."""
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            path = self.file_backend.join_path(self.out_dir, name)
            write_file(os.path.join(runner.work_dir, LAST), path.encode())

    def _name_of_last(self) -> str:
        return os.path.basename(self.last_ckpt or '')

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


def has_place(runner) -> bool:
    """Tell whether a run can go on from the middle of an epoch."""
    return isinstance(runner.train_loop, EpochLoop)


def gathers_gradients(runner) -> bool:
    """Tell whether gradients of the step at hand wait for those of the next."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict) or not isinstance(wrapper, OptimWrapper):
        return False
    return not wrapper.should_update()


def saving_safely(hook: Any) -> Any:
    """Return the config of a hook, with our hook in the place of MMEngine's."""
    if not isinstance(hook, dict):
        return hook
    kind = hook.get('type')
    if isinstance(kind, str):
        kind = HOOKS.get(kind)
    return {**hook, 'type': CheckpointHook} if kind is MMEngineCheckpointHook else hook
