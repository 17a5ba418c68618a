"""Datasets inside of their wrappers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import ConfigDict


def leaf_datasets(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """Yield the datasets that read files, from inside of any wrappers."""
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    for each in inner or ():
        yield from leaf_datasets(each)
    if not inner:
        yield dataset


def built_leaves(dataset: Any) -> Iterator[Any]:
    """Yield the same of a dataset that is built."""
    inner = [dataset.dataset] if hasattr(dataset, 'dataset') else ()
    inner = inner or getattr(dataset, 'datasets', ())
    for each in inner:
        yield from built_leaves(each)
    if not inner:
        yield dataset


def is_remote(path: str) -> bool:
    """Tell whether a path is read by a backend of MMEngine, and not from disk."""
    return '://' in path
