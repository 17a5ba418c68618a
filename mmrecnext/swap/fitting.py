"""What fits the models of each framework to a new backbone."""

from __future__ import annotations

from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.swap.classification import ClassificationFitter
from mmrecnext.swap.consumers import Fitter
from mmrecnext.swap.detection import DetectionFitter
from mmrecnext.swap.detection3d import Detection3DFitter
from mmrecnext.swap.pose import PoseFitter
from mmrecnext.swap.segmentation import SegmentationFitter
from mmrecnext.swap.yolo import YOLOFitter

FITTERS: dict[str, type[Fitter]] = {
    'classification': ClassificationFitter,
    'detection': DetectionFitter,
    '3d detection': Detection3DFitter,
    'pose': PoseFitter,
    'segmentation': SegmentationFitter,
    'yolo': YOLOFitter,
}
"""By the word that a row of ``FRAMEWORKS`` has."""


def fitter_of(scope: str, fpn: bool = False) -> Fitter:
    """Return what fits models of a framework; see :class:`Fitter`."""
    return FITTERS[FRAMEWORKS[scope].fitter](scope, fpn)
