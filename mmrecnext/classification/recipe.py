"""How the published classifiers were trained: data, optimizer and learning rate.

The parts are timm's, registered here under names that configs use.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import get_dist_info
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper, _ParamScheduler
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
)
from PIL import Image
from timm.data import ImageDataset, create_transform
from timm.data.distributed_sampler import RepeatAugSampler
from timm.data.readers import add_img_extensions
from timm.optim import param_groups_weight_decay
from timm.utils.agc import adaptive_clip_grad
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmrecnext.compat import let_timm_posterize_to_black
from mmrecnext.engine.pictures import SUFFIXES, in_colours
from mmrecnext.errors import ConfigError, DataError, brief
from mmrecnext.registry import OPTIM_WRAPPER_CONSTRUCTORS

let_timm_posterize_to_black()
add_img_extensions(SUFFIXES)  # timm leaves out all but JPEG and PNG

SPLITS = {'train': ('train', 'training'), 'val': ('val', 'validation', 'valid')}
"""By which names folders and tar files of a split are found."""

ALL = 'all'
"""The pictures of ``val``, or all where nothing is set apart."""


@DATASETS.register_module()
class PicturesByClass(ImageDataset):
    """Pictures in one folder per class, which may stand in a tar file.

    Args:
        data_root: holds folders of classes in ``train/`` and ``val/``, or ``train.tar``
            and ``val.tar`` with the same in them. Where it holds neither, it holds the
            folders of classes themselves, and some pictures of each are held out.
        split: ``train``, ``val`` or ``all``: none is held out then.
        transform: options of ``timm.data.create_transform``.
        held_out: every how many-th picture is one of ``val`` then.

    Attributes:
        metainfo: ``classes``, the names of the folders in their order; ``shown``, the
            files by which pictures can be named.

    Raises:
        ConfigError: where there are no pictures, or no folders of classes, or several
            of one name.
    """

    def __init__(
        self,
        data_root: str,
        split: str,
        transform: Mapping[str, Any],
        held_out: int = 5,
    ):
        source = find_split(data_root, 'val' if split == ALL else split)
        try:
            super().__init__(
                str(source or data_root), transform=create_transform(**transform)
            )
        except (RuntimeError, ValueError) as error:  # as timm finds none
            raise ConfigError(
                f'{source or data_root}: no pictures ({error})'
            ) from error
        reader: Any = self.reader
        if source is None or source.is_dir():
            check_folders(reader.samples)
        if source is None and split != ALL:
            reader.samples = [
                sample
                for i, sample in enumerate(reader.samples)
                if (i % held_out == 0) == (split == 'val')
            ]
        numbers: dict[str, int] = (
            reader.class_to_idx
            if source is None or source.is_dir()
            else reader.class_name_to_idx
        )
        if '' in numbers:
            raise ConfigError(
                f'{source or data_root} has pictures that are in no folder of a class'
            )
        self.metainfo = dict(classes=tuple(sorted(numbers, key=numbers.__getitem__)))

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return a picture ``[3, H, W]``, transformed, and the number of its class.

        Raises:
            DataError: naming a file that is no picture.
        """
        try:
            file, label = self.reader[index]
            with file:
                picture = in_colours(Image.open(file))
        except Exception as error:
            raise DataError(
                f'the picture {self.filename(index)} cannot be read ({error})'
            ) from error
        return self.transform(picture), int(label)


def check_folders(samples: Sequence[tuple[str, int]]) -> None:
    """Check that the pictures of a class are in one folder.

    timm takes the innermost for the class: those below several classes would be one.

    Args:
        samples: path and number of class of each picture.

    Raises:
        ConfigError: naming folders of one name.
    """
    found: dict[int, set[str]] = {}
    for path, label in samples:
        found.setdefault(label, set()).add(os.path.dirname(path))
    for folders in found.values():
        if len(folders) > 1:
            raise ConfigError(
                f'a class is a folder of pictures, and {len(folders)} are of one name: '
                f'{brief(sorted(folders))}. Move the pictures into those of the classes'
            )


def find_split(data_root: str, split: str) -> Path | None:
    """Return the folder or tar file of a split.

    Returns:
        None where neither split has one, but folders.

    Raises:
        ConfigError: where there is no data, or that of the other split alone.
    """
    root = Path(data_root).expanduser()
    if not root.is_dir():
        raise ConfigError(
            f'{data_root} is missing. Put or link folders of classes there, in train/ '
            'and val/, or name their place with --data-root FOLDER'
        )
    found: dict[str, Path | None] = {
        name: next(
            (
                root / f'{synonym}{suffix}'
                for synonym in synonyms
                for suffix in ('', '.tar')
                if (root / f'{synonym}{suffix}').exists()
            ),
            None,
        )
        for name, synonyms in SPLITS.items()
    }
    others = [path.name for path in found.values() if path is not None]
    if found[split] is None and others:
        raise ConfigError(
            f'{data_root} has no {" nor ".join(SPLITS[split])}, folder or .tar file, '
            f'and has {others[0]}'
        )
    return found[split]


ROUND = 256
"""Multiples of so many pictures make an epoch, if there are as many."""


@DATA_SAMPLERS.register_module()
class RepeatedAugmentation(RepeatAugSampler):
    """Draws each picture several times in a row, dealt out to the processes in turn.

    Each epoch is as long as without, so that it sees a part of the pictures; the
    order is of the number of the epoch alone.

    Args:
        dataset: what is drawn from.
        seed: nothing to this sampler; MMEngine passes it to all.
        options: of timm's ``RepeatAugSampler``, such as ``num_repeats``.
    """

    def __init__(self, dataset: Dataset, seed: int | None = None, **options: Any):
        rank, processes = get_dist_info()
        if len(dataset) < ROUND:  # type: ignore[arg-type]
            options.setdefault('selected_round', 0)  # older timm rounds them to none
        super().__init__(dataset, processes, rank, **options)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TimmOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Spares vectors weight decay, and may clip gradients adaptively, as timm does.

    Parameters of at most one dimension, biases and norms, are not decayed. The
    ``clip_grad`` of a wrapper may be ``dict(type='adaptive', clip_factor=0.02)``: the
    gradient of each unit is then bounded by a share of the unit's norm.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer of a model, and what wraps it."""
        wrapper_cfg, optimizer_cfg = (
            self.optim_wrapper_cfg.copy(),
            {**self.optimizer_cfg},
        )
        clip = dict(wrapper_cfg.get('clip_grad') or {})
        adaptive = clip.pop('type', None) == 'adaptive'
        if adaptive:
            wrapper_cfg['clip_grad'] = None
        decay = optimizer_cfg.get('weight_decay', 0.0)
        optimizer_cfg['params'] = param_groups_weight_decay(model, decay)
        wrapper: OptimWrapper = OPTIM_WRAPPERS.build(
            wrapper_cfg, default_args=dict(optimizer=OPTIMIZERS.build(optimizer_cfg))
        )
        if adaptive:
            wrapper.clip_func, wrapper.clip_grad_kwargs = adaptive_clip_grad, clip
        return wrapper


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_ParamScheduler):
    """A learning rate for each epoch: a linear warm-up, then a cosine.

    The first epoch is made twice, as timm's scheduler has it, which steps after an
    epoch: epochs 0 and 1 both learn at ``warmup_lr``. The warm-up is none of the
    cosine, which begins where it stands when that is over.

    Args:
        optimizer: the optimizer, perhaps wrapped; its rate is the highest.
        epochs: until the cosine is at its end.
        warmup: epochs of the warm-up.
        warmup_lr: the rate that it begins with.
        min_lr: the rate that the cosine ends at.
        options: of MMEngine's schedulers.
    """

    def __init__(
        self,
        optimizer: Any,
        epochs: int,
        warmup: int = 5,
        warmup_lr: float = 1e-6,
        min_lr: float = 1e-5,
        **options: Any,
    ):
        self.epochs = epochs
        self.warmup = warmup
        self.warmup_lr = warmup_lr
        self.min_lr = min_lr
        super().__init__(optimizer, 'lr', **options)

    def _get_value(self) -> list[float]:
        done = max(self.last_step - 1, 0)
        if done < self.warmup:
            share, start = done / self.warmup, self.warmup_lr
        else:
            share, start = (1 + math.cos(math.pi * done / self.epochs)) / 2, self.min_lr
        return [start + (base - start) * share for base in self.base_values]
