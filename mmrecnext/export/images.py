"""What pictures go through before a network, as a part of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrecnext.errors import ConfigError, ExportError
from mmrecnext.pretrained import MEAN, STD


@dataclass(frozen=True)
class Preparation:
    """How pictures become what a network takes.

    Args:
        order: of the channels of the pictures, as their pipeline loads them.
        swap: whether the network takes the channels in the opposite order.
        mean: what is taken from each channel of the network, from 0 to 255.
        std: what the rest is divided by.
        divisor: of the height and the width, made up below and on the right.
        least: height and width, made up likewise.
        pad_value: what is added there, after the normalisation.
    """

    order: str = 'BGR'
    swap: bool = False
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    divisor: int = 1
    least: tuple[int, int] = (1, 1)
    pad_value: float = 0.0


IMAGENET = Preparation(
    order='RGB',
    mean=tuple(255 * x for x in MEAN),
    std=tuple(255 * x for x in STD),
)
"""What the published classifiers and backbones were trained on."""


def preparation_of(node: Mapping[str, Any]) -> Preparation:
    """Read the preparation out of a config.

    Args:
        node: the ``data_preprocessor`` of a model of either framework.

    Raises:
        ConfigError: for pictures of other than three channels.
    """
    mean, std = node.get('mean'), node.get('std')
    if mean is None or std is None:
        mean, std = Preparation.mean, Preparation.std
    if len(mean) != 3:
        raise ConfigError(
            f'`data_preprocessor.mean` is of {len(mean)} channels; pictures of 3 are '
            'exported'
        )
    # MMSegmentation pads pictures of a test by `test_cfg` alone.
    pads = node.get('test_cfg') or {}
    divisor = pads.get('size_divisor') or node.get('pad_size_divisor') or 1
    height, width = pads.get('size') or Preparation.least
    return Preparation(
        swap=bool(node.get('bgr_to_rgb') or node.get('rgb_to_bgr')),
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        divisor=divisor,
        least=(height, width),
        pad_value=node.get('pad_value', node.get('pad_val', 0)),
    )


class Images(nn.Module):
    """Prepares pictures ``[N, 3, H, W]`` of numbers from 0 to 255, of any type."""

    mean: Tensor
    std: Tensor

    def __init__(self, how: Preparation):
        super().__init__()
        self.how = how
        for name in ('mean', 'std'):
            value = torch.tensor(getattr(how, name))[:, None, None]
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return what the network takes, ``[N, 3, H', W']``, at least as large."""
        x = images.to(self.mean.dtype)
        if self.how.swap:
            x = x.flip(1)
        return self.padded((x - self.mean) / self.std)

    def padded(self, x: Tensor) -> Tensor:
        """Add what the network asks for below and on the right."""
        divisor, least = self.how.divisor, self.how.least
        if divisor == 1 and least == (1, 1):
            return x
        bottom, right = (
            _missing(side, divisor, low)
            for side, low in zip(x.shape[2:], least, strict=True)
        )
        return F.pad(x, (0, right, 0, bottom), value=self.how.pad_value)


def made_up(image: Tensor, size: tuple[int, int], how: Mapping[str, Any]) -> Tensor:
    """Return a picture ``[3, H, W]`` of a given height and width.

    What is added, below and on the right, is as good as nothing to the network: the
    mean of its pictures.

    Args:
        image: numbers from 0 to 255.
        size: height and width.
        how: a :class:`Preparation`, as a dict.

    Raises:
        ExportError: for a larger picture.
    """
    height, width = image.shape[1:]
    if height > size[0] or width > size[1]:
        raise ExportError(
            f'the file takes pictures of {size[0]} x {size[1]}, got one of '
            f'{height} x {width}'
        )
    mean = torch.tensor(how['mean']).round()
    mean = mean.flip(0) if how['swap'] else mean
    whole = mean.to(image.dtype)[:, None, None].repeat(1, *size)
    whole[:, :height, :width] = image
    return whole


def _missing(side: Any, divisor: int, least: int) -> Any:
    """Return by how many pixels a side, which may be a symbol, is too short."""
    if least > 1:
        return torch.sym_max(side, least) - side
    return -side % divisor
