"""MMEngine's runner, made to resume exactly and to refuse what would go wrong."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, OPTIMIZERS, RUNNERS
from mmengine.runner import IterBasedTrainLoop
from mmengine.runner import Runner as MMEngineRunner

from mmrecnext.checkpoint import OWN_READER, explained_misfit, named_weights
from mmrecnext.checkpoint.weights import check_values
from mmrecnext.compat import gathered_batches
from mmrecnext.engine.channels import check_channels
from mmrecnext.engine.data import DataHook, check_class_names, describe_empty
from mmrecnext.engine.loops import going_on_amid
from mmrecnext.engine.misbuilt import describe_unknown, is_raised_in
from mmrecnext.engine.pasting import paste_in_boxes
from mmrecnext.engine.precision import infer_in
from mmrecnext.engine.resume import (
    ResumeHook,
    latest_checkpoint,
    settle_place,
    settle_schedule,
)
from mmrecnext.engine.saving import saving_safely
from mmrecnext.engine.segmentation import bound_memory
from mmrecnext.engine.terminal import ProgressHook, quieten
from mmrecnext.errors import CheckpointError, ConfigError, brief
from mmrecnext.files import atomic_write
from mmrecnext.models.fusion import speed_up_convolutions, switch_to_deploy


class SeedHook(Hook):
    """Makes chance depend on the seed, the rank and the step alone.

    A run that was interrupted and resumed then repeats one that was not: MMEngine's
    checkpoints hold no states of random generators. Data are augmented by Python's,
    NumPy's and PyTorch's generators, seeded by epoch, in an iteration-based run by
    iteration; the model draws from PyTorch's, seeded by iteration. Worker processes
    seed themselves: exact repetition takes ``num_workers=0``.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: MMEngineRunner):
        """Have what augments the data seeded by iteration, where these are counted."""
        loop = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop):
            seed = partial(self.seed_all, runner)
            loop.dataloader_iterator = SeededBatches(loop.dataloader_iterator, seed)

    def before_train_epoch(self, runner: MMEngineRunner):
        """Seed what augments the data."""
        self.seed_all(runner, runner.epoch)

    def before_train_iter(
        self, runner: MMEngineRunner, batch_idx: int, data_batch=None
    ):
        """Seed what the model draws."""
        torch.manual_seed(self.seed(runner, runner.iter))

    def seed_all(self, runner: MMEngineRunner, step: int):
        """Seed Python's, NumPy's and PyTorch's generators."""
        seed = self.seed(runner, step)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    @staticmethod
    def seed(runner: MMEngineRunner, step: int) -> int:
        """Mix seed, rank and step into 32 bits."""
        sequence = np.random.SeedSequence([runner.seed, runner.rank, step])
        return int(sequence.generate_state(1)[0])


class SeededBatches:
    """The batches of an iteration-based run, each with generators seeded before it.

    Args:
        batches: MMEngine's endless ones. A resumed run skips some of them: upstream by
            fetching them, the OneDL fork by ``skip_iter``, which draws nothing.
        seed: the generators for a batch, counted from 0.
    """

    def __init__(self, batches: Any, seed: Callable[[int], None]):
        self.batches = batches
        self.seed = seed
        self.count = 0

    def __next__(self) -> Any:
        self.seed(self.count)
        self.count += 1
        return next(self.batches)

    def skip_iter(self, number: int):
        """Skip batches."""
        self.count += number
        self.batches.skip_iter(number)


@HOOKS.register_module()
class DeployHook(Hook):
    """Tests the model in its inference form, which it is brought into once loaded."""

    def before_test(self, runner: MMEngineRunner):
        """Fold batch norms."""
        switch_to_deploy(runner.model)


@HOOKS.register_module()
class PrecisionHook(Hook):
    """Tests the model in mixed precision, once it is loaded, and deployed if it is.

    Args:
        dtype: see :func:`~mmrecnext.engine.precision.infer_in`.
    """

    priority = 'LOW'

    def __init__(self, dtype: str):
        self.dtype = dtype

    def before_test(self, runner: MMEngineRunner):
        """Lower the precision of the network."""
        infer_in(runner.model, self.dtype)


def without_scope(collate: Any) -> Any:
    """Return the config of a function without the scope of the file that it is from.

    MMEngine would pass that on to the function.
    """
    if not isinstance(collate, Mapping):
        return collate
    return {k: v for k, v in collate.items() if k != '_scope_'}


class ValuesHook(Hook):
    """Refuses weights that no training leaves, whatever loads them."""

    def after_load_checkpoint(self, runner: MMEngineRunner, checkpoint: dict):
        """Check the weights.

        Raises:
            CheckpointError: where none of them fits; and see
                :func:`~mmrecnext.checkpoint.weights.check_values`.
        """
        model = runner.model
        own = (model.module if is_model_wrapper(model) else model).state_dict()
        weights = named_weights(checkpoint)
        check_values(own, weights, runner._load_from)
        # Elsewhere all must fit, and what does not is told.
        to_fine_tune = not (runner.strict or runner._resume)
        if to_fine_tune and not any(
            name in own and own[name].shape == value.shape
            for name, value in weights.items()
        ):
            raise CheckpointError(
                f'nothing in {runner._load_from} fits the model of this config: it has '
                f'{brief(sorted(weights))}. Weights of a backbone or classifier are '
                'for model.backbone.init_cfg, of the type Pretrained'
            )


@RUNNERS.register_module(name='RecNeXtRunner')
class Runner(MMEngineRunner):
    """MMEngine's runner, which also refuses to go on with nothing or with misfits.

    Attributes:
        strict (bool): whether a checkpoint to load must fit the model entirely, as it
            must for a test; one to fine-tune from need not.
        new_schedule (bool): whether a resumed run takes the settings of the optimizer
            and the schedulers of the config, in place of those of the checkpoint.
        progress (ProgressHook): what shows the line of progress.
    """

    _resume: bool
    _load_from: str | None

    strict = False
    new_schedule = False
    progress: ProgressHook

    def build_logger(self, *args, **kwargs):
        """Build the log, whose terminal is spared what is for its file."""
        logger = super().build_logger(*args, **kwargs)
        quieten(logger)
        return logger

    def train(self):
        """Train, with a line of progress where there is a terminal."""
        with self.progress.shown(self):
            return super().train()

    def val(self):
        """Validate, likewise."""
        with self.progress.shown(self):
            return super().val()

    def test(self):
        """Test, likewise; what stops it is told how much was done."""
        with self.progress.shown(self):
            try:
                return super().test()
            except KeyboardInterrupt as stop:
                if done := self.progress.done:
                    total = len(self.test_dataloader)
                    stop.args = (f'{done} of {total} batches are predicted',)
                raise

    def register_hooks(self, *args, **kwargs):
        """Register the hooks of the config, and those of every run."""
        super().register_hooks(*args, **kwargs)
        self.progress = ProgressHook()
        self.register_hook(self.progress)
        self.register_hook(SeedHook())
        self.register_hook(DataHook())
        self.register_hook(ValuesHook())
        self.register_hook(ResumeHook())

    def register_hook(self, hook, priority=None):
        """Register a hook; in the place of MMEngine's that saves, our own."""
        super().register_hook(saving_safely(hook), priority)

    def build_train_loop(self, loop):
        """Build the loop of training; one by epochs can go on amid one."""
        return super().build_train_loop(going_on_amid(loop))

    def build_model(self, model):
        """Build the model; a segmentor's predictions then take little memory.

        On a CPU its convolutions of 3x3 are such as are faster there.

        Raises:
            ConfigError: where what follows a RecNeXt takes maps of other channels.
        """
        model = super().build_model(model)
        check_channels(model)
        bound_memory(model)
        paste_in_boxes(model)
        if not torch.cuda.is_available():
            speed_up_convolutions(model)
        return model

    def build_optim_wrapper(self, optim_wrapper):
        """Build the optimizer and what wraps it.

        Raises:
            ConfigError: where there is no such optimizer.
        """
        if isinstance(optim_wrapper, dict):
            optimizer = optim_wrapper.get('optimizer')
            kind = optimizer.get('type') if isinstance(optimizer, dict) else None
            if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
                raise ConfigError(describe_unknown(kind, OPTIMIZERS))
        return super().build_optim_wrapper(optim_wrapper)

    def scale_lr(self, optim_wrapper, auto_scale_lr=None):
        """Scale the learning rate to the batch at hand, of all that a step gathers."""
        gathered = gathered_batches(optim_wrapper)
        if gathered > 1 and auto_scale_lr and auto_scale_lr.get('enable'):
            self.logger.info(f'A step gathers the gradients of {gathered} batches')
            base = auto_scale_lr['base_batch_size'] / gathered
            auto_scale_lr = {**auto_scale_lr, 'base_batch_size': base}
        super().scale_lr(optim_wrapper, auto_scale_lr)

    @staticmethod
    def build_dataloader(dataloader, *args, **kwargs):
        """Build a data loader.

        Raises:
            ConfigError: where its dataset is empty, or its class names do not match
                the annotation file.
        """
        if isinstance(dataloader, dict) and isinstance(dataloader['dataset'], dict):
            check_class_names(dataloader['dataset'])
        if isinstance(dataloader, dict) and 'collate_fn' in dataloader:
            collate = without_scope(dataloader['collate_fn'])
            dataloader = {**dataloader, 'collate_fn': collate}
        try:
            loader = MMEngineRunner.build_dataloader(dataloader, *args, **kwargs)
        except (TypeError, ValueError) as error:
            # So NumPy answers MMEngine when it packs the samples of an empty dataset.
            if 'need at least one array' in str(error):
                raise ConfigError(describe_empty(dataloader['dataset'])) from error
            if not is_raised_in(error, 'mmengine.runner', 'torch.utils.data'):
                raise
            raise ConfigError(f'a data loader cannot be built: {error}') from error
        if len(loader.dataset) == 0:
            raise ConfigError(describe_empty(dataloader['dataset']))
        return loader

    def load_checkpoint(self, filename, map_location='cpu', strict=False, **kwargs):
        """Load a checkpoint, which must fit where it is tested or resumed.

        Raises:
            CheckpointError: where it must fit and does not.
        """
        strict = strict or self.strict or self._resume
        source = f'{OWN_READER}{filename}'
        if not strict:
            return super().load_checkpoint(source, map_location, strict, **kwargs)
        with explained_misfit(self.model, filename):
            checkpoint = super().load_checkpoint(source, map_location, strict, **kwargs)
        if self._resume:
            settle_schedule(self, checkpoint)
            settle_place(self, checkpoint)
        return checkpoint

    def load_or_resume(self):
        """Load or resume what the config names; to resume, else the latest there is.

        Raises:
            CheckpointError: where none of those that are there can be resumed from.
        """
        if self._resume and self._load_from is None and not self._has_loaded:
            needed = bool(self.param_schedulers) and not self.new_schedule
            self._load_from = latest_checkpoint(self.work_dir, needed)
            self._resume = self._load_from is not None
        super().load_or_resume()

    def resume(self, filename, *args, **kwargs):
        """Resume from a checkpoint, which must fit and be complete.

        Raises:
            CheckpointError: where training cannot go on from it.
        """
        self._resume, self._load_from = True, filename
        super().resume(filename, *args, **kwargs)

    @master_only
    def save_checkpoint(self, out_dir, filename, *args, **kwargs):
        """Save a checkpoint: whole, or not at all.

        Raises:
            OSError: where it cannot be written; one of that name stays as it was.
        """
        if '://' in str(out_dir):
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        os.makedirs(out_dir, exist_ok=True)
        with atomic_write(os.path.join(out_dir, filename)) as file:
            super().save_checkpoint(str(file.parent), file.name, *args, **kwargs)
