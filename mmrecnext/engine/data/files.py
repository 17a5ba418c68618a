"""Files of the data: those that are missing, and what stands in their place."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mmengine.config import Config

from mmrecnext.engine.configs import nodes
from mmrecnext.engine.data.datasets import is_remote, leaf_datasets, prefixes_of
from mmrecnext.errors import ConfigError


def check_paths(cfg: Config, split: str, moved_to: str | None = None):
    """Check that the files and folders that a config names are there.

    Args:
        cfg: the config.
        split: ``train``, ``val`` or ``test``.
        moved_to: folder that the config has been pointed to, if any.

    Raises:
        ConfigError: naming what is missing and the next step.
    """
    for path in _data_paths(cfg, split):
        if is_remote(path) or os.path.exists(path):
            continue
        if moved_to and Path(path).is_relative_to(moved_to):
            reason = f'--data-root {moved_to} has no {Path(path).relative_to(moved_to)}'
        else:
            root = cfg.get('data_root') or os.path.dirname(path)
            reason = (
                f'{path} is missing. Put or link the dataset at {root}, or name '
                'its place with --data-root FOLDER'
            )
        raise ConfigError(f'the data for {split} are not there: {reason}')


def _data_paths(cfg: Config, split: str) -> Iterator[str]:
    loader = cfg.get(f'{split}_dataloader') or {}
    for dataset in leaf_datasets(loader['dataset']) if 'dataset' in loader else ():
        root = dataset.get('data_root') or ''
        if ann_file := dataset.get('ann_file'):
            yield os.path.join(root, ann_file)
        for prefix in prefixes_of(dataset).values():
            if isinstance(prefix, str) and prefix:
                yield os.path.join(root, prefix)
    for evaluator in nodes(cfg.get(f'{split}_evaluator')):
        if ann_file := evaluator.get('ann_file'):
            yield ann_file


def is_no_file(path: str) -> bool:
    """Tell of what is there and no file: a folder, or a pipe, which would wait."""
    return not is_remote(path) and os.path.exists(path) and not os.path.isfile(path)


def missing(files: Iterable[str]) -> list[str]:
    """Return those files that are not there; each folder is listed once."""
    wanted = defaultdict(list)
    for file in files:
        wanted[os.path.dirname(file)].append(file)
    gone = []
    for folder, inside in wanted.items():
        if is_remote(folder):
            continue
        found = set(_listed(folder or '.'))
        gone += [file for file in inside if os.path.basename(file) not in found]
    return gone


def suffixes_in(folder: str, but: str | None = None) -> str:
    """Say how many files of each suffix a folder holds, below it included.

    Args:
        folder: the folder.
        but: end of the names of files that do not count.
    """
    kinds = Counter(
        os.path.splitext(name)[1] or '(none)'
        for _, _, names in os.walk(folder)
        for name in names
        if but is None or not name.endswith(but)
    )
    return ', '.join(f'{count} of {kind}' for kind, count in kinds.most_common(5))


def describe_empty(dataset: Mapping) -> str:
    """Say why a dataset has no sample.

    Args:
        dataset: config of the dataset, wrapped or not.
    """
    leaf = next(iter(leaf_datasets(dataset)))
    prefix = prefixes_of(leaf)
    root = leaf.get('data_root') or ''
    pictures = os.path.join(root, prefix.get('img_path') or '')
    if 'img_path' in prefix and not leaf.get('ann_file') and os.path.isdir(pictures):
        suffix, found = leaf.get('img_suffix', '.jpg'), suffixes_in(pictures)
        return (
            f'no usable sample in the dataset {leaf.get("type")}: it looks for '
            f'pictures *{suffix} in {pictures}, which holds {found or "no file"}. '
            'Name what yours end in as `img_suffix` of the dataset, and what the '
            'label maps end in as `seg_map_suffix`'
        )
    source = leaf.get('ann_file') or ', '.join(prefix.values())
    return (
        f'no usable sample in the dataset {leaf.get("type")}: of '
        f'{os.path.join(root, source)} '
        'nothing is left once images that are missing, unlabelled or too small are '
        'dropped. Its class names must be those of `metainfo.classes`, if you set them'
    )


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
