"""The heads that can be exported, one row each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.errors import ExportError
from mmrecnext.export.dense_heads import InstanceHead, IntegralHead, YOLOXHead
from mmrecnext.export.detectors import dense_subject, two_stage_subject
from mmrecnext.export.subjects import Subject, segmentor_subject

HEADS: dict[tuple[str, str], Callable[..., Subject]] = {
    ('mmseg', 'ANNHead'): segmentor_subject,
    ('mmseg', 'APCHead'): segmentor_subject,
    ('mmseg', 'ASPPHead'): segmentor_subject,
    ('mmseg', 'CCHead'): segmentor_subject,
    ('mmseg', 'DAHead'): segmentor_subject,
    ('mmseg', 'DNLHead'): segmentor_subject,
    ('mmseg', 'DepthwiseSeparableASPPHead'): segmentor_subject,
    ('mmseg', 'DepthwiseSeparableFCNHead'): segmentor_subject,
    ('mmseg', 'EMAHead'): segmentor_subject,
    ('mmseg', 'EncHead'): segmentor_subject,
    ('mmseg', 'FCNHead'): segmentor_subject,
    ('mmseg', 'FPNHead'): segmentor_subject,
    ('mmseg', 'GCHead'): segmentor_subject,
    ('mmseg', 'ISAHead'): segmentor_subject,
    ('mmseg', 'LRASPPHead'): segmentor_subject,
    ('mmseg', 'NLHead'): segmentor_subject,
    ('mmseg', 'OCRHead'): segmentor_subject,
    ('mmseg', 'PSPHead'): segmentor_subject,
    ('mmseg', 'SETRMLAHead'): segmentor_subject,
    ('mmseg', 'SETRUPHead'): segmentor_subject,
    ('mmseg', 'STDCHead'): segmentor_subject,
    ('mmseg', 'SegformerHead'): segmentor_subject,
    ('mmseg', 'UPerHead'): segmentor_subject,
    ('mmdet', 'RetinaHead'): dense_subject,
    ('mmdet', 'FCOSHead'): dense_subject,
    ('mmdet', 'ATSSHead'): dense_subject,
    ('mmdet', 'SSDHead'): dense_subject,
    ('mmdet', 'RTMDetHead'): dense_subject,
    ('mmdet', 'RTMDetSepBNHead'): dense_subject,
    ('mmdet', 'GFLHead'): partial(dense_subject, kind=IntegralHead),
    ('mmdet', 'YOLOXHead'): partial(dense_subject, kind=YOLOXHead),
    ('mmdet', 'RTMDetInsHead'): partial(dense_subject, kind=InstanceHead),
    ('mmdet', 'RTMDetInsSepBNHead'): partial(dense_subject, kind=InstanceHead),
    ('mmdet', 'StandardRoIHead'): two_stage_subject,
    ('mmdet', 'CascadeRoIHead'): two_stage_subject,
}
"""What makes a subject of a network, by framework and type of the head that predicts.

It is called with the network, the preparation of its pictures, whether to deploy it,
and by name with what its files are to return and to tell.
"""

PROPOSES = 'rpn_head'
"""The head whose boxes are no results, if there is another one."""


def subject_maker(model: Any, scope: str) -> Callable[..., Subject]:
    """Return what makes a subject of a network.

    Args:
        model: a detector or segmentor.
        scope: the framework that it is of.

    Raises:
        ExportError: for a head that has no row, naming those that have.
    """
    kinds = [
        type(head[-1] if isinstance(head, nn.ModuleList) else head).__name__
        for part in sorted(FRAMEWORKS[scope].heads, key=PROPOSES.__eq__)
        if isinstance(head := getattr(model, part, None), nn.Module)
    ]
    for kind in kinds[:1]:
        if (scope, kind) in HEADS:
            return HEADS[scope, kind]
    known = [head for framework, head in HEADS if framework == scope]
    raise ExportError(
        f'{type(model).__name__} predicts by {" and ".join(kinds) or "no known head"}, '
        f'which has no row in HEADS of mmrecnext/export/heads.py; of {scope}, those '
        f'that have are {", ".join(known) or "none yet"}. --backbone exports the '
        'backbone alone'
    )
