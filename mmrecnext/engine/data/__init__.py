"""Checks of the data against the config and the model, before the first step.

What a config says and what its annotation files hold is compared at the door
(:func:`check_data`). :class:`DataHook` compares the model with it, and has pictures and
label maps looked at when they are loaded, a sample of them at once.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import DefaultScope

from mmrecnext.engine.data.datasets import leaf_datasets, prefixes_of, tested_dataset
from mmrecnext.engine.data.files import check_paths, describe_empty
from mmrecnext.engine.data.hook import DataHook
from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.engine.stopping import first_process

__all__ = [
    'DataHook',
    'check_class_names',
    'check_data',
    'describe_empty',
    'leaf_datasets',
    'prefixes_of',
    'tested_dataset',
]


def check_data(cfg: Config, splits: tuple[str, ...], moved_to: str | None = None):
    """Check the files of the data, and annotations of COCO's format to the last.

    ``check_data=False`` in the config leaves out the reading of annotations, but for
    the names of their classes: MMDetection would number what is left of others.

    Args:
        cfg: the config.
        splits: those that will be read.
        moved_to: folder that the config has been pointed to, if any.

    Raises:
        ConfigError: naming what is missing or wrong, where, and the next step.
    """
    for split in splits:
        check_paths(cfg, split, moved_to)
    wanted = cfg.get('check_data', True) and _is_coco(cfg.get('default_scope'))
    if wanted and first_process(cfg.get('launcher', 'none')):
        from mmrecnext.engine.data.coco import check_annotations

        check_annotations(cfg, splits)


def _is_coco(scope: str | None) -> bool:
    return scope in FRAMEWORKS and FRAMEWORKS[scope].annotations == 'coco'


def check_class_names(dataset: Mapping):
    """Check the class names of datasets in COCO's format against their files.

    Args:
        dataset: config of a dataset, wrapped or not.

    Raises:
        DataError: where MMDetection would number classes otherwise than they are named.
    """
    scope = DefaultScope.get_current_instance()
    if scope and _is_coco(scope.scope_name) and is_main_process():
        from mmrecnext.engine.data.coco import check_dataset_names

        check_dataset_names(dataset)
