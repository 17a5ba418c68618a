"""Boxes for a top-down pose estimator to look into: of a detector, or of a file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmrecnext.engine.data.annotations import Needs, load_json, read_annotations
from mmrecnext.engine.frameworks import framework_of
from mmrecnext.engine.predictor import Predictor
from mmrecnext.errors import ConfigError, DataError, brief, is_number

PERSON = 'person'

PERSON_ID = 1
"""Number of the category in files of detections, which name none; MMPose's too."""


class DetectedBoxes:
    """Finds the boxes of a class in pictures.

    Args:
        cfg: config of a detector of MMDetection or MMYOLO, as :class:`Predictor` takes
            it, and all that follows but ``name``.
        checkpoint: its weights.
        name: of the class.
        score_thr: least score of a box.
        **options: ``device``, ``deploy`` and ``dtype``.

    Raises:
        ConfigError: for a model of another kind, or that knows no such class.
        CheckpointError: for weights that do not fit.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str | None,
        name: str = PERSON,
        score_thr: float = 0.3,
        **options: Any,
    ):
        framework = framework_of(cfg)
        if framework.predicts != 'instances':
            raise ConfigError(
                f'boxes of people are from a detector of MMDetection or MMYOLO: models '
                f'of {framework.name} tell no upright boxes'
            )
        with DefaultScope.overwrite_default_scope(framework.scope):
            self.detector = Predictor(cfg, checkpoint, score_thr=score_thr, **options)
        classes = [*self.detector.classes]
        if name not in classes:
            raise ConfigError(
                f'the detector knows no {name}, but {brief(classes, 5)}: name a class '
                'with --box-class'
            )
        self.label = classes.index(name)

    def __call__(self, file: str | Path) -> np.ndarray:
        """Return the boxes in a picture, ``[N, 5]``: x1, y1, x2, y2 and the score.

        Raises:
            ConfigError: where the picture cannot be read, or the model tells no boxes.
        """
        _, sample = self.detector(file)
        if 'pred_instances' not in sample:
            raise ConfigError('what is named for a detector tells segments, no boxes')
        found = sample.pred_instances
        good = found.scores >= self.detector.score_thr
        found = found[good & (found.labels == self.label)]
        boxes = torch.cat([found.bboxes, found.scores[:, None]], 1).numpy()
        sides = boxes[:, 2:4] - boxes[:, :2]
        kept: np.ndarray = boxes[(sides >= 1).all(1)]
        return kept


class ListedBoxes:
    """Finds the boxes of a class in a file.

    Args:
        file: annotations in COCO's format, whose crowds are left out; or detections, as
            ``tools/test.py --out`` and MMDetection write them: a list of ``image_id``
            or ``file_name``, ``bbox`` (left, top, width, height), ``score`` and
            ``category_id`` each.
        name: of the class. Detections have none: ``person`` is category 1 there, any
            other is named by its number.
        score_thr: least score of a box; boxes of annotations have 1.

    Raises:
        DataError: naming what is wrong in the file, or which classes it has.
    """

    def __init__(self, file: str, name: str = PERSON, score_thr: float = 0.3):
        self.file = file
        content = load_json(file)
        if isinstance(content, Mapping):
            listed = _annotated(file, content, name)
        else:
            listed = _detected(file, content, name)
        self.boxes: defaultdict[Any, list[list[float]]] = defaultdict(list)
        for key, (x, y, width, height), score in listed:
            if score >= score_thr:
                self.boxes[key].append([x, y, x + width, y + height, score])

    def __call__(self, file: str | Path) -> np.ndarray:
        """Return the boxes in a picture, ``[N, 5]``: x1, y1, x2, y2 and the score.

        Its path ends in a ``file_name``, or its name without the suffix is an
        ``image_id``, as 139 is 000000000139.jpg.
        """
        path = PurePath(file)
        ends = ['/'.join(path.parts[i:]) for i in range(len(path.parts))]
        number = int(path.stem) if path.stem.isdecimal() else None
        for key in (path.as_posix(), *ends, path.stem, number):
            if key in self.boxes:
                return np.array(self.boxes[key])
        return np.empty((0, 5))

    def check(self, files: Iterable[str | Path]) -> None:
        """Refuse pictures of which none has a box.

        Raises:
            DataError: naming some that have.
        """
        files = [*files]
        if files and not any(len(self(file)) for file in files):
            raise DataError(
                f'{self.file} has boxes of {brief(self.boxes)}, but none of '
                f'{brief(files)}'
            )


Listed = Iterator[tuple[Any, list[float], float]]
"""A picture, a box (left, top, width, height) and its score."""


def _annotated(file: str, content: Mapping[str, Any], name: str) -> Listed:
    known = read_annotations(file, Needs())
    if name not in known.categories.values():
        names = brief(known.categories.values(), 5)
        raise DataError(
            f'{file} has no category {name}, but {names}: name one with --box-class'
        )
    for each in content.get('annotations') or ():
        wanted = known.categories[each['category_id']] == name
        if wanted and not each.get('iscrowd') and min(each['bbox'][2:]) > 0:
            yield known.images[each['image_id']]['file_name'], each['bbox'], 1.0


def _detected(file: str, content: Any, name: str) -> Listed:
    if not isinstance(content, list):
        raise DataError(
            f'{file} has no boxes: it is neither a list of detections, each an '
            'image_id or file_name, bbox, score and category_id, nor annotations in '
            "COCO's format"
        )
    if name != PERSON and not name.isdecimal():
        raise DataError(
            f'{file} numbers its categories: {name} is no number for --box-class'
        )
    wanted = PERSON_ID if name == PERSON else int(name)
    for place, each in enumerate(content):
        if fault := _fault(each):
            raise DataError(f'{file}: the detection [{place}] has {fault}')
    categories = {each['category_id'] for each in content}
    if content and wanted not in categories:
        known = brief(sorted(categories), 5)
        raise DataError(
            f'{file} has no box of category {wanted}, but of {known}: name one with '
            '--box-class'
        )
    for each in content:
        if each['category_id'] == wanted:
            yield _picture_of(each), each['bbox'], each['score']


def _picture_of(each: Mapping[str, Any]) -> Any:
    return each.get('file_name', each.get('image_id'))


def _fault(each: Any) -> str | None:
    """Say what a detection has that must not be."""
    if not isinstance(each, Mapping):
        return f'no fields, but is {each!r:.40}'
    if not isinstance(_picture_of(each), int | str):
        return 'neither an `image_id`, a number or a name, nor a `file_name`'
    box = each.get('bbox')
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        return f'a `bbox` that is not four finite numbers ({box!r:.80})'
    if min(box[2:]) <= 0:
        return f'a `bbox` without a width or a height ({box!r:.80})'
    if not is_number(each.get('score')):
        return f'a `score` that is no number ({each.get("score")!r:.40})'
    if not isinstance(each.get('category_id'), int):
        return f'a `category_id` that is no number ({each.get("category_id")!r:.40})'
    return None
