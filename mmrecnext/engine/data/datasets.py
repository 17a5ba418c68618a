"""Datasets inside of their wrappers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config, ConfigDict

from mmrecnext.errors import ConfigError


def leaf_datasets(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """Yield the datasets that read files, from inside of any wrappers."""
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    for each in inner or ():
        yield from leaf_datasets(each)
    if not inner:
        yield dataset


def tested_dataset(cfg: Config, use: str) -> ConfigDict:
    """Return the first dataset of a test that reads files.

    Args:
        cfg: a config.
        use: what it is needed for, for the error.

    Raises:
        ConfigError: where there is none.
    """
    if 'dataset' not in (cfg.get('test_dataloader') or {}):
        raise ConfigError(f'the config has no `test_dataloader.dataset`, {use}')
    return next(leaf_datasets(cfg.test_dataloader.dataset))


def built_leaves(dataset: Any) -> Iterator[Any]:
    """Yield the same of a dataset that is built."""
    inner = [dataset.dataset] if hasattr(dataset, 'dataset') else ()
    inner = inner or getattr(dataset, 'datasets', ())
    for each in inner:
        yield from built_leaves(each)
    if not inner:
        yield dataset


def prefixes_of(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``data_prefix`` of a dataset by what lies there.

    A text, which classifiers have, is the folder of the pictures.
    """
    prefix = dataset.get('data_prefix') or {}
    return dict(img_path=prefix) if isinstance(prefix, str) else dict(prefix)


def is_remote(path: str) -> bool:
    """Tell whether a path is read by a backend of MMEngine, and not from disk."""
    return '://' in path
