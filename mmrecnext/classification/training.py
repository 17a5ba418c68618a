"""Classifiers in training, as MMEngine's runner trains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.registry import DATASETS, HOOKS, METRICS, RUNNERS
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F

from mmrecnext.archs import ARCHS, is_mlla
from mmrecnext.checkpoint import read_checkpoint
from mmrecnext.checkpoint.weights import AVERAGED
from mmrecnext.classification import mistakes, recipe  # noqa: F401  registered thus
from mmrecnext.classification.loading import load_with_new_heads, make_classifier
from mmrecnext.classification.registration import chosen_weights
from mmrecnext.engine.runner import Runner
from mmrecnext.engine.saving import gathers_gradients
from mmrecnext.errors import (
    CheckpointError,
    ConfigError,
    OptionError,
    brief,
    check_option,
)
from mmrecnext.registry import MODELS

AVERAGE = AVERAGED[0]
"""Under which name a checkpoint holds averaged weights."""

KINDS = ('hard', 'soft')


class Teacher(nn.Module):
    """What a classifier learns from beside the labels.

    Args:
        num_classes: classes of the data.
        model: a model of timm's, by name.
        checkpoint: its weights, such as another training here has saved, as of
            :func:`~mmrecnext.checkpoint.load_pretrained`; by default timm's own.
        kind: ``hard``, to learn the class that the teacher finds, or ``soft``, to learn
            what it holds of all classes.
        weight: share of the loss that it has, the labels have the rest.
        temperature: by which logits are divided, if ``soft``.

    Raises:
        OptionError: for an unknown model or kind.
        ConfigError: for a teacher of another number of classes.
        CheckpointError: for weights that cannot be had or do not fit.
    """

    def __init__(
        self,
        num_classes: int,
        model: str,
        checkpoint: str | None = None,
        kind: str = 'hard',
        weight: float = 0.5,
        temperature: float = 1.0,
    ):
        super().__init__()
        check_option('teacher.kind', kind, kind in KINDS, ' or '.join(KINDS))
        self.kind, self.weight, self.temperature = kind, weight, temperature
        own: dict[str, Any] = {}
        if checkpoint is not None:
            weights = chosen_weights(read_checkpoint(checkpoint, 'cpu'))
            overlay = dict(state_dict=weights, num_classes=num_classes)
            own = dict(num_classes=num_classes, pretrained_cfg_overlay=overlay)
        try:
            network: Any = make_classifier(model, pretrained=True, **own)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f'model.teacher: no weights of {model} for {num_classes} classes from '
                f'{checkpoint or "the hub"}: {" ".join(str(error).split())}'
            ) from error
        network.pretrained_cfg.pop('state_dict', None)  # read, and loaded
        self.network = network.eval().requires_grad_(False)
        if network.num_classes != num_classes:
            raise ConfigError(
                f'model.teacher: {model} tells {network.num_classes} classes '
                f'apart, the data have {num_classes}: name one that was trained on '
                'them, with model.teacher.checkpoint'
            )

    def forward(self, logits: Tensor, images: Tensor) -> Tensor:
        """Return how far logits ``[N, classes]`` are from the teacher's, a scalar."""
        self.to(images.device)  # it is no part of the model, which is moved
        with torch.no_grad():
            wanted = self.network(images)
        if self.kind == 'hard':
            return F.cross_entropy(logits, wanted.argmax(1))
        own, wanted = ((x / self.temperature).log_softmax(1) for x in (logits, wanted))
        divergence = F.kl_div(own, wanted, reduction='sum', log_target=True)
        return divergence * self.temperature**2 / own.numel()


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """A classifier that is trained on mixed pictures, perhaps with a teacher.

    Its checkpoints are as a detector's: the network stands under ``backbone``, and
    nothing beside it.

    Args:
        arch: see :func:`~mmrecnext.classification.loading.make_classifier`.
        num_classes: classes of the data.
        mixup: options of timm's ``Mixup``, which also smooths labels.
        teacher: options of :class:`Teacher`; only a RecNeXt learns from one, by a head
            of its own.
        pretrained: a checkpoint to begin with, as
            :func:`~mmrecnext.checkpoint.load_pretrained` takes it; its heads are left
            where they are of other classes.
        options: further ones of the network, such as ``drop_path_rate``.

    Attributes:
        evaluated: networks by what goes before the names of their figures.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        num_classes: int,
        mixup: Mapping[str, Any],
        teacher: Mapping[str, Any] | None = None,
        pretrained: str | None = None,
        data_preprocessor: Any = None,
        **options: Any,
    ):
        super().__init__(data_preprocessor)
        if teacher is not None:
            is_known = isinstance(arch, str) and arch.removeprefix('recnext_') in ARCHS
            if not is_known and (isinstance(arch, str) or is_mlla(arch)):
                raise OptionError(
                    f'model.teacher: {arch} has no head that learns from a teacher; '
                    'a RecNeXt has'
                )
            options['distillation'] = True
        self.num_classes = num_classes
        self.backbone = make_classifier(arch, num_classes=num_classes, **options)
        self.mixup = Mixup(**mixup, num_classes=num_classes)
        self.pretrained = pretrained
        self.evaluated = {'': self.backbone}
        self.criterion = SoftTargetCrossEntropy()
        # As a module it would be trained, averaged and saved.
        object.__setattr__(
            self, 'teacher', Teacher(num_classes, **teacher) if teacher else None
        )

    backbone: Any
    teacher: Teacher | None

    def init_weights(self) -> None:
        """Load the pretrained weights, if any; else all stays as it was made."""
        if self.pretrained is not None:
            load_with_new_heads(self.backbone, self.pretrained)

    def forward(self, images: Tensor, labels: Tensor, mode: str = 'tensor') -> Any:
        """Classify images ``[N, 3, H, W]`` of classes ``[N]``.

        Returns:
            Logits ``[N, classes]``; in the mode ``loss`` losses by name; in ``predict``
            a list of one dict: the labels, and the logits of each evaluated network.
        """
        if mode == 'loss':
            return self.loss(images, labels)
        if mode == 'predict':
            logits = {name: net(images) for name, net in self.evaluated.items()}
            return [dict(labels=labels, logits=logits)]
        return self.backbone(images)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return losses of labels and teacher, weighted, on mixed images."""
        images, wanted = self.mixup(images, labels)
        logits = self.backbone(images)
        if self.teacher is None:
            return dict(loss=self.criterion(logits, wanted))
        logits, distilled = logits
        weight = self.teacher.weight
        return dict(
            loss_labels=(1 - weight) * self.criterion(logits, wanted),
            loss_teacher=weight * self.teacher(distilled, images),
        )


@METRICS.register_module()
class TopK(BaseMetric):
    """Top-1 and top-5 accuracy in percent, and cross-entropy, of each network."""

    default_prefix = ''

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Take in a batch, as the model predicts it."""
        (batch,) = data_samples
        columns = {}
        for name, logits in batch['logits'].items():
            labels, logits = batch['labels'], logits.float()
            hits = logits.topk(min(5, logits.size(1))).indices == labels[:, None]
            columns[f'{name}top1'] = 100.0 * hits[:, 0]
            columns[f'{name}top5'] = 100.0 * hits.any(1)
            columns[f'{name}loss'] = F.cross_entropy(logits, labels, reduction='none')
        rows = torch.stack([*columns.values()], 1).tolist()
        self.results += [dict(zip(columns, row, strict=True)) for row in rows]

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """Return the mean of each figure."""
        return {
            name: sum(row[name] for row in results) / len(results)
            for name in results[0]
        }


def classifier_in(runner: Runner) -> ImageClassifier:
    """Return the model of a runner, without what wraps it for several processes."""
    model: Any = runner.model
    return model.module if is_model_wrapper(model) else model


@HOOKS.register_module()
class AveragedWeightsHook(Hook):
    """Averages weights over the steps, and has both evaluated and saved.

    In a checkpoint they stand beside the weights, under ``state_dict_ema``, where timm
    and ``--ema`` of the tools look for them. Buffers are copied.

    Args:
        decay: share that an average keeps at each step.
        options: further ones of timm's ``ModelEmaV3``.
    """

    priority = 'BELOW_NORMAL'  # after ``SyncBuffersHook``

    def __init__(self, decay: float, **options: Any):
        self.options = dict(decay=decay, exclude_buffers=True, **options)
        self.loaded = False

    def before_run(self, runner: Runner) -> None:
        """Make room for the averages."""
        model = classifier_in(runner)
        self.average = ModelEmaV3(model.backbone, **self.options)
        model.evaluated['ema_'] = self.average.module

    def before_train(self, runner: Runner) -> None:
        """Begin with the weights, where no averages are resumed."""
        if not self.loaded:
            self.average.set(classifier_in(runner).backbone)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Take in the weights of a step, which may gather gradients of several."""
        if gathers_gradients(runner):
            return
        self.average.update(classifier_in(runner).backbone)

    def after_train_epoch(self, runner: Runner) -> None:
        """Take over buffers once more, after those of the processes are made one."""
        buffers = (
            self.average.module.buffers(),
            classifier_in(runner).backbone.buffers(),
        )
        for averaged, buffer in zip(*buffers, strict=True):
            averaged.copy_(buffer)

    def before_test(self, runner: Runner) -> None:
        """Leave out what was not loaded."""
        if not self.loaded:
            classifier_in(runner).evaluated.pop('ema_')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the averages."""
        checkpoint[AVERAGE] = self.average.module.state_dict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load the averages, where all is loaded and not what fits.

        Raises:
            CheckpointError: where they do not fit.
        """
        if AVERAGE in checkpoint and (runner._resume or runner.strict):
            try:
                self.average.module.load_state_dict(checkpoint[AVERAGE])
            except (AttributeError, RuntimeError, TypeError) as error:
                raise CheckpointError(
                    f'{runner._load_from}: `{AVERAGE}` does not fit the model: {error}'
                ) from error
            self.loaded = True


class ChecksHook(Hook):
    """Compares classes of model and data, and stops a run that has gone astray."""

    def before_run(self, runner: Runner) -> None:
        """Check the data of each split that is built.

        Raises:
            ConfigError: where a split has other classes, or too little for a step.
        """
        model = classifier_in(runner)
        names: dict[str, tuple[str, ...]] = {}
        for split in ('train', 'val', 'test'):
            loader = getattr(getattr(runner, f'_{split}_loop'), 'dataloader', None)
            if loader is None:
                continue
            classes = loader.dataset.metainfo['classes']
            if len(classes) != model.num_classes:
                raise ConfigError(
                    f'{split}_dataloader has pictures of {len(classes)} classes, and '
                    f'model.num_classes={model.num_classes}; None has it counted'
                )
            if other := {*classes}.symmetric_difference(names.get('train', classes)):
                raise ConfigError(
                    f'{split}_dataloader and train_dataloader have other classes: only '
                    f'one of them has {brief(sorted(other))}'
                )
            names[split] = classes
            if split == 'train':
                self._check_batches(loader)
                self._check_schedule(runner)

    @staticmethod
    def _check_batches(loader: Any) -> None:
        size = loader.batch_size
        if size % 2:
            raise ConfigError(
                f'train_dataloader.batch_size is even, for pictures are mixed in '
                f'pairs, got {size}'
            )
        if len(loader) == 0:
            raise ConfigError(
                f'train_dataloader.batch_size={size} is more than the '
                f'{len(loader.sampler)} pictures of an epoch: lower it'
            )

    @staticmethod
    def _check_schedule(runner: Runner) -> None:
        for scheduler in runner.param_schedulers or ():
            epochs = getattr(scheduler, 'epochs', runner.max_epochs)
            if epochs != runner.max_epochs:
                runner.logger.warning(
                    f'The learning rate is for {epochs} epochs (param_scheduler.epochs)'
                    f', the training for {runner.max_epochs} (train_cfg.max_epochs)'
                )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Check the loss.

        Raises:
            ConfigError: where it is not finite.
        """
        if not torch.isfinite(outputs['loss']):
            raise ConfigError(
                f'the loss is {outputs["loss"].item()} in epoch {runner.epoch + 1}, '
                f'iteration {runner.iter + 1}: go on from an earlier checkpoint with '
                '--resume, with --amp-dtype bf16 in place of fp16, or at a lower rate '
                '(optim_wrapper.optimizer.lr)'
            )


@RUNNERS.register_module()
class ClassifierRunner(Runner):
    """The runner of classifiers, which counts the classes where none are given."""

    def build_model(self, model: Any) -> nn.Module:
        """Build the model, of as many classes as the data have.

        Raises:
            ConfigError: where these are missing.
        """
        if isinstance(model, dict) and model.get('num_classes') is None:
            loaders = (
                self._train_dataloader,
                self._val_dataloader,
                self._test_dataloader,
            )
            loader = next(loader for loader in loaders if loader is not None)
            loader['dataset'] = DATASETS.build(loader['dataset'])  # read it but once
            classes = loader['dataset'].metainfo['classes']
            self.logger.info(f'{len(classes)} classes: {brief(classes, 10)}')
            model = {**model, 'num_classes': len(classes)}
        return super().build_model(model)

    @staticmethod
    def build_dataloader(dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """Build a data loader, which pins memory where there is a GPU to copy to."""
        dataloader.setdefault('pin_memory', torch.cuda.is_available())
        return Runner.build_dataloader(dataloader, *args, **kwargs)

    def register_hooks(self, *args: Any, **kwargs: Any) -> None:
        """Register the hooks of the config, and those of every run."""
        super().register_hooks(*args, **kwargs)
        self.register_hook(ChecksHook())
