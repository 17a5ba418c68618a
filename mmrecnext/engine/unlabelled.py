"""Tests on data without annotations, such as what benchmarks keep back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

from mmrecnext.engine.configs import type_of
from mmrecnext.engine.data import leaf_datasets, prefixes_of
from mmrecnext.engine.frameworks import framework_of
from mmrecnext.errors import ConfigError


def missing_annotations(cfg: Config) -> str | None:
    """Return the file or folder of the test data that should hold annotations.

    Returns:
        A folder of label maps that is not there, or a JSON file of COCO's that lists
        pictures and no annotations; ``None`` where nothing is missing.
    """
    annotations = framework_of(cfg).annotations
    if annotations is None:
        return None
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        root = dataset.get('data_root') or ''
        if annotations != 'coco':
            prefix = prefixes_of(dataset).get(annotations)
            if prefix and not os.path.isdir(folder := os.path.join(root, prefix)):
                return folder
        elif file := dataset.get('ann_file'):
            file = os.path.join(root, file)
            if _lists_pictures_alone(file):
                return file
    return None


def _lists_pictures_alone(file: str) -> bool:
    if not (file.endswith('.json') and os.path.isfile(file)):
        return False
    try:
        with open(file, encoding='utf-8') as stream:
            content = json.load(stream)
    except ValueError:  # told where the data are checked
        return False
    return (
        isinstance(content, Mapping)
        and 'images' in content
        and not content.get('annotations')
    )


def metrics_of(cfg: Config) -> list[ConfigDict]:
    """Return the metrics of a test, of which a config may name one, several or none.

    An evaluator of a type of its own has them in ``metrics``.
    """
    evaluator = cfg.get('test_evaluator') or []
    if isinstance(evaluator, Mapping):
        evaluator = evaluator.get('metrics', evaluator)
    return [evaluator] if isinstance(evaluator, Mapping) else [*evaluator]


def leave_out_annotations(cfg: Config, missing: str, out: str | None):
    """Have a test predict without any truth to compare with, in place.

    Args:
        cfg: the config.
        missing: what :func:`missing_annotations` told.
        out: where predictions go.

    Raises:
        ConfigError: where neither ``out`` nor the evaluator takes predictions.
    """
    metrics = metrics_of(cfg)
    if not out and not all(metric.get('format_only') for metric in metrics):
        raise ConfigError(
            f'{missing} has no annotations to measure against. If it should, put them '
            'there; if not, --out PATH writes the predictions'
        )
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        dataset.pipeline = without_annotations(dataset.pipeline)
        dataset.get('data_prefix', {}).pop(framework_of(cfg).annotations, None)
    if 'tta_pipeline' in cfg:
        cfg.tta_pipeline = without_annotations(cfg.tta_pipeline)
    if out:
        of_coco = [m for m in metrics if type_of(m) == 'CocoMetric']
        for metric in of_coco:
            metric.update(ann_file=missing, format_only=True)
        cfg.test_evaluator = of_coco if out.endswith('.json') else []


def without_annotations(steps: Sequence[Any]) -> list[Any]:
    """Return the transforms of a pipeline but those that load annotations."""
    kept = []
    for step in steps:
        if isinstance(step, list | tuple):
            if step := without_annotations(step):
                kept.append(step)
        elif not (type_of(step)[:4] == 'Load' and 'Annotations' in type_of(step)):
            if isinstance(step, Mapping) and 'transforms' in step:
                inner = without_annotations(step['transforms'])
                step = {**step, 'transforms': inner}
            kept.append(step)
    return kept
