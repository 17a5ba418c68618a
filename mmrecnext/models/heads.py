"""A head that predicts where MMDetection's own does not."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from mmrecnext.registry import MODELS


@MODELS.register_module(name='SSDHead')
def ssd_head(**options: Any) -> nn.Module:
    """Build MMDetection's head of SSD, such that it predicts.

    MMDetection 3.2 and later look for the classes of every dense head in its
    ``loss_cls``, which this one lacks: it trains, and fails in the first validation.

    Args:
        **options: of MMDetection's ``SSDHead``.

    Returns:
        That head, without such a loss.
    """
    from mmdet.models import SSDHead

    head = SSDHead(**options)
    head.loss_cls = None
    return cast(nn.Module, head)
