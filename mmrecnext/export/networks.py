"""Networks as a file holds them: from pictures to results, with nothing around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmrecnext.export.images import Images, Preparation


class WholeClassifier(nn.Module):
    """From pictures to the logits of classes."""

    def __init__(self, model: nn.Module, how: Preparation):
        super().__init__()
        self.prepare = Images(how)
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Turn ``[N, 3, H, W]`` into ``[N, classes]``."""
        return (self.model(self.prepare(images)),)


class WholeBackbone(nn.Module):
    """From pictures to the maps of a backbone."""

    def __init__(self, backbone: nn.Module, how: Preparation):
        super().__init__()
        self.prepare = Images(how)
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Turn ``[N, 3, H, W]`` into one ``[N, C, H / stride, W / stride]`` each."""
        return tuple(self.backbone(self.prepare(images)))


class WholeSegmentor(nn.Module):
    """From pictures to the class of each pixel.

    Args:
        model: an ``EncoderDecoder`` of MMSegmentation whose head gives logits at once,
            or a ``CascadeEncoderDecoder`` of such heads.
        how: what its pictures go through.
        logits: whether to return logits too.
    """

    def __init__(self, model: Any, how: Preparation, logits: bool = False):
        super().__init__()
        self.prepare = Images(how)
        self.backbone = model.backbone
        self.neck = model.neck if model.with_neck else nn.Identity()
        self.decode_heads = heads_of(model)
        self.align_corners = model.align_corners
        self.threshold: Any = getattr(self.decode_heads[-1], 'threshold', None)
        self.logits = logits

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Turn ``[N, 3, H, W]`` into labels ``[N, H, W]``, int64.

        With ``logits`` these come next, ``[N, classes, H, W]``.
        """
        height, width = images.shape[2:]
        x = self.prepare(images)
        maps: Sequence[Tensor] = self.neck(self.backbone(x))
        found: tuple[Any, ...] = ()
        for head in self.decode_heads:
            logits = head(maps, *found)
            if isinstance(logits, tuple):  # what else there is, training asks for
                logits = logits[0]
            found = (logits,)
        logits = F.interpolate(
            logits, x.shape[2:], mode='bilinear', align_corners=self.align_corners
        )[..., :height, :width]
        if logits.shape[1] == 1:
            labels = (logits[:, 0].sigmoid() > self.threshold).long()
        else:
            labels = logits.argmax(1)
        return (labels, logits) if self.logits else (labels,)


def heads_of(model: Any) -> nn.ModuleList:
    """Return the decode heads of a segmentor, the one that predicts last."""
    head = model.decode_head
    return head if isinstance(head, nn.ModuleList) else nn.ModuleList([head])
