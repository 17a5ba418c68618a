"""Annotation files of COCO's format beside the config that reads them."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.logging import print_log

from mmrecnext.engine.configs import nodes, type_of
from mmrecnext.engine.data.annotations import (
    Content,
    Needs,
    read_annotations,
    read_categories,
)
from mmrecnext.engine.data.datasets import is_remote, leaf_datasets, prefixes_of
from mmrecnext.engine.data.files import missing
from mmrecnext.engine.data.names import check_names, classes_of
from mmrecnext.errors import DataError, brief

READING = ('COCOAPI', 'load_data_list', 'parse_data_info')
"""What makes a dataset read files as ``CocoDataset`` does, and number as it does."""


@dataclass
class Reader:
    """A dataset or an evaluator that reads an annotation file.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        file: annotation file.
        classes: names of the classes.
        needs: what is taken from the file.
        dataset: config of the dataset, also of one that an evaluator measures.
        dataset_file: annotation file of that one; for a dataset, its own.
        given: whether the config gives the names, and not the type of the dataset.
    """

    split: str
    file: str
    classes: tuple[str, ...]
    needs: Needs
    dataset: Mapping
    dataset_file: str
    given: bool


def check_annotations(cfg: Config, splits: tuple[str, ...]):
    """Check the annotation files that MMDetection's ``CocoDataset`` reads.

    Each file is read once. Datasets that read or number otherwise are left alone.

    Args:
        cfg: the config.
        splits: those of ``train``, ``val``, ``test`` that will be read.

    Raises:
        DataError: naming the file, the field and what to do.
    """
    readers = defaultdict(list)
    for split in splits:
        for reader in _readers(cfg, split):
            readers[reader.file].append(reader)
    images: dict[str, dict[Any, str]] = {}
    objects: defaultdict[str, Counter[str]] = defaultdict(Counter)
    reasons: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for file, group in readers.items():
        content = read_annotations(file, _union([reader.needs for reader in group]))
        for reader in group:
            _check_reader(reader, content)
            if reader.file == reader.dataset_file:
                objects[reader.split].update(_by_name(content, reader.classes))
                reasons[reader.split].update(dict.fromkeys(content.left_out))
        _tell_left_out(file, content)
        images[file] = {
            key: image['file_name'] for key, image in content.images.items()
        }
    for group in readers.values():
        for reader in group:
            _check_same_pictures(reader, images)
    for split in objects:
        _check_objects(cfg, split, objects[split], readers, [*reasons[split]])


def _readers(cfg: Config, split: str) -> Iterator[Reader]:
    loader = cfg.get(f'{split}_dataloader') or {}
    metrics = [
        node
        for node in nodes(cfg.get(f'{split}_evaluator'))
        if type_of(node) == 'CocoMetric' and not node.get('format_only')
    ]
    kinds = [kind for m in metrics for kind in _listed(m.get('metric', 'bbox'))]
    for dataset, kind, file in _read_as_coco(loader.get('dataset')):
        segm = 'segm' in kinds
        measured = Needs(masks=segm, scores=True, mask_scores=segm)
        loading = [node for node in nodes(dataset) if node.get('with_mask')]
        alone = any(not node.get('poly2mask', True) for node in loading)
        loaded = Needs(masks=bool(loading), polygons=alone and split == 'train')
        files = {m.get('ann_file') or file for m in metrics}
        needs = _union([loaded, *([measured] if file in files else [])])
        given = 'classes' in dict(dataset.get('metainfo') or {})
        rest = (dataset, file, given)
        classes = classes_of(dataset, kind)
        yield Reader(split, file, classes, needs, *rest)
        for other in files - {file}:
            if not is_remote(other):
                yield Reader(split, other, classes, measured, *rest)


def check_dataset_names(dataset: Mapping):
    """Check class names against annotation files, read again where none has been.

    Args:
        dataset: config of a dataset, wrapped or not.

    Raises:
        DataError: where MMDetection would number classes otherwise than they are named.
    """
    for leaf, kind, file in _read_as_coco(dataset):
        given = 'classes' in dict(leaf.get('metainfo') or {})
        field = f'the {kind.__name__}'
        classes = classes_of(leaf, kind)
        if names := read_categories(file):
            check_names(file, names, classes, field, given)


def _read_as_coco(dataset: Mapping | None) -> Iterator[tuple[Mapping, type, str]]:
    """Yield datasets that read as COCO's does, their types and annotation files."""
    for leaf in leaf_datasets(dataset) if dataset else ():
        kind = _kind(leaf.get('type'))
        file = os.path.join(leaf.get('data_root') or '', leaf.get('ann_file') or '')
        if kind is not None and not is_remote(file) and os.path.isfile(file):
            yield leaf, kind, file


def _kind(name: str | type | None) -> type | None:
    """Return the type of a dataset, if it reads and numbers as COCO's does."""
    kind = name if isinstance(name, type) else DATASETS.get(str(name))
    same = kind is not None and issubclass(kind, CocoDataset)
    if same and all(getattr(kind, x) is getattr(CocoDataset, x) for x in READING):
        return kind
    return None


def _listed(value: str | list) -> list:
    return value if isinstance(value, list) else [value]


def _union(needs: list[Needs]) -> Needs:
    return Needs(*(any(getattr(n, f.name) for n in needs) for f in fields(Needs)))


def _check_reader(reader: Reader, content: Content):
    if not content.images:
        raise DataError(f'no usable sample: {reader.file} lists no image')
    field = f'{reader.split}_dataloader.dataset'
    names = [*content.categories.values()]
    check_names(reader.file, names, reader.classes, field, reader.given)
    others = {k: n for k, n in content.categories.items() if n not in reader.classes}
    if others:
        count = sum(content.objects[key] for key in others)
        print_log(
            f'{reader.file}: {count} objects of the {len(others)} categories that are '
            f'not among the {len(reader.classes)} classes ({brief(others.values())}) '
            'are left out',
            'current',
        )
    if reader.file == reader.dataset_file:
        _check_pictures(reader, content)


def _check_pictures(reader: Reader, content: Content):
    """Check that the pictures are there that the dataset keeps."""
    dataset = reader.dataset
    if dataset.get('indices') is not None:
        return
    keys: Collection[Any] = content.images.keys()
    if dict(dataset.get('filter_cfg') or {}).get('filter_empty_gt'):
        kept = [k for k, name in content.categories.items() if name in reader.classes]
        keys = set().union(*(content.annotated[key] for key in kept))
    prefix = prefixes_of(dataset).get('img', '')
    folder = os.path.join(dataset.get('data_root') or '', prefix)
    files = [os.path.join(folder, content.images[key]['file_name']) for key in keys]
    if gone := missing(files):
        raise DataError(
            f'{len(gone)} of {len(files)} pictures of {reader.file} are missing: '
            f'{brief(sorted(gone))}; `data_prefix` and `data_root` of '
            f'{reader.split}_dataloader.dataset say where they are'
        )


def _by_name(content: Content, classes: tuple[str, ...]) -> Counter:
    """Count the objects of each class, those without any included."""
    count = Counter(dict.fromkeys(classes, 0))
    for key, number in content.objects.items():
        if content.categories[key] in count:
            count[content.categories[key]] += number
    return count


def _tell_left_out(file: str, content: Content):
    for reason, ids in content.left_out.items():
        print_log(
            f'{file}: MMDetection trains nothing on {len(ids)} annotations (id '
            f'{brief(ids)}) with {reason}',
            'current',
            logging.WARNING,
        )


def _check_same_pictures(reader: Reader, images: dict[str, dict]):
    """Check that an evaluator's file is of the pictures that are predicted."""
    own, measured = images[reader.dataset_file], images[reader.file]
    where = f'ann_file of {reader.split}_evaluator ({reader.file})'
    if unknown := [key for key in own if key not in measured]:
        raise DataError(
            f'{where} is of another set than {reader.dataset_file}: it has no image of '
            f'the id {brief(unknown)}'
        )
    if unlike := [key for key in own if own[key] != measured[key]]:
        key = unlike[0]
        raise DataError(
            f'{where} is of another set than {reader.dataset_file}: the image of the '
            f'id {key} is {measured[key]} there, {own[key]} here'
        )


def _check_objects(
    cfg: Config, split: str, objects: Counter, readers: dict, reasons: list[str]
):
    """Name classes of which a split has nothing; training takes one object at least."""
    group = [r for rs in readers.values() for r in rs if r.split == split]
    files = list(dict.fromkeys(reader.dataset_file for reader in group))
    leaves = len([*leaf_datasets(cfg[f'{split}_dataloader']['dataset'])])
    if leaves > len([r for r in group if r.file == r.dataset_file]):
        return  # what the others hold is not known
    absent = [name for name, count in objects.items() if not count]
    everything = len(absent) == len(objects)
    if everything and split == 'train':
        raise DataError(
            f'nothing to train on: {brief(files)} has no object of any class once '
            f'{" and ".join(["crowds (`iscrowd` 1)", *reasons])} are left out'
        )
    if absent:
        what = 'any class' if everything else brief(absent, 10)
        result = (
            'they cannot be learnt'
            if split == 'train'
            else 'they do not count in its figures'
        )
        print_log(
            f'{brief(files)}: no object of {what} to {split} with: {result}',
            'current',
            logging.WARNING,
        )
