"""Networks to be exported, built from names and configs, with their weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from mmrecnext.checkpoint import backbone_weights, load_network, read_checkpoint
from mmrecnext.checkpoint.fit import with_weights
from mmrecnext.checkpoint.sources import hash_of
from mmrecnext.engine.build import build_network, fit_cpu
from mmrecnext.engine.configs import type_of
from mmrecnext.engine.data import leaf_datasets, tested_dataset
from mmrecnext.engine.frameworks import framework_of
from mmrecnext.engine.named import named
from mmrecnext.errors import ConfigError, OptionError
from mmrecnext.export.heads import subject_maker
from mmrecnext.export.images import preparation_of
from mmrecnext.export.subjects import Subject, backbone_subject
from mmrecnext.models.classifier import backbone_class
from mmrecnext.models.recnext import RecNeXt
from mmrecnext.pretrained import get_pretrained

RESIZES = ('Resize', 'ResizeToMultiple', 'ResizeShortestEdge', 'CenterCrop', 'Pad')
"""Transforms that give pictures their size."""


def source(model: str, checkpoint: str) -> dict[str, Any]:
    """Return what a file tells of where its network comes from, without folders."""
    return dict(
        name=Path(model).name,
        checkpoint=Path(checkpoint).name,
        checkpoint_sha256=hash_of(checkpoint),
    )


def published_backbone(
    name: str,
    checkpoint: str | None = None,
    deploy: bool = True,
    original: Callable[[RecNeXt], nn.Module] | None = None,
) -> Subject:
    """Return the backbone of a model by its name.

    Args:
        name: such as ``recnext_m3`` or ``recnext_m3.base_300e_in1k``; with a checkpoint
            whatever :func:`~mmrecnext.engine.named.named` takes.
        checkpoint: its weights, in any form; by default the published ones.
        deploy: whether to merge batch norms.
        original: makes the original computation of it, which is then exported.

    Raises:
        OptionError: for an unknown name, one without published weights, or the original
            of what is no published RecNeXt.
        CheckpointError: for weights of another model.
    """
    if original or checkpoint is None:
        published = get_pretrained(name)
        arch: Any = published.arch
        checkpoint = checkpoint or published.url
    else:
        arch = named(name).arch
    weights = backbone_weights(read_checkpoint(checkpoint, 'cpu'))
    backbone: Any = backbone_class(arch)(arch)
    with_weights(backbone, backbone.own_weights(weights), checkpoint)
    about = source(name, checkpoint)
    if original:
        own = original(backbone)
        return backbone_subject(own, deploy=False, form='original', **about)
    return backbone_subject(backbone, deploy=deploy, **about)


def network_subject(
    cfg: Config,
    checkpoint: str,
    backbone: bool = False,
    deploy: bool = True,
    logits: bool = False,
    masks: str | None = None,
) -> Subject:
    """Return the network of a config, or its backbone alone.

    Args:
        cfg: as ``load_config`` returns it; changed.
        checkpoint: weights of the whole network.
        backbone: whether to export the backbone alone, whatever head there is.
        deploy: whether to merge batch norms.
        logits: see :func:`~mmrecnext.export.subjects.segmentor_subject`.
        masks: see :func:`~mmrecnext.export.detectors.two_stage_subject`.

    Raises:
        OptionError: for an option of another kind of network.
        ConfigError: for a config without names of classes.
        CheckpointError: for weights of another network.
        ExportError: for a head that has no row in ``HEADS``.
    """
    fit_cpu(cfg)
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None  # the checkpoint holds it
    elif backbone:
        raise ConfigError('the model of the config has no `backbone`')
    scope = cfg.default_scope
    predicts = framework_of(cfg).predicts
    if masks and predicts != 'instances' and not backbone:
        raise OptionError('--masks is for detectors')
    if logits and predicts != 'label map' and not backbone:
        raise OptionError('--logits is for segmentors')
    model: Any = build_network(cfg.model, scope).eval()
    make = None if backbone else subject_maker(model, scope)  # before what takes long
    meta = load_network(model, checkpoint).get('meta') or {}
    how = preparation_of(cfg.model.get('data_preprocessor') or {})
    about = dict(resize=resizes(cfg), **source(cfg.filename or scope, checkpoint))
    if make is None:
        return backbone_subject(model.backbone, how, deploy, **about)
    segments = predicts == 'label map'
    about.update(dict(logits=logits) if segments else dict(masks=masks))
    return make(model, how, deploy, **about, **classes(cfg, meta, model))


def classes(cfg: Config, meta: dict[str, Any], model: Any) -> dict[str, Any]:
    """Return names and colours of the classes of a network."""
    from mmrecnext.engine.predictions import describe_classes  # here: it draws

    names = ('decode_head', 'bbox_head', 'roi_head.bbox_head')
    modules = dict(model.named_modules())
    heads = (modules.get(name + stage) for name in names for stage in ('', '.0'))
    counts = (getattr(head, 'num_classes', None) for head in heads)
    count = next(filter(None, counts), None)
    dataset = tested_dataset(cfg, 'which names the classes')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        told = describe_classes(meta, dataset, count)
    return dict(
        classes=list(told['classes']),
        palette=[[int(x) for x in colour] for colour in told['palette']],
    )


def resizes(cfg: Config) -> list[dict[str, Any]] | None:
    """Return the steps of a test's pipeline that give pictures their size."""
    if 'dataset' not in (cfg.get('test_dataloader') or {}):
        return None
    dataset = next(leaf_datasets(cfg.test_dataloader.dataset))
    steps = dataset.get('pipeline') or ()
    return [
        {**step, 'type': type_of(step)} for step in steps if type_of(step) in RESIZES
    ]
