"""Writes the plots and pictures that a page shows."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from pycocotools import mask as coco_mask

from mmrecnext.engine.outputs import draw_into, read_picture
from mmrecnext.engine.predictions import PREDICTIONS
from mmrecnext.plots import save_figure
from mmrecnext.report.page import Shown
from mmrecnext.report.records import Evaluation, Object, Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mmengine.visualization import Visualizer


class Writer:
    """Writes the plots and pictures of an evaluation, and names their files.

    Args:
        folder: of the page.
        evaluation: what they are of.
        visualizer: the framework's.
    """

    def __init__(self, folder: Path, evaluation: Evaluation, visualizer: Visualizer):
        self.folder, self.evaluation, self.visualizer = folder, evaluation, visualizer
        for name in ('plots', 'pictures'):
            (folder / name).mkdir(exist_ok=True)

    def plot(self, name: str, figure: Figure, caption: str) -> Shown:
        """Write a plot."""
        file = f'plots/{name}.png'
        save_figure(figure, self.folder / file, dpi=110)
        return Shown(file, caption)

    def draw(self, name: str, picture: Picture, caption: str) -> Shown:
        """Draw a picture: what is there on the left, what was found on the right.

        Args:
            name: of the file, without its suffix.
            picture: what to draw.
            caption: stands below.
        """
        file = f'pictures/{name}.jpg'
        image = read_picture(picture.path, picture.size)
        predicts = self.evaluation.predicts
        sample = detected(picture) if predicts == 'instances' else segmented(picture)
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='.* out of bounds')
            draw_into(
                self.folder / file,
                PREDICTIONS[predicts]({}),
                self.visualizer,
                name,
                image,
                sample,
                self.evaluation.score_thr,
            )
        return Shown(file, caption)


def detected(picture: Picture) -> BaseDataElement:
    """Return a picture as a sample of MMDetection."""
    from mmdet.structures import DetDataSample

    truth = [x for x in picture.truth if not x.ignored]
    return DetDataSample(
        gt_instances=instances(truth, picture.size),
        pred_instances=instances(picture.found, picture.size),
    )


def instances(objects: Sequence[Object], size: tuple[int, int]) -> InstanceData:
    """Return objects as MMDetection has them."""
    data = InstanceData(
        bboxes=torch.tensor([x.box for x in objects]).reshape(-1, 4),
        labels=torch.tensor([x.label for x in objects], dtype=torch.long),
        scores=torch.tensor([x.score for x in objects]),
    )
    if objects and all(x.mask is not None for x in objects):
        masks = [coco_mask.decode(x.mask) for x in objects]
        data.masks = np.stack(masks).astype(bool)
    return data


def segmented(picture: Picture) -> BaseDataElement:
    """Return a picture as a sample of MMSegmentation."""
    from mmseg.structures import SegDataSample

    maps = (label_map(x) for x in (picture.true_labels, picture.labels))
    truth, found = (PixelData(data=torch.from_numpy(x[None])) for x in maps)
    return SegDataSample(gt_sem_seg=truth, pred_sem_seg=found)


def label_map(content: str) -> np.ndarray:
    """Read a label map, ``[H, W]``, int64, of a PNG in base64."""
    data = np.frombuffer(base64.b64decode(content), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), np.int64)
