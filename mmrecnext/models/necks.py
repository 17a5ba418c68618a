"""Necks that the frameworks lack: of one level more, and of the finest alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModule
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor, nn

from mmrecnext.registry import MODELS


@MODELS.register_module()
class FPNWithStride4(BaseModule):
    """Feature pyramid with one level more, of half the finest stride.

    T, S and B give maps of strides 8 to 64, detectors such as Mask R-CNN take 4 to 64.
    The finer level is the finest map of an FPN, enlarged by a transposed convolution.

    Args:
        in_channels: channels of each map of the backbone.
        out_channels: channels of each map returned.
        num_outs: how many maps are returned, the finer one included.
        init_cfg: initialisation of the transposed convolution.
        **fpn: other options of the framework's FPN.
    """

    def __init__(
        self,
        in_channels: list[int],
        out_channels: int,
        num_outs: int,
        # One of the four taps reaches a pixel: the gain makes up for the other three.
        init_cfg: Mapping[str, Any] | None = dict(
            type='Xavier', layer='ConvTranspose2d', distribution='uniform', gain=2
        ),
        **fpn: Any,
    ):
        super().__init__(init_cfg)
        # By the registry of the framework at hand: MMDetection's or MMSegmentation's.
        self.fpn = MMENGINE_MODELS.build(
            dict(
                fpn,
                type='FPN',
                in_channels=in_channels,
                out_channels=out_channels,
                num_outs=num_outs - 1,
            )
        )
        self.upsample = nn.ConvTranspose2d(out_channels, out_channels, 2, stride=2)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs: maps of the backbone, ``[N, C, H, W]`` the finest.

        Returns:
            ``num_outs`` maps, ``[N, out_channels, 2H, 2W]`` the finest.
        """
        maps = self.fpn(inputs)
        return self.upsample(maps[0]), *maps


@MODELS.register_module()
class FinestMap(BaseModule):
    """Gives the finest map of another neck alone.

    Heads that were made for one map of high resolution, as HRNet keeps it, take it.

    Args:
        neck: config of the other neck.
        init_cfg: of this layer, which has no weights of its own.
    """

    def __init__(
        self, neck: Mapping[str, Any], init_cfg: Mapping[str, Any] | None = None
    ):
        super().__init__(init_cfg)
        self.neck = MMENGINE_MODELS.build(neck)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Return the first of the maps that the neck makes, ``[N, C, H, W]``."""
        finest, *_ = self.neck(inputs)
        return (finest,)
