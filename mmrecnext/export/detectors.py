"""Detectors as subjects: what their files return, tell, and have to equal."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmrecnext.errors import ExportError, OptionError
from mmrecnext.export.dense import CODERS, DenseHead, WholeDenseDetector
from mmrecnext.export.images import Preparation
from mmrecnext.export.matching import (
    PADDING,
    compare_detections,
    compare_roughly,
    count_missing,
)
from mmrecnext.export.proof import LIMIT
from mmrecnext.export.subjects import Subject, description, exportable
from mmrecnext.export.two_stage import WholeTwoStageDetector
from mmrecnext_autoload.choices import MASKS

TWO_STAGE = ('TwoStageDetector', 'FasterRCNN', 'MaskRCNN', 'CascadeRCNN')
"""Types of models that do no more than look for regions, and at these."""

BOX_HEADS = (
    'BBoxHead',
    'ConvFCBBoxHead',
    'Shared2FCBBoxHead',
    'Shared4Conv1FCBBoxHead',
)
"""Types of heads that tell a class and a box of each region."""

DETECTIONS = 300
"""How many rows there are where a ``test_cfg`` sets no ``max_per_img``: a YOLOX head
returns whatever is left."""

NOISE = 1e-3
"""What is added to pictures, of numbers from 0 to 255, to see what rounding decides."""

NMS_OPTIONS = ('type', 'iou_threshold', 'split_thr')
"""Options of a suppression that files follow; ``split_thr`` changes nothing but how
MMDetection goes about it."""


def dense_subject(
    model: Any,
    how: Preparation,
    deploy: bool = True,
    masks: str | None = None,
    kind: type[DenseHead] = DenseHead,
    **about: Any,
) -> Subject:
    """Return a detector that predicts boxes at each place of its maps.

    What they have to equal comes from ``model.test_step``.

    Args:
        model: a ``SingleStageDetector`` of MMDetection, in inference.
        how: what its pictures go through.
        deploy: whether to merge its batch norms, in a copy.
        masks: see :func:`two_stage_subject`.
        kind: of the head.
        about: what the file is to tell besides.

    Raises:
        ExportError: for a ``test_cfg`` or a coder that files do not follow.
        OptionError: for masks of what predicts none.
    """
    cfg = model.bbox_head.test_cfg
    check_steps(cfg, 'model.test_cfg', kind.counts)
    if not hasattr(model.bbox_head, 'loss_cls'):
        raise ExportError(
            'SSDHead of MMDetection 3.3 predicts nothing; set '
            "`model.bbox_head.type='mmrecnext.SSDHead'`, which has the same weights"
        )
    if hasattr(model.bbox_head, 'bbox_coder'):
        check_coder(model.bbox_head, 'model.bbox_head')
    cfg.setdefault('max_per_img', DETECTIONS)
    check_masks(masks, MASKS[:1] if kind.masks else ())
    network = WholeDenseDetector(exportable(model, deploy), how, kind)
    masks = MASKS[0] if kind.masks else None
    return detector(model, network, cfg, masks, how, deploy, test_cfg=cfg, **about)


def two_stage_subject(
    model: Any,
    how: Preparation,
    deploy: bool = True,
    masks: str | None = None,
    **about: Any,
) -> Subject:
    """Return a detector that looks for regions first, and at each of them then.

    What they have to equal comes from ``model.test_step``.

    Args:
        model: a Faster, Mask or Cascade R-CNN of MMDetection, in inference.
        how: what its pictures go through.
        deploy: whether to merge its batch norms, in a copy.
        masks: of one that predicts masks, a name in ``MASKS``; by default the first.
        about: what the file is to tell besides.

    Raises:
        ExportError: for a ``test_cfg`` or a part that files do not follow.
        OptionError: for unknown masks, or masks of what predicts none.
    """
    roi_head = model.roi_head
    check_type(model, TWO_STAGE, 'model')
    check_type(model.rpn_head, ('RPNHead',), 'model.rpn_head')
    check_coder(model.rpn_head, 'model.rpn_head')
    check_steps(model.rpn_head.test_cfg, 'model.test_cfg.rpn', DenseHead.counts)
    check_steps(roi_head.test_cfg, 'model.test_cfg.rcnn', ('max_per_img',))
    for name, known in (('bbox_head', BOX_HEADS), ('mask_head', ('FCNMaskHead',))):
        for part in several(getattr(roi_head, name, None)):
            check_type(part, known, f'model.roi_head.{name}')
            if name == 'bbox_head':
                check_coder(part, f'model.roi_head.{name}')
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        for part in several(getattr(roi_head, name, None)):
            check_type(part, ('SingleRoIExtractor',), f'model.roi_head.{name}')
            for layer in part.roi_layers:
                check_type(layer, ('RoIAlign',), f'model.roi_head.{name}.roi_layer')
    check_masks(masks, MASKS if roi_head.with_mask else ())
    kind = (masks or MASKS[0]) if roi_head.with_mask else None
    network = WholeTwoStageDetector(exportable(model, deploy), how, kind)
    steps = dict(rpn=model.rpn_head.test_cfg, rcnn=roi_head.test_cfg)
    cfg = roi_head.test_cfg
    return detector(model, network, cfg, kind, how, deploy, test_cfg=steps, **about)


def detector(
    model: Any,
    network: nn.Module,
    cfg: Any,
    masks: str | None,
    how: Preparation,
    deploy: bool,
    test_cfg: Any,
    **about: Any,
) -> Subject:
    """Return a detector.

    Args:
        model: as it is.
        network: as a file holds it.
        cfg: its last ``test_cfg``.
        masks: a name in ``MASKS``, or None for none.
        how: what its pictures go through.
        deploy: whether batch norms have been merged.
        test_cfg: what the file is to tell of thresholds and numbers.
        about: and besides.
    """
    # Registers torch.ops.torchvision; here, since it takes tools a second to start.
    import torchvision  # noqa: F401

    about = dict(test_cfg=plain(test_cfg), masks=masks, **about)
    return Subject(
        network=network.eval(),
        outputs=('dets', 'labels', 'masks') if masks else ('dets', 'labels'),
        reference=partial(run_test_step, model, cfg, bool(masks)),
        compare=partial(compare_detections, cfg=cfg),
        compare_roughly=partial(compare_roughly, cfg=cfg),
        about=description('detection', how, deploy, **about),
    )


def several(parts: Any) -> list[Any]:
    """Return the parts of all stages, or the only one, or none."""
    if parts is None:
        return []
    return [*parts] if isinstance(parts, nn.ModuleList) else [parts]


def check_type(part: Any, known: Collection[str], name: str) -> None:
    """Check that files know how a part of a network works.

    Raises:
        ExportError: where they do not, naming what they know.
    """
    kind = type(part).__name__
    if kind not in known:
        raise ExportError(
            f'`{name}` is of type {kind}: files know {", ".join(sorted(known))}'
        )


def check_coder(head: Any, name: str) -> None:
    """Check that files know how a head tells boxes; likewise."""
    check_type(head.bbox_coder, CODERS, f'{name}.bbox_coder')


def check_masks(masks: str | None, known: Collection[str]) -> None:
    """Check what is to become of masks.

    Args:
        masks: its name, or None for what is usual.
        known: what a network allows.

    Raises:
        OptionError: for anything else.
    """
    if masks is not None and masks not in known:
        raise OptionError(
            f'this network has masks of {" or ".join(known) or "no kind"}, got {masks}'
        )


def check_steps(cfg: Mapping[str, Any], name: str, counts: Collection[str]) -> None:
    """Check that files can follow how detections are chosen.

    Args:
        cfg: a ``test_cfg``.
        name: of it in the config.
        counts: options that it has to have, numbers of boxes.

    Raises:
        ExportError: where they cannot, naming the option.
    """
    for problem in _misfits(cfg, counts):
        raise ExportError(f'`{name}.{problem}')


def _misfits(cfg: Mapping[str, Any], counts: Collection[str]) -> Iterator[str]:
    nms = cfg.get('nms') or {}
    kind = nms.get('type', 'nms')
    if kind != 'nms' or 'iou_threshold' not in nms:
        yield f'nms` is {dict(nms)}: files suppress by type nms and an iou_threshold'
    for option in nms.keys() - set(NMS_OPTIONS):
        yield (
            f'nms.{option}` is {nms[option]}: files know {", ".join(NMS_OPTIONS)} alone'
        )
    for option in ('nms_pre', 'max_per_img'):
        number = cfg.get(option, -1 if option in counts else 1)
        if number < 1:
            yield f'{option}` is {number}: files hold a fixed number, of 1 or more'
    if cfg.get('mask_thr_binary', 0) < 0:
        yield f'mask_thr_binary` is {cfg["mask_thr_binary"]}: of files it is 0 or more'


def plain(cfg: Any) -> Any:
    """Return a config as dicts and lists, ready for JSON."""
    if isinstance(cfg, Mapping):
        return {key: plain(value) for key, value in cfg.items()}
    if isinstance(cfg, list | tuple):
        return [plain(value) for value in cfg]
    return cfg


def run_test_step(
    model: Any, cfg: Any, masks: bool, images: Tensor
) -> dict[str, Tensor]:
    """Return detections as MMDetection makes them, of pictures as they are given.

    Args:
        model: a detector in inference.
        cfg: its last ``test_cfg``.
        masks: whether it predicts masks.
        images: ``[N, 3, H, W]``.

    Returns:
        ``dets`` and ``labels``, as files have them, and ``unstable`` ``[N]``: how many
        of them are missing in the same pictures with a little noise. Of masks,
        ``masks_least`` and ``masks_most``, ``[N, K, H, W]``: without and with the
        pixels whose value is that of the threshold, but for rounding.
    """
    run = partial(rows, model, cfg.max_per_img)
    found = run(images)
    noise = torch.empty(images.shape).uniform_(
        -NOISE, NOISE, generator=torch.Generator().manual_seed(0)
    )
    found['unstable'] = count_missing(found, run(images + noise))
    if masks:
        limit = cfg.mask_thr_binary
        for name, value in ('least', limit + LIMIT), ('most', max(limit - LIMIT, 0)):
            with replaced(cfg, 'mask_thr_binary', value):
                found[f'masks_{name}'] = run(images)['masks']
    return found


@contextmanager
def replaced(cfg: Any, name: str, value: Any) -> Iterator[None]:
    """Have an option of a config at another value for a while."""
    former = cfg[name]
    cfg[name] = value
    try:
        yield
    finally:
        cfg[name] = former


def rows(model: Any, count: int, images: Tensor) -> dict[str, Tensor]:
    """Return what ``model.test_step`` finds, made up to a number of rows.

    Args:
        model: a detector in inference.
        count: of rows.
        images: ``[N, 3, H, W]``.
    """
    from mmdet.structures import DetDataSample

    size = tuple(images.shape[2:])
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    samples = [DetDataSample(metainfo=meta) for _ in images]
    found = model.test_step(dict(inputs=[*images], data_samples=samples))
    dets = torch.tensor(PADDING).repeat(len(found), count, 1)
    labels = torch.full((len(found), count), -1)
    results = {'dets': dets, 'labels': labels}
    if 'masks' in found[0].pred_instances:
        results['masks'] = torch.zeros(len(found), count, *size, dtype=torch.bool)
    for i, each in enumerate(found):
        x = each.pred_instances[:count]
        dets[i, : len(x)] = torch.cat([x.bboxes, x.scores[:, None]], 1)
        labels[i, : len(x)] = x.labels
        if 'masks' in x:
            results['masks'][i, : len(x)] = x.masks
    return results
