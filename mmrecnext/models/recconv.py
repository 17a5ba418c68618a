"""RecConv, the token mixer of the M series."""

import torch.nn.functional as F
from torch import Tensor, nn

from mmrecnext.errors import OptionError
from mmrecnext.registry import MODELS


@MODELS.register_module()
class RecConv(nn.Module):
    """Recursive convolution: one depthwise kernel per level of a feature pyramid.

    The map is halved ``level`` times by one shared convolution; from the coarsest
    level up, each is convolved, enlarged and added to the next. The operator is linear
    and sees ``kernel_size * 2**level`` pixels at a cost that hardly grows with
    ``level``.

    Args:
        channels: channels of the map.
        level: how many times the map is halved.
        kernel_size: side of the kernels.

    Shape: ``[N, channels, H, W]`` in and out, for any ``H`` and ``W``.
    Source: RecNeXt (https://github.com/suous/RecNeXt).
    """

    def __init__(self, channels: int, level: int = 1, kernel_size: int = 5):
        super().__init__()
        if level < 0:
            raise OptionError(f'RecConv: `level` is not negative, got {level}')
        if kernel_size % 2 == 0:
            raise OptionError(f'RecConv: `kernel_size` is odd, got {kernel_size}')

        def conv(stride: int) -> nn.Conv2d:
            return nn.Conv2d(
                channels,
                channels,
                kernel_size,
                stride,
                kernel_size // 2,
                groups=channels,
                bias=False,
            )

        self.level = level
        self.down = conv(stride=2)
        self.convs = nn.ModuleList(conv(stride=1) for _ in range(level + 1))

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of each channel of ``x``."""
        pyramid = [x]
        for _ in range(self.level):
            pyramid.append(self.down(pyramid[-1]))

        first, *rest = self.convs
        mixed = first(pyramid.pop())
        for conv in rest:
            fine = pyramid.pop()
            mixed = conv(fine + F.interpolate(mixed, fine.shape[2:], mode='bilinear'))
        return mixed
