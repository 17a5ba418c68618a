"""Pictures and label maps, checked as they are loaded."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
from mmcv.transforms import Compose as MMCVCompose
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.dataset import BaseDataset, Compose
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from PIL import Image

from mmrecnext.engine.data.datasets import built_leaves, is_remote
from mmrecnext.engine.data.files import is_no_file, missing, suffixes_in
from mmrecnext.errors import DataError, brief

IGNORED = 255
"""The label that MMSegmentation's losses and metrics leave out."""

SAMPLES, SECONDS = 64, 10
"""How many pictures of each split are loaded at once, and for how long at most."""

ENDS = {b'\xff\xd8': b'\xff\xd9', b'\x89P': b'IEND\xaeB`\x82'}
"""What JPEG and PNG files begin and end with."""


class CheckedPipeline(Compose):
    """The pipeline of a dataset, which names the file that it cannot load.

    What is loaded must be whole, of the size that the annotations say, and hold labels
    of the classes alone, also where transforms within others load it.

    Args:
        transforms: those of the pipeline, built; changed in place.
        num_classes: how many classes label maps may name; None for any.
        ignored: labels that are no class and may stand there.
    """

    def __init__(self, transforms: list, num_classes: int | None, ignored: set[int]):
        self.transforms = [*transforms]
        self.num_classes = num_classes
        self.ignored = ignored
        for transform in self.transforms:
            for part in pipelines_in(transform):
                if not any(isinstance(t, CheckedPipeline) for t in part.transforms):
                    inner = CheckedPipeline(part.transforms, num_classes, ignored)
                    part.transforms = [inner]

    def __iter__(self) -> Iterator[Callable]:
        """Go through the transforms, as MMCV does for those that draw alike."""
        return iter(self.transforms)

    def __call__(self, data: dict) -> dict | None:
        """Apply the transforms in turn.

        Raises:
            DataError: naming a file that cannot be used.
        """
        done: Any = data  # whatever another transform makes of it, None to leave it out
        for transform in self.transforms:
            if isinstance(transform, LoadImageFromFile):
                done = self._load_picture(transform, done)
            elif isinstance(transform, LoadAnnotations):
                done = self._load_annotations(transform, done)
            else:
                done = transform(done)
            if done is None:
                return None
        return done

    def load(self, data: dict) -> dict | None:
        """Apply those alone that load."""
        loaders = self.loaders()
        return CheckedPipeline(loaders, self.num_classes, self.ignored)(data)

    def loaders(self) -> list[Callable]:
        """Return the transforms that load, each once, whatever they are within."""
        found = []
        for transform in self.transforms:
            if isinstance(transform, LoadImageFromFile | LoadAnnotations):
                found.append(transform)
            for part in pipelines_in(transform):
                for inner in part.transforms:
                    found += inner.loaders()
        return [*{repr(loader): loader for loader in found}.values()]

    def _load_picture(self, transform: LoadImageFromFile, data: dict) -> dict | None:
        path = data.get('img_path')
        if isinstance(path, str) and is_no_file(path):
            raise DataError(f'the picture {path} is not a file')
        try:
            loaded = transform(data)
        except Exception as error:
            raise DataError(_unreadable('picture', path, error)) from error
        if loaded is None or not isinstance(path, str):
            return loaded
        if reason := cut_short(path):
            raise DataError(f'the picture {path} is cut short ({reason})')
        told = [data.get(side) for side in ('height', 'width')]
        size = [*loaded['ori_shape'][:2]]
        if None not in told and told != size:
            raise DataError(
                f'the picture {path} has {_by(size)} pixels, its annotations say '
                f'{_by(told)} (height x width): they were made for another picture, '
                'or for one turned otherwise (EXIF orientation is followed)'
            )
        return loaded

    def _load_annotations(self, transform: LoadAnnotations, data: dict) -> dict:
        path: Any = data.get('seg_map_path')
        has_map = getattr(transform, 'with_seg', False) and isinstance(path, str)
        if has_map:
            if is_no_file(path):
                raise DataError(f'the label map {path} is not a file')
            _check_depth(path)
        try:
            loaded = transform(data)
        except Exception as error:
            if has_map and (not os.path.exists(path) or 'instances' not in data):
                raise DataError(_unreadable('label map', path, error)) from error
            where = f'annotations of the picture {data.get("img_path")}'
            told = f'{type(error).__name__}: {error}'.splitlines()[0]
            raise DataError(f'{where} cannot be loaded ({told})') from error
        if has_map and loaded.get('gt_seg_map') is not None:
            self._check_map(path, loaded)
        return loaded

    def _check_map(self, path: str, data: dict):
        labels, size = data['gt_seg_map'], data.get('ori_shape')
        if labels.ndim < 2:  # MMSegmentation leaves out sides of one pixel
            other = size is None or labels.size != size[0] * size[1]
            labels = labels.reshape((1, -1) if size is None or other else size[:2])
            data['gt_seg_map'] = labels
        if labels.ndim != 2:
            raise DataError(
                f'the label map {path} has {labels.shape[-1]} channels, colours maybe; '
                'it takes one, of class indices' + _equal_channels(labels, path)
            )
        if size is not None and labels.shape != tuple(size[:2]):
            raise DataError(
                f'the label map {path} has {_by(labels.shape)} pixels, its picture '
                f'{_by(size[:2])} (height x width)'
            )
        if self.num_classes is None:
            return
        found = np.flatnonzero(np.bincount(labels.ravel()))
        beyond = [
            int(x) for x in found if x >= self.num_classes and x not in self.ignored
        ]
        if beyond:
            first = 1 if data.get('reduce_zero_label') else 0
            shown = [x + first for x in beyond]
            raise DataError(
                f'the label map {path} holds {brief(shown, 10)}, where the '
                f'{self.num_classes} classes are {first} to '
                f'{self.num_classes - 1 + first} and {IGNORED} is ignored'
                + (' (reduce_zero_label=True: 0 is too)' if first else '')
            )


def pipelines_in(transform: Callable) -> Iterator[Compose | MMCVCompose]:
    """Yield the pipelines that a transform applies, such as the views of a test."""
    for value in getattr(transform, '__dict__', {}).values():
        values = value.values() if isinstance(value, dict) else value
        for part in values if isinstance(value, dict | list | tuple) else [value]:
            if isinstance(part, Compose | MMCVCompose):
                yield part


def check_loaded(dataset: BaseDataset, train: bool):
    """Have every dataset check what it loads, and load a sample at once.

    Args:
        dataset: as built, wrapped or not; changed in place.
        train: whether it is trained on.

    Raises:
        DataError: naming a file that cannot be used, or classes of which no label map
            has a pixel so that nothing can be learnt.
    """
    for leaf in built_leaves(dataset):
        if not isinstance(getattr(leaf, 'pipeline', None), Compose):
            continue
        classes = leaf.metainfo.get('classes')
        is_segmentation = hasattr(leaf, 'reduce_zero_label')
        leaf.pipeline = CheckedPipeline(
            leaf.pipeline.transforms,
            len(classes) if is_segmentation and classes else None,
            {IGNORED, getattr(leaf, 'ignore_index', IGNORED)},
        )
        if is_main_process() and len(leaf):
            if is_segmentation:
                _check_map_files(leaf)
            _try_samples(leaf, train)


def _check_map_files(dataset: BaseDataset):
    """Check that each picture has a label map."""
    items = [dataset.get_data_info(i) for i in range(len(dataset))]
    loads = any(getattr(t, 'with_seg', False) for t in dataset.pipeline.loaders())
    maps = [x['seg_map_path'] for x in items if loads and x.get('seg_map_path')]
    if gone := missing(maps):
        folder = os.path.dirname(gone[0])
        raise DataError(
            f'{len(gone)} of {len(maps)} label maps are missing: {brief(gone)}; '
            f'{folder} holds {suffixes_in(folder) or "no file"}, and '
            f'`seg_map_suffix` of the dataset is {dataset.seg_map_suffix!r}'
        )
    own, folder = dataset.img_suffix, dataset.data_prefix.get('img_path') or ''
    if not dataset.ann_file and not is_remote(folder):
        others = suffixes_in(folder, but=own)
        if others:
            print_log(
                f'{folder}: pictures are those that end in {own}; {others} are left '
                'out',
                'current',
                logging.WARNING,
            )


def _try_samples(dataset: BaseDataset, train: bool):
    """Load pictures from the beginning and at random, and look at all labels."""
    end = time.monotonic() + SECONDS
    indices = [*_sampled(len(dataset))]
    counts = np.zeros(IGNORED + 1, np.int64)
    looked_at = 0
    for index in indices:
        if time.monotonic() > end:
            break
        data = dataset.pipeline.load(dataset.get_data_info(index))
        looked_at += 1
        if data is not None and 'gt_seg_map' in data:
            labels = data['gt_seg_map'].ravel()
            counts += np.bincount(labels, minlength=IGNORED + 1)[: IGNORED + 1]
    if dataset.pipeline.num_classes is not None and counts.any():
        _check_presence(dataset, counts, looked_at == len(dataset), train)


def _sampled(length: int) -> Iterator[int]:
    if length <= SAMPLES:
        return iter(range(length))
    half = SAMPLES // 2
    # A generator of its own: those of Python and NumPy augment the data.
    rest = random.Random(0).sample(range(half, length), SAMPLES - half)
    return iter([*range(half), *rest])


def _check_presence(
    dataset: BaseDataset, counts: np.ndarray, complete: bool, train: bool
):
    """Name classes without a pixel."""
    classes = dataset.metainfo['classes']
    absent = [c for c, n in zip(classes, counts, strict=False) if not n]
    present = [c for c in classes if c not in absent]
    folder = dataset.data_prefix.get('seg_map_path')
    why = _why_absent(dataset, counts)
    alone = f'only {present[0]}' if present else 'no class'
    if len(present) < 2 <= len(classes) and complete and train:
        raise DataError(
            f'nothing to learn from: in the label maps of {folder}, {alone} has a '
            f'pixel that counts{why}'
        )
    if absent and (complete or len(present) < 2):
        extent = 'the' if complete else 'those looked at of the'
        told = brief(absent, 10) if present else 'any class'
        print_log(
            f'{extent} label maps of {folder} have no pixel of {told}{why}',
            'current',
            logging.WARNING,
        )


def _why_absent(dataset: BaseDataset, counts: np.ndarray) -> str:
    hints = []
    if counts[IGNORED] and not dataset.reduce_zero_label:
        hints.append(
            f'{IGNORED} is ignored, so save masks of 0 and {IGNORED} as 0 and 1'
        )
    if dataset.reduce_zero_label:
        hints.append(
            f'with reduce_zero_label=True 0 and {IGNORED} are ignored and the first '
            'class is 1; if it is 0 in yours, set it to False, in LoadAnnotations too'
        )
    return f'; {"; ".join(hints)}' if hints else ''


def cut_short(path: str) -> str | None:
    """Say what is wrong with a picture of which a part is missing.

    Decoders fill in what a file that was cut lacks. One that ends as it should is not
    looked into; another is decoded again, by Pillow, which does not.
    """
    if is_remote(path):
        return None
    with open(path, 'rb') as file:
        end = ENDS.get(file.read(2))
        if end is None:
            return None
        file.seek(-min(64, os.path.getsize(path)), os.SEEK_END)
        if end in file.read():
            return None
        file.seek(0)
        content = file.read()
    try:
        with Image.open(BytesIO(content)) as picture:
            picture.load()
    except (OSError, SyntaxError) as error:
        return str(error)
    return None


def _check_depth(path: str):
    """Check that labels fit into the eight bits that MMSegmentation keeps."""
    if is_remote(path) or not os.path.isfile(path):
        return
    try:
        with Image.open(path) as image:
            if not image.mode.startswith(('I', 'F')):
                return
            top = int(np.asarray(image).max())
    except (OSError, SyntaxError):
        return  # the pipeline says why
    if top > IGNORED:
        raise DataError(
            f'the label map {path} holds {top}; MMSegmentation keeps eight bits of a '
            f'label, 0 to {IGNORED}'
        )


def _equal_channels(labels: np.ndarray, path: str) -> str:
    if labels.ndim == 3 and (labels == labels[..., :1]).all():
        return (
            f'. All are equal: save one of them, Image.open({os.path.basename(path)!r})'
            '.getchannel(0)'
        )
    return ''


def _unreadable(what: str, path: Any, error: Exception) -> str:
    """Say in a line why a file cannot be loaded."""
    if isinstance(path, str) and not is_remote(path):
        if not os.path.exists(path):
            return f'the {what} {path} is missing'
        if os.path.isfile(path) and not os.path.getsize(path):
            return f'the {what} {path} is empty'
        if os.path.isfile(path) and (reason := cut_short(path)):
            return f'the {what} {path} is cut short ({reason})'
    if isinstance(error, AssertionError) and 'reduce_zero_label' not in str(error):
        return f'the {what} {path} cannot be read: it is of no format that is known'
    told = f'{error}'.strip().splitlines() or ['']
    return f'the {what} {path} cannot be read ({type(error).__name__}: {told[0]})'


def _by(size: Any) -> str:
    return ' x '.join(str(int(x)) for x in size)
