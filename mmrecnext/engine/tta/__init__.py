"""Test-time augmentation of what a framework predicts, where it can be merged."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from importlib import import_module

from mmengine.config import Config

from mmrecnext.engine.build import find_type
from mmrecnext.engine.configs import nodes, type_of
from mmrecnext.engine.data import leaf_datasets
from mmrecnext.engine.frameworks import FRAMEWORKS, framework_of, names_of
from mmrecnext.errors import ConfigError


def augment(cfg: Config):
    """Wrap the model and the pipeline of a test for test-time augmentation, in place.

    Flips, unless the config has a ``tta_pipeline``. That of the config reads pictures
    and labels as the pipeline of the test does.

    Raises:
        ConfigError: for a model whose predictions cannot be merged.
    """
    framework = framework_of(cfg)
    if framework.tta_module is None:
        able = names_of(s for s, row in FRAMEWORKS.items() if row.tta_module)
        raise ConfigError(
            f'--tta merges predictions of {able}, not of {framework.scope}'
        )
    module = import_module(f'{__name__}.{framework.tta_module}')
    kind = find_type(cfg.model, framework.scope)
    if isinstance(kind, type):  # else it is told as the model is built
        module.check_mergeable(kind, cfg.model)
    if type_of(cfg.get('tta_model')) in ('', framework.tta_model):
        settings = cfg.get('tta_model') or module.default_settings(cfg.model)
        cfg.tta_model = {**settings, 'type': f'mmrecnext.{module.MODEL}'}
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        if 'tta_pipeline' in cfg:
            dataset.pipeline = read_alike(cfg.tta_pipeline, dataset.pipeline)
        else:
            dataset.pipeline = flipped(dataset.pipeline)


def read_alike(pipeline: list, test_pipeline: list) -> list:
    """Return a pipeline that loads what it loads by the settings of another."""
    loaders = {
        kind: step for step in test_pipeline if (kind := type_of(step))[:4] == 'Load'
    }
    pipeline = deepcopy(pipeline)
    for node in nodes(pipeline):
        if loader := loaders.get(type_of(node)):
            node.clear()
            node.update(deepcopy(loader))
    return pipeline


def flipped(pipeline: list) -> list:
    """Return the pipeline of a test, of every picture as it is and from left to right.

    Raises:
        ConfigError: where its last transform does not pack what the others made.
    """
    *steps, pack = deepcopy(pipeline)
    kind = type_of(pack)
    if not kind.startswith('Pack'):
        raise ConfigError(
            'the last transform of `test_dataloader.dataset.pipeline` is '
            f'{kind or pack}; --tta takes one that packs, such as PackDetInputs, or a '
            '`tta_pipeline` in the config'
        )
    if keys := _meta_keys(pack):
        pack['meta_keys'] = tuple(dict.fromkeys((*keys, 'flip', 'flip_direction')))
    # First as it is: the truth is taken from the first view.
    flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
    return [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]


def _meta_keys(pack: Mapping) -> tuple | None:
    if 'meta_keys' in pack or type_of(pack) != 'PackDetInputs':
        return pack.get('meta_keys')  # MMSegmentation's default has the flip
    from mmdet.datasets.transforms import PackDetInputs

    return PackDetInputs().meta_keys
