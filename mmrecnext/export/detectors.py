"""Detectors as subjects: what their files return, tell, and have to equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmrecnext.errors import ExportError
from mmrecnext.export.dense import DenseHead, WholeDenseDetector
from mmrecnext.export.images import Preparation
from mmrecnext.export.matching import PADDING, compare_detections
from mmrecnext.export.subjects import Subject, description, exportable

NMS_OPTIONS = ('type', 'iou_threshold', 'split_thr')
"""Options of a suppression that files follow; ``split_thr`` changes nothing but how
MMDetection goes about it."""


def dense_subject(
    model: Any,
    how: Preparation,
    deploy: bool = True,
    kind: Callable[[Any], DenseHead] = DenseHead,
    **about: Any,
) -> Subject:
    """Return a detector that predicts boxes at each place of its maps.

    What they have to equal comes from ``model.test_step``.

    Args:
        model: a ``SingleStageDetector`` of MMDetection, in inference.
        how: what its pictures go through.
        deploy: whether to merge its batch norms, in a copy.
        kind: of the head.
        about: what the file is to tell besides.

    Raises:
        ExportError: for a ``test_cfg`` that files do not follow.
    """
    cfg = model.bbox_head.test_cfg
    check_steps(cfg, 'model.test_cfg')
    return Subject(
        network=WholeDenseDetector(exportable(model, deploy), how, kind).eval(),
        outputs=('dets', 'labels'),
        reference=partial(run_test_step, model, cfg.max_per_img),
        compare=partial(compare_detections, cfg=cfg),
        about=description('detection', how, deploy, test_cfg=plain(cfg), **about),
    )


def check_steps(cfg: Mapping[str, Any], name: str) -> None:
    """Check that files can follow how detections are chosen.

    Args:
        cfg: a ``test_cfg`` with ``nms``, ``max_per_img`` and perhaps ``nms_pre``.
        name: of it in the config.

    Raises:
        ExportError: where they cannot, naming the option.
    """
    for problem in _misfits(cfg):
        raise ExportError(f'`{name}.{problem}')


def _misfits(cfg: Mapping[str, Any]) -> Iterator[str]:
    nms = cfg.get('nms') or {}
    kind = nms.get('type', 'nms')
    if kind != 'nms' or 'iou_threshold' not in nms:
        yield f'nms` is {dict(nms)}: files suppress by type nms and an iou_threshold'
    for option in nms.keys() - set(NMS_OPTIONS):
        yield (
            f'nms.{option}` is {nms[option]}: files know {", ".join(NMS_OPTIONS)} alone'
        )
    for option in ('nms_pre', 'max_per_img'):
        if cfg.get(option, 1) < 1:
            yield f'{option}` is {cfg[option]}: files hold a fixed number, of 1 or more'


def plain(cfg: Any) -> Any:
    """Return a config as dicts and lists, ready for JSON."""
    if isinstance(cfg, Mapping):
        return {key: plain(value) for key, value in cfg.items()}
    if isinstance(cfg, list | tuple):
        return [plain(value) for value in cfg]
    return cfg


def run_test_step(model: Any, count: int, images: Tensor) -> dict[str, Tensor]:
    """Return detections as MMDetection makes them, of pictures as they are given.

    Args:
        model: a detector in inference.
        count: of detections, made up by rows of padding.
        images: ``[N, 3, H, W]``.

    Returns:
        ``dets`` and ``labels``, as files have them.
    """
    from mmdet.structures import DetDataSample

    size = tuple(images.shape[2:])
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    samples = [DetDataSample(metainfo=meta) for _ in images]
    found = model.test_step(dict(inputs=[*images], data_samples=samples))
    results = [x.pred_instances[:count] for x in found]
    dets = torch.tensor(PADDING).repeat(len(found), count, 1)
    labels = torch.full((len(found), count), -1)
    for i, x in enumerate(results):
        dets[i, : len(x)] = torch.cat([x.bboxes, x.scores[:, None]], 1)
        labels[i, : len(x)] = x.labels
    return {'dets': dets, 'labels': labels}
