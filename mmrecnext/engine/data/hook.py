"""What is compared with the model, and what is said of figures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

from mmrecnext.engine.data.datasets import built_leaves
from mmrecnext.errors import ConfigError, brief

OTHER_PARTS = ('backbone', 'rpn_head', 'detector', 'reid')
"""Parts of a model whose ``num_classes`` is not that of the data."""

OTHER_HEADS = ('FusedSemanticHead', 'SCNetSemanticHead', 'STDCHead', 'VPDDepthHead')
"""Heads that predict something else, such as stuff or edges."""


class DataHook(Hook):
    """Compares heads with class names, and says what figures do not count.

    Attributes:
        remarks (list[str]): of the last evaluation: that nothing was predicted, and
            the classes of which there was nothing to predict.
    """

    priority = 'LOW'  # after the figures have been logged

    def __init__(self):
        self.remarks: list[str] = []
        self._start()

    def before_run(self, runner: Runner):
        """Compare heads with class names and load a sample, before the first step."""
        from mmrecnext.engine.data.samples import (
            check_loaded,  # here: mmcv takes its time
        )

        model = runner.model
        model = model.module if is_model_wrapper(model) else model
        for split in ('train', 'val', 'test'):
            loop = getattr(runner, f'_{split}_loop')
            loader = getattr(loop, 'dataloader', None)
            if loader is not None:
                metainfo = getattr(loader.dataset, 'metainfo', {})
                check_heads(model, metainfo, f'{split}_dataloader')
                check_loaded(loader.dataset, split == 'train')

    def before_val_epoch(self, runner: Runner):
        """Begin to count."""
        self._start()

    def after_val_iter(self, runner: Runner, batch_idx, data_batch=None, outputs=()):
        """Count labels and predictions."""
        for sample in outputs or ():
            if not isinstance(sample, BaseDataElement):
                continue  # of a model that is neither detector nor segmentor
            if 'pred_instances' in sample:
                self._instances += len(sample.pred_instances)
                self._detects = True
            if 'gt_sem_seg' in sample:
                labels = sample.gt_sem_seg.data.flatten().long().cpu()
                self._labels += torch.bincount(labels.clamp(0, 255), minlength=256)

    def after_val_epoch(self, runner: Runner, metrics=None):
        """Say what the figures do not count."""
        self._conclude(runner.val_dataloader.dataset, metrics)

    def before_test_epoch(self, runner: Runner):
        """Begin to count."""
        self._start()

    def after_test_iter(self, runner: Runner, batch_idx, data_batch=None, outputs=()):
        """Count labels and predictions."""
        self.after_val_iter(runner, batch_idx, data_batch, outputs)

    def after_test_epoch(self, runner: Runner, metrics=None):
        """Say what the figures do not count."""
        self._conclude(runner.test_dataloader.dataset, metrics)

    def _start(self):
        self._labels = torch.zeros(256, dtype=torch.long)
        self._instances = 0
        self._detects = False

    def _conclude(self, dataset, metrics):
        instances = torch.tensor(self._instances)
        all_reduce(instances)
        all_reduce(self._labels)
        classes = dataset.metainfo.get('classes') or ()
        self.remarks = []
        if self._detects and not instances:
            self.remarks.append('nothing was predicted')
        counts: Sequence[int] | torch.Tensor = self._labels
        what = 'pixel'
        if not self._labels.any():
            counts, what = count_objects(dataset), 'object'
        absent = [c for c, n in zip(classes, counts, strict=False) if not n]
        if absent and metrics:
            self.remarks.append(
                f'the truth has no {what} of {brief(absent, 10)}: the figures do not '
                'measure that'
            )
        for remark in self.remarks:
            print_log(remark, 'current', logging.WARNING)


def count_objects(dataset) -> list[int]:
    """Count the objects of each class that are measured.

    Args:
        dataset: as built, wrapped or not.

    Returns:
        A number per class; nothing for datasets that number otherwise than COCO's.
    """
    leaves = [*built_leaves(dataset)]
    if not all(hasattr(leaf, 'cat2label') for leaf in leaves):
        return []
    counts = [0] * len(dataset.metainfo['classes'])
    for leaf in leaves:
        if 'thing_classes' in leaf.metainfo:
            return []
        for i in range(len(leaf)):
            for instance in leaf.get_data_info(i)['instances']:
                counts[instance['bbox_label']] += not instance['ignore_flag']
    return counts


def check_heads(model: nn.Module, metainfo: dict, field: str):
    """Check that heads predict as many classes as there are names.

    Args:
        model: detector or segmentor.
        metainfo: of the dataset.
        field: where the config has the dataset.

    Raises:
        ConfigError: naming each head of another number.
    """
    classes = metainfo.get('classes')
    if classes is None or isinstance(classes, str) or hasattr(model, 'language_model'):
        return
    misfits = [
        f'{path}={number}, not {right}'
        for path, number, right in _numbers_of_classes(model, metainfo)
        if number != right
    ]
    if misfits:
        raise ConfigError(
            f'{field} has {len(classes)} class names ({brief(classes)}), and heads are '
            f'of another number: {"; ".join(misfits)}. Set these in the config, or '
            'name as many classes in metainfo.classes'
        )


def _numbers_of_classes(
    model: nn.Module, metainfo: dict
) -> Iterator[tuple[str, int, int]]:
    """Yield the config field of each number of classes, and the right number."""
    total = len(metainfo['classes'])
    things = len(metainfo.get('thing_classes', metainfo['classes']))
    for name, module in model.named_modules():
        number = getattr(module, 'num_classes', None)
        if not isinstance(number, int) or not name or _is_of_other(name, module):
            continue
        field = f'model.{name}.num'
        if 'reduce_zero_label' in metainfo or not hasattr(module, 'num_stuff_classes'):
            yield f'{field}_classes', number, things if number == things else total
        elif 'thing_classes' in metainfo:
            yield f'{field}_things_classes', module.num_things_classes, things
            yield f'{field}_stuff_classes', module.num_stuff_classes, total - things
        else:
            both = module.num_things_classes + module.num_stuff_classes
            yield f'{field}_things_classes and num_stuff_classes', both, total


def _is_of_other(name: str, module: nn.Module) -> bool:
    parts = name.split('.')
    return type(module).__name__ in OTHER_HEADS or any(x in parts for x in OTHER_PARTS)
