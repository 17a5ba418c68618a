"""What a detector finds, misses and takes for something else."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmrecnext.report.records import Evaluation, Object, Picture

IOU = 0.5
"""Least overlap of a detection with the object that it finds."""

BINS = 10
"""Of scores, in the picture of their calibration."""

DOUBTED = 0.1
"""Least score of what is looked at for doubt."""


@dataclass
class Match:
    """How what was found in a picture meets what is there.

    Args:
        pairs: of a detection and the object that it overlaps most, by their places in
            ``found`` and ``truth``, and their overlap, from 0 to 1.
        spare: detections of nothing.
        missed: objects that none overlaps.
    """

    pairs: list[tuple[int, int, float]]
    spare: list[int]
    missed: list[int]

    def quality(self, picture: Picture) -> float:
        """Return the F1 score of a picture, 1 where nothing is there nor found."""
        right = sum(
            picture.found[i].label == picture.truth[j].label for i, j, _ in self.pairs
        )
        count = 2 * len(self.pairs) + len(self.spare) + len(self.missed)
        return 2 * right / count if count else 1.0


def overlaps(
    found: Sequence[Object], truth: Sequence[Object], masks: bool
) -> np.ndarray:
    """Return the overlap of each detection with each object.

    Of an object that is ignored, the share of the detection that lies in it, as COCO
    has it.

    Returns:
        ``[found, truth]``, from 0 to 1.
    """
    if not (found and truth):
        return np.zeros((len(found), len(truth)))
    crowds = [int(x.ignored) for x in truth]
    regions = [[x.mask if masks else to_xywh(x.box) for x in s] for s in (found, truth)]
    return np.asarray(coco_mask.iou(*regions, crowds))


def to_xywh(box: Sequence[float]) -> list[float]:
    """Return corners as corner, width and height."""
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def has_masks(pictures: Sequence[Picture]) -> bool:
    """Tell whether all objects, there and found, have masks."""
    objects = [x for p in pictures for x in (*p.truth, *p.found)]
    return bool(objects) and all(x.mask is not None for x in objects)


def match(picture: Picture, score_thr: float, masks: bool) -> Match:
    """Match what was found with what is there, the surest first.

    Each detection takes the object that it overlaps most of those that are left, one
    of its own class before others. What lies in an ignored object is left out.
    """
    order = sorted(
        (i for i, x in enumerate(picture.found) if x.score >= score_thr),
        key=lambda i: -picture.found[i].score,
    )
    ious = overlaps(picture.found, picture.truth, masks)
    ignored = np.array([x.ignored for x in picture.truth], bool)
    labels = np.array([x.label for x in picture.truth], int)
    left = ~ignored
    result = Match([], [], [])
    for i in order:
        near = np.flatnonzero(left & (ious[i] >= IOU))
        if near.size:
            same = labels[near] == picture.found[i].label
            best = near[np.lexsort((ious[i, near], same))[-1]]
            left[best] = False
            result.pairs.append((i, int(best), float(ious[i, best])))
        elif not (ignored & (ious[i] >= IOU)).any():
            result.spare.append(i)
    result.missed = np.flatnonzero(left).tolist()
    return result


def confusion(pictures: Sequence[Picture], matches: Sequence[Match], count: int):
    """Count which objects were taken for which.

    Returns:
        ``[classes + 1, predicted classes + 1]``; the last is the background.
    """
    table = np.zeros((count + 1, count + 1), int)
    for picture, found in zip(pictures, matches, strict=True):
        for i, j, _ in found.pairs:
            table[picture.truth[j].label, picture.found[i].label] += 1
        for i in found.spare:
            table[count, picture.found[i].label] += 1
        for j in found.missed:
            table[picture.truth[j].label, count] += 1
    return table


@dataclass
class Calibration:
    """Scores, in bins, and how many of them are right.

    Args:
        scores: the mean of each bin, NaN of one without detections.
        precisions: the share of its detections that find an object of their class.
        counts: of its detections.
    """

    scores: np.ndarray
    precisions: np.ndarray
    counts: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error, from 0 to 1."""
        if not self.counts.sum():
            return float('nan')
        gaps = np.nan_to_num(np.abs(self.scores - self.precisions))
        return float((gaps * self.counts).sum() / self.counts.sum())


def calibrate(pictures: Sequence[Picture], masks: bool) -> Calibration:
    """Compare the scores of detections with how many of them are right."""
    scores, right = [], []
    for picture in pictures:
        found = match(picture, DOUBTED / 2, masks)
        for i, j, _ in found.pairs:
            scores.append(picture.found[i].score)
            right.append(picture.found[i].label == picture.truth[j].label)
        scores += [picture.found[i].score for i in found.spare]
        right += [False] * len(found.spare)
    bins = np.minimum((np.array(scores) * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid='ignore'):
        return Calibration(
            np.bincount(bins, scores, BINS) / counts,
            np.bincount(bins, right, BINS) / counts,
            counts,
        )


def doubt(picture: Picture) -> float:
    """Tell how much of what was found is neither sure nor improbable, from 0 to 1.

    The mean of ``4 s (1 - s)`` of all scores ``s`` from 0.1 on.
    """
    scores = np.array([x.score for x in picture.found if x.score >= DOUBTED])
    return float((4 * scores * (1 - scores)).mean()) if scores.size else 0.0


@dataclass
class Precision:
    """What COCO measures, of boxes or masks.

    Args:
        kind: ``bbox`` or ``segm``.
        precision: ``[10 overlaps, 101 recalls, classes, 4 sizes]``, NaN where there
            are no objects.
        recall: ``[10 overlaps, classes, 4 sizes]``, likewise.
        counts: objects of each class that are not ignored.
    """

    kind: str
    precision: np.ndarray
    recall: np.ndarray
    counts: np.ndarray

    def row(self, label: int) -> list[float]:
        """Return the AP, AP50, AP75 and AR of a class, from 0 to 1, and by size."""
        every, sizes = self.precision[:, :, label], range(1, 4)
        whole = every[..., 0]
        return [
            *map(mean, (whole, whole[0], whole[5], self.recall[:, label, 0])),
            *(mean(every[..., size]) for size in sizes),
        ]


COLUMNS = ('AP', 'AP50', 'AP75', 'AR', 'APs', 'APm', 'APl')
"""What a row of :class:`Precision` holds."""


def mean(values: np.ndarray) -> float:
    """Return the mean of what was measured, NaN if nothing was."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float('nan')


def measure(evaluation: Evaluation, kind: str) -> Precision:
    """Measure by COCO's own code, with at most 100 detections a picture.

    Args:
        evaluation: of a detector.
        kind: ``bbox`` or ``segm``.
    """
    count = len(evaluation.classes)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, picture in enumerate(evaluation.pictures, 1):
        height, width = picture.size
        images.append({'id': number, 'height': height, 'width': width})
        for x in picture.truth:
            annotations.append(
                {
                    **as_annotation(x, number, kind),
                    'id': len(annotations) + 1,
                    'iscrowd': int(x.ignored),
                }
            )
        results += [
            {**as_annotation(x, number, kind), 'score': x.score} for x in picture.found
        ]
    truth = COCO()
    categories = [{'id': i, 'name': n} for i, n in enumerate(evaluation.classes)]
    truth.dataset = {
        'info': {},
        'images': images,
        'annotations': annotations,
        'categories': categories,
    }
    counts = [x.label for p in evaluation.pictures for x in p.truth if not x.ignored]
    with redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes(results) if results else COCO()
        own = COCOeval(truth, found, kind)
        own.params.catIds = [*range(count)]
        own.params.imgIds = [*range(1, len(images) + 1)]
        own.evaluate()
        own.accumulate()
    precision, recall = (own.eval[k][..., -1] for k in ('precision', 'recall'))
    return Precision(
        kind,
        np.where(precision < 0, np.nan, precision),
        np.where(recall < 0, np.nan, recall),
        np.bincount(counts, minlength=count),
    )


def as_annotation(x: Object, picture: int, kind: str) -> dict[str, Any]:
    """Return an object in COCO's form."""
    box = to_xywh(x.box)
    area = box[2] * box[3] if x.mask is None else float(coco_mask.area(x.mask))
    own: dict[str, Any] = {'image_id': picture, 'category_id': x.label, 'area': area}
    return {**own, **({'bbox': box} if kind == 'bbox' else {'segmentation': x.mask})}
