"""The parts that all series share, from the smallest to the largest."""

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrecnext.archs import Arch
from mmrecnext.models.fusion import conv_of, conv_then_norm, fuse_whole, norm_then_conv
from mmrecnext.models.settings import build_norm
from mmrecnext.ops.batch_norm import Normed, apply_norm
from mmrecnext.ops.depthwise import DepthwiseConv2d
from mmrecnext.ops.recompute import recompute
from mmrecnext.ops.residual import in_turn, residual, residual_of
from mmrecnext.registry import MODELS


def build_drop_path(rate: float) -> nn.Module:
    """Return stochastic depth of ``rate``, or an identity where the rate is 0."""
    from mmcv.cnn.bricks import DropPath

    return DropPath(rate) if rate else nn.Identity()


def dilate(module: nn.Module, dilation: int) -> None:
    """Spread the taps of every kernel in ``module``, in place; sizes of maps stay.

    A convolution then does on a map what it did on that map subsampled by ``dilation``.
    """
    for conv in module.modules():
        if (
            isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
            and max(conv.kernel_size) > 1
        ):
            conv.dilation = (dilation, dilation)
            if not isinstance(conv.padding, str):  # else it goes by the dilation
                conv.padding = tuple(dilation * reach for reach in conv.padding)


def padded_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    stride: int = 1,
    groups: int = 1,
    *,
    bias: bool,
) -> nn.Conv2d:
    """Return a convolution, padded to keep ``ceil(size / stride)``."""
    conv = DepthwiseConv2d if groups == in_channels else nn.Conv2d
    return conv(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        kernel_size // 2,
        groups=groups,
        bias=bias,
    )


def conv_layer(
    *sizes: int, norm_cfg: Mapping[str, Any] | None, **options: Any
) -> nn.Module:
    """Return a padded convolution, with a norm if ``norm_cfg`` is not None."""
    if norm_cfg is None:
        return padded_conv(*sizes, **options)
    return ConvNorm(*sizes, norm_cfg=norm_cfg, **options)


class ConvNorm(Normed):
    """Convolution (padded to keep ``ceil(size / stride)``), then a norm."""

    conv: nn.Conv2d
    norm: nn.Module

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        *,
        norm_cfg: Mapping[str, Any],
        bias: bool,
    ):
        super().__init__()
        self.conv = padded_conv(
            in_channels, out_channels, kernel_size, stride, groups, bias=bias
        )
        self.norm = build_norm(norm_cfg, out_channels)

    def fused(self) -> nn.Conv2d:
        """Return one convolution that does the same in inference."""
        return conv_of(self.conv, *conv_then_norm(self.conv, self.norm))

    fuse = fused


class ChannelMixer(nn.Sequential):
    """Inverted bottleneck of two 1x1 convolutions around a GELU."""

    def __init__(self, channels: int, ratio: float, **layers: Any):
        hidden = int(ratio * channels)
        super().__init__(
            ConvNorm(channels, hidden, **layers),
            nn.GELU(),
            ConvNorm(hidden, channels, **layers),
        )


class Stem(nn.Module):
    """3x3 convolutions that reduce the image to the first stage's map.

    Each doubles the channels of the one before; the last has ``dims[0]``. A GELU
    follows each, but not the last where blocks come next.
    """

    def __init__(self, arch: Arch, in_channels: int, **layers: Any):
        super().__init__()
        steps: list[nn.Module] = []
        last = len(arch.stem_strides) - 1
        for i, stride in enumerate(arch.stem_strides):
            width = arch.dims[0] // 2 ** (last - i)
            steps.append(ConvNorm(in_channels, width, 3, stride, **layers))
            if i < last or arch.depths[0] == 0:
                steps.append(nn.GELU())
            in_channels = width
        self.stem = nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        """Reduce ``[N, C, H, W]`` by the product of the strides."""
        return in_turn(x, self.stem)


class Downsample(nn.Module):
    """Halves the map (at ``stride`` 2) and widens its channels, then mixes them."""

    token_mixer: nn.Module
    norm: nn.Module

    def __init__(
        self,
        arch: Arch,
        stage: int,
        drop_path_rate: float,
        stride: int = 2,
        **layers: Any,
    ):
        super().__init__()
        narrow, wide = arch.dims[stage - 1 : stage + 1]
        kernel, groups = arch.downsample_kernel, gcd(narrow, wide)
        if arch.downsample_norm:
            self.token_mixer = DepthwiseConv2d(
                narrow, wide, kernel, stride, kernel // 2, groups=groups
            )
            self.norm = build_norm(layers['norm_cfg'], wide)
        else:
            self.token_mixer = ConvNorm(narrow, wide, kernel, stride, groups, **layers)
            self.norm = nn.Identity()
        self.channel_mixer = ChannelMixer(wide, arch.mlp_ratios[stage], **layers)
        self.drop_path = build_drop_path(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``[N, C, H, W]`` into ``[N, C', ceil(H / stride), ...]``."""
        return residual(
            x,
            (self.token_mixer, self.norm),
            self.channel_mixer,
            self.drop_path,
            skip_layers=False,
        )

    def fold_norm(self) -> None:
        """Merge the norm into the convolution before it, for inference."""
        if not isinstance(self.norm, nn.Identity):
            conv = cast(nn.Conv2d, self.token_mixer)
            self.token_mixer = conv_of(conv, *conv_then_norm(conv, self.norm))
            self.norm = nn.Identity()

    fuse = fuse_whole


class RepMixer(nn.Module):
    """Depthwise 3x3 and 1x1 convolutions beside an identity: one 3x3 in the end."""

    def __init__(self, channels: int, **layers: Any):
        super().__init__()
        self.lk = ConvNorm(channels, channels, 3, groups=channels, **layers)
        self.sk = ConvNorm(channels, channels, 1, groups=channels, **layers)

    def forward(self, x: Tensor) -> Tensor:
        """Mix neighbouring pixels of ``x``."""
        return recompute(self.mix, (self.lk, self.sk), None, x)[0]

    def mix(self, x: Tensor) -> tuple[Tensor]:
        """Return the sum of the branches."""
        return (self.lk(x) + self.sk(x) + x,)

    def fused(self) -> nn.Conv2d:
        """Return one 3x3 convolution that does the same in inference."""
        large, large_bias = conv_then_norm(*self.lk)
        small, small_bias = conv_then_norm(*self.sk)
        weight = large + F.pad(small + 1, (1, 1, 1, 1))  # of 1: the identity
        return conv_of(self.lk.conv, weight, large_bias + small_bias)

    fuse = fused


class Block(nn.Module):
    """Token mixer and channel mixer around a residual connection."""

    rep_mixer: nn.Module
    token_mixer: nn.Module
    norm: nn.Module

    def __init__(
        self, arch: Arch, stage: int, index: int, drop_path_rate: float, **layers: Any
    ):
        super().__init__()
        channels = arch.dims[stage]
        self.rep_mixer = nn.Identity()
        if arch.rep_mixer:
            self.rep_mixer = RepMixer(channels, **layers)
        self.token_mixer = self.build_token_mixer(arch, stage, index, layers)
        self.norm = nn.Identity()
        if arch.mixer_norm:
            self.norm = build_norm(layers['norm_cfg'], channels)
        self.channel_mixer = ChannelMixer(channels, arch.mlp_ratios[stage], **layers)
        self.drop_path = build_drop_path(drop_path_rate)

    def build_token_mixer(
        self, arch: Arch, stage: int, index: int, layers: Mapping[str, Any]
    ) -> nn.Module:
        """Build the token mixer of a stage."""
        mixer = dict(arch.mixers[stage], channels=arch.dims[stage], _scope_='mmrecnext')
        norms = {} if arch.mixer_norm else dict(layers)
        return cast(nn.Module, MODELS.build(mixer | norms))

    def forward(self, x: Tensor) -> Tensor:
        """Refine a map ``[N, C, H, W]``.

        The formula is ``x + drop_path(channel_mixer(norm(token_mixer(x))))``, of what
        the rep mixer, where there is one, makes of the map.
        """
        x = self.rep_mixer(x)
        layers = (self.token_mixer, self.norm)
        return residual(x, layers, self.channel_mixer, self.drop_path)

    def fold_norm(self) -> None:
        """Merge the norm into the 1x1 convolution behind it, for inference."""
        if not isinstance(self.norm, nn.Identity):
            conv = cast(nn.Conv2d, self.channel_mixer[0])
            self.channel_mixer[0] = conv_of(conv, *norm_then_conv(self.norm, conv))
            self.norm = nn.Identity()

    fuse = fuse_whole


class SharedChannels(nn.Module):
    """Token mixer without parameters, of what the blocks before it have attended to."""

    def forward(self, x: Tensor, attended: Sequence[Tensor]) -> Tensor:
        """Add the maps in ``attended``, whose channels sum up to those of ``x``."""
        return x + torch.cat(list(attended), dim=1)


class SharingBlock(Block):
    """Block of a stage whose every ``arch.share_every``-th reuses what others made."""

    token_mixer: Any  # one that has a ``split``, or :class:`SharedChannels`

    def build_token_mixer(
        self, arch: Arch, stage: int, index: int, layers: Mapping[str, Any]
    ) -> nn.Module:
        """Build the token mixer of a stage, or one that reuses."""
        if index % arch.share_every == arch.share_every - 1:
            return SharedChannels()
        return super().build_token_mixer(arch, stage, index, layers)

    def forward(  # type: ignore[override]  # its stage knows what it is given
        self, x: Tensor, attended: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Refine a map.

        Args:
            x: ``[N, C, H, W]``.
            attended: channels that earlier blocks have attended to, not yet reused.

        Returns:
            The map, of the same shape, and the channels for later blocks to reuse.
        """
        x = self.rep_mixer(x)
        reused: tuple[Tensor, ...] = ()
        kept = attended
        if isinstance(self.token_mixer, SharedChannels):
            reused, kept = attended, ()
        layers = (self.token_mixer, self.norm)
        x, *new = residual_of(
            self.mix_tokens, layers, self.channel_mixer, self.drop_path, x, *reused
        )
        return x, (*kept, *new)

    def mix_tokens(self, x: Tensor, *attended: Tensor) -> tuple[Tensor, ...]:
        """Return the mixed map, and what later blocks are to reuse of it, if any."""
        if isinstance(self.token_mixer, SharedChannels):
            return (apply_norm(self.norm, self.token_mixer(x, attended)),)
        mixed = self.token_mixer(x)
        return apply_norm(self.norm, mixed), mixed[:, : self.token_mixer.split[0]]
