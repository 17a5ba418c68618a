"""What files find in test data, beside the networks that they were written from."""

from __future__ import annotations

import copy
import io
import logging
import os
from collections.abc import Mapping
from contextlib import redirect_stdout

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmrecnext.checkpoint import load_network
from mmrecnext.engine.build import build_network, fit_cpu
from mmrecnext.engine.data import check_data
from mmrecnext.engine.terminal import logged_from, tracked
from mmrecnext.engine.unlabelled import metrics_of, missing_annotations
from mmrecnext.errors import ConfigError
from mmrecnext.export.predicting import Exported
from mmrecnext.models.fusion import switch_to_deploy

Figures = dict[str, float]


def why_not_evaluated(cfg: Config) -> str:
    """Return what the test of a config lacks here, or nothing."""
    if not cfg.get('test_dataloader') or not metrics_of(cfg):
        return 'the config has no test'
    try:
        missing = missing_annotations(cfg)
        check_data(cfg, ('test',))
    except ConfigError as error:
        return str(error)
    return f'there is no {missing}' if missing else ''


def evaluate_beside(
    cfg: Config, checkpoint: str, file: str | os.PathLike[str]
) -> tuple[Figures, Figures]:
    """Evaluate a network and a file of it, on the test data of its config.

    Args:
        cfg: as ``load_config`` returns it; changed.
        checkpoint: weights of the network.
        file: that was written.

    Returns:
        The figures of both, by their names.
    """
    fit_cpu(cfg)
    network = build_network(cfg.model, cfg.default_scope).eval()
    load_network(network, checkpoint)
    switch_to_deploy(network)
    return evaluate(cfg, network), evaluate(cfg, Exported(str(file)))


@torch.no_grad()
def evaluate(cfg: Config, model: BaseModel) -> Figures:
    """Return the figures of a model on the test data of a config.

    Args:
        cfg: not changed.
        model: predicts by its ``test_step``.
    """
    scope = DefaultScope.overwrite_default_scope(cfg.default_scope)
    with logged_from(logging.ERROR):
        with scope, redirect_stdout(io.StringIO()):
            loader = Runner.build_dataloader(copy.deepcopy(cfg.test_dataloader))
            evaluator = Evaluator(copy.deepcopy(metrics_of(cfg)))
        evaluator.dataset_meta = loader.dataset.metainfo
        with tracked(loader, 'evaluating', 'batches') as batches:
            for batch in batches:
                samples = model.test_step(batch)
                evaluator.process(data_samples=samples, data_batch=batch)
        with redirect_stdout(io.StringIO()):  # of pycocotools
            figures: Figures = evaluator.evaluate(len(loader.dataset))
    return figures


def loss_of(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Say the figures of a network and of a file, those that measure something."""
    return '  '.join(
        f'{name.split("/")[-1]} {value:.3f} to {after[name]:.3f}'
        for name, value in before.items()
        if value >= 0
    )
