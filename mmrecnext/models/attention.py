"""Linear attention, the token mixer of the A series and of T, S and B."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrecnext.archs import check_mixer
from mmrecnext.errors import OptionError, check_option, is_integer, is_settings
from mmrecnext.models.blocks import conv_layer
from mmrecnext.ops.attention import attend
from mmrecnext.registry import MODELS

torch.fx.wrap('attend')  # one node of a graph: its way depends on the size of maps


@MODELS.register_module()
class LinearAttn(nn.Module):
    """Attention of kernel ``elu + 1``, whose cost grows with the number of pixels.

    Args:
        channels: channels of the map, which are the values.
        num_heads: heads that the channels are divided into.
        qk_ratio: channels of queries and keys together over those of the map.
        qk_groups: groups of the convolution that makes them.
        norm_cfg: norm layer of the convolutions, None for no norms.
        bias: whether the convolutions have one.

    Shape: ``[N, channels, H, W]`` in and out.
    Source: RecNeXt (https://github.com/suous/RecNeXt).
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        qk_ratio: int = 2,
        qk_groups: int = 2,
        *,
        norm_cfg: Mapping[str, Any] | None = dict(type='BN'),
        bias: bool = False,
    ):
        super().__init__()
        for name, value in dict(
            num_heads=num_heads, qk_ratio=qk_ratio, qk_groups=qk_groups
        ).items():
            is_valid = is_integer(value, 1)
            check_option(f'LinearAttn: `{name}`', value, is_valid, 'a positive integer')
        qk_channels = qk_ratio * channels
        check_option(
            'LinearAttn: `qk_groups`',
            qk_groups,
            channels % qk_groups == qk_channels % qk_groups == 0,
            f'a divisor of the {channels} channels and the {qk_channels} of queries '
            'and keys',
        )
        if channels % num_heads or qk_channels % (2 * num_heads):
            raise OptionError(
                f'LinearAttn: `num_heads` divides {channels} channels, and queries and '
                f'keys of {qk_channels // 2}, got {num_heads}'
            )
        self.num_heads = num_heads
        options: dict[str, Any] = dict(norm_cfg=norm_cfg, bias=bias)
        self.qk = conv_layer(channels, qk_channels, groups=qk_groups, **options)
        self.pe = conv_layer(channels, channels, 3, groups=channels, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of ``x`` by their likeness."""
        return attend(self.qk(x), x, self.num_heads, self.pe(x))


@MODELS.register_module()
class RecAttn(nn.Module):
    """Recursive attention: attend at half the resolution, then refine at the full one.

    Args:
        channels: channels of the map.
        num_heads: heads of the attention.
        norm_cfg: norm layer of the convolutions, None for no norms.
        bias: whether the convolutions have one.

    Shape: ``[N, channels, H, W]`` in and out, for any ``H`` and ``W``.
    Source: RecNeXt (https://github.com/suous/RecNeXt).
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        *,
        norm_cfg: Mapping[str, Any] | None = dict(type='BN'),
        bias: bool = False,
    ):
        super().__init__()
        options: dict[str, Any] = dict(norm_cfg=norm_cfg, bias=bias)
        self.down = nn.Sequential(
            conv_layer(channels, channels, 5, 2, groups=channels, **options),
            LinearAttn(channels, num_heads, **options),
        )
        self.conv = conv_layer(channels, channels, 5, groups=channels, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of ``x``."""
        mixed: Tensor = self.conv(F.interpolate(self.down(x), x.shape[2:]).add_(x))
        return mixed


@MODELS.register_module()
class PartialChannels(nn.Module):
    """Mixes the pixels of the first channels and lets the others pass.

    Args:
        channels: channels of the map.
        attn: the token mixer of the first channels, its ``type`` and options.
        ratio: how many channels there are for each that is mixed.
        options: passed on to ``attn``.
    """

    def __init__(
        self, channels: int, attn: Mapping[str, Any], ratio: int = 4, **options: Any
    ):
        super().__init__()
        check_option(
            'PartialChannels: `ratio`',
            ratio,
            is_integer(ratio, 1) and ratio <= channels,
            f'an integer from 1 to the {channels} channels',
        )
        check_option(
            'PartialChannels: `attn`', attn, is_settings(attn), 'a dict of settings'
        )
        check_mixer({**attn, **options})
        self.split = (channels // ratio, channels - channels // ratio)
        self.attn = MODELS.build(
            dict(attn, channels=self.split[0], **options, _scope_='mmrecnext')
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of the first channels of ``x``."""
        first, rest = x.split(self.split, dim=1)
        return torch.cat([self.attn(first), rest], dim=1)
