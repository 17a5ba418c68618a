"""The parts that all series share, from the smallest to the largest."""

from collections.abc import Mapping

from torch import Tensor, nn

from mmrecnext.registry import MODELS


def build_norm(norm_cfg: Mapping, channels: int) -> nn.Module:
    """Return the norm layer that ``norm_cfg`` describes."""
    from mmcv.cnn import build_norm_layer  # here: it takes as long as all of mmrecnext

    return build_norm_layer(norm_cfg, channels)[1]


def build_drop_path(rate: float) -> nn.Module:
    """Return stochastic depth of ``rate``, or an identity where the rate is 0."""
    from mmcv.cnn.bricks import DropPath

    return DropPath(rate) if rate else nn.Identity()


class ConvNorm(nn.Sequential):
    """Convolution (padded to keep ``ceil(size / stride)``), then a norm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        norm_cfg: Mapping,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False
        )
        self.norm = build_norm(norm_cfg, out_channels)


class ChannelMixer(nn.Sequential):
    """Inverted bottleneck of two 1x1 convolutions around a GELU."""

    def __init__(self, channels: int, ratio: float, *, norm_cfg: Mapping):
        hidden = int(ratio * channels)
        super().__init__(
            ConvNorm(channels, hidden, norm_cfg=norm_cfg),
            nn.GELU(),
            ConvNorm(hidden, channels, norm_cfg=norm_cfg),
        )


class Stem(nn.Module):
    """3x3 convolutions that reduce the image to the first stage's map.

    Each doubles the channels of the one before; the last has ``out_channels``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        strides: tuple[int, ...],
        *,
        norm_cfg: Mapping,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for i, stride in enumerate(strides):
            width = out_channels // 2 ** (len(strides) - 1 - i)
            layers += [
                ConvNorm(in_channels, width, 3, stride, norm_cfg=norm_cfg),
                nn.GELU(),
            ]
            in_channels = width
        self.stem = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Reduce ``[N, C, H, W]`` by the product of the strides."""
        return self.stem(x)


class Downsample(nn.Module):
    """Halves the map and doubles its channels, then mixes the channels."""

    def __init__(
        self, channels: int, kernel_size: int, mlp_ratio: float, *, norm_cfg: Mapping
    ):
        super().__init__()
        self.token_mixer = nn.Conv2d(
            channels, 2 * channels, kernel_size, 2, kernel_size // 2, groups=channels
        )
        self.norm = build_norm(norm_cfg, 2 * channels)
        self.channel_mixer = ChannelMixer(2 * channels, mlp_ratio, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``[N, C, H, W]`` into ``[N, 2C, ceil(H / 2), ceil(W / 2)]``."""
        x = self.norm(self.token_mixer(x))
        return x + self.channel_mixer(x)


class Block(nn.Module):
    """Token mixer, norm and channel mixer around one residual connection."""

    def __init__(
        self,
        channels: int,
        mixer: Mapping,
        mixer_norm: bool,
        mlp_ratio: float,
        drop_path_rate: float,
        *,
        norm_cfg: Mapping,
    ):
        super().__init__()
        self.token_mixer = MODELS.build(
            dict(mixer, channels=channels, _scope_='mmrecnext')
        )
        self.norm = build_norm(norm_cfg, channels) if mixer_norm else nn.Identity()
        self.channel_mixer = ChannelMixer(channels, mlp_ratio, norm_cfg=norm_cfg)
        self.drop_path = build_drop_path(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Refine ``[N, C, H, W]``, whose shape stays."""
        mixed = self.channel_mixer(self.norm(self.token_mixer(x)))
        return x + self.drop_path(mixed)
