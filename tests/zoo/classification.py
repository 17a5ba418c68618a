"""Made-up pictures and classes, for MMPretrain."""

from __future__ import annotations

import torch
from mmengine.config import Config

from mmrecnext.engine.configs import type_of

VIEWS = {'SwAV': 8}
"""Of a picture, where a model does not learn from two."""

LABELLED = 'ImageClassifier'


def classification_batch(cfg: Config, side: int, training: bool) -> dict:
    """Return two pictures and their classes, or views of two pictures.

    Args:
        cfg: the config.
        side: height and width of the pictures.
        training: whether to give the views that a model without labels learns from.
    """
    from mmpretrain.structures import DataSample

    random = torch.Generator().manual_seed(0)

    def pictures() -> torch.Tensor:
        size = (2, 3, side, side)
        return torch.randint(0, 256, size, dtype=torch.uint8, generator=random)

    kind = type_of(cfg.model)
    if kind == LABELLED or not training:
        head = type_of(cfg.model.get('head'))
        several = 'MultiLabel' in head or head == 'CSRAClsHead'
        samples = [DataSample().set_gt_label([i] if several else i) for i in range(2)]
        return dict(inputs=[*pictures()], data_samples=samples)
    views = [pictures() for _ in range(VIEWS.get(kind, 2))]
    return dict(inputs=views, data_samples=[DataSample() for _ in range(2)])
