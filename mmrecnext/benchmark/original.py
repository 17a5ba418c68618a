"""The original computation of the published models, as plainly as it can be written.

The library's own layers are made fast; this is what they are compared with, both for
their maps and for their speed. It shares no layer with them, only the table of models
and the keys of the weights, in the training form or in that of the published fused
files, which keep the norms behind RecConv and behind the convolutions between stages.

Source: RecNeXt (https://github.com/suous/RecNeXt).
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrecnext.archs import NUM_STAGES, Arch
from mmrecnext.models import RecNeXt
from mmrecnext.models.fusion import fuse_conv_norms

KERNEL = 5
EPSILON = 1e-6
LATE_STAGES = (3,)
"""Stages whose attention multiplies queries by keys first: ``pixels**2`` products.

With these, a training step of A3 on two images of 512 x 512 saves 1011 MiB for the
backward pass, the authors' code 1012; with stage 2 among them it would save 1062.
"""


def conv_norm(
    channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    *,
    bias: bool,
    fused: bool,
) -> nn.Module:
    """Return a convolution and its norm, or the one convolution that replaces them."""
    conv = nn.Conv2d(
        channels,
        out_channels,
        kernel,
        stride,
        kernel // 2,
        groups=groups,
        bias=bias or fused,
    )
    if fused:
        return conv
    norm = nn.BatchNorm2d(out_channels)
    return nn.Sequential(OrderedDict(conv=conv, norm=norm))


class RecConv(nn.Module):
    """Recursive convolution of the M series."""

    def __init__(self, channels: int, level: int):
        super().__init__()

        def conv(stride: int) -> nn.Conv2d:
            pad = KERNEL // 2
            return nn.Conv2d(
                channels, channels, KERNEL, stride, pad, groups=channels, bias=False
            )

        self.down = conv(stride=2)
        self.convs = nn.ModuleList(conv(stride=1) for _ in range(level + 1))

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of each channel of ``x``."""
        pyramid = [x]
        for _ in self.convs[1:]:
            pyramid.append(self.down(pyramid[-1]))

        *convs, last = self.convs
        mixed: Tensor | int = 0
        for conv in convs:
            coarse, size = pyramid.pop(), pyramid[-1].shape[2:]
            mixed = F.interpolate(conv(coarse + mixed), size, mode='bilinear')
        return last(x + mixed)


class Attention(nn.Module):
    """Linear attention of kernel ``elu + 1``.

    Args:
        channels: channels of the map, which are the values.
        num_heads: heads.
        qk_ratio: channels of queries and keys together over those of the map.
        qk_groups: groups of the convolution that makes them.
        queries_by_keys: whether these are multiplied first.
        layers: options of :func:`conv_norm`.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        qk_ratio: int = 2,
        qk_groups: int = 2,
        *,
        queries_by_keys: bool,
        **layers,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.queries_by_keys = queries_by_keys
        self.qk = conv_norm(channels, qk_ratio * channels, groups=qk_groups, **layers)
        self.pe = conv_norm(channels, channels, 3, groups=channels, **layers)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of ``x`` by their likeness."""
        n, _, h, w = x.shape
        pixels = h * w
        qk = F.elu(self.qk(x)) + 1
        q, k = qk.reshape(n, 2, self.num_heads, -1, pixels).unbind(1)
        v = x.reshape(n, self.num_heads, -1, pixels)
        q, v = q.mT, v.mT
        weight = q @ k.mean(-1, keepdim=True) + EPSILON
        k, v = k * pixels**-0.5, v * pixels**-0.5
        mixed = (q @ k) @ v if self.queries_by_keys else q @ (k @ v)
        return (mixed / weight).mT.reshape(x.shape) + self.pe(x)


class RecAttn(nn.Module):
    """Attention at half the resolution, refined at the full one."""

    def __init__(
        self, channels: int, num_heads: int = 1, *, queries_by_keys: bool, **layers
    ):
        super().__init__()
        self.down = nn.Sequential(
            conv_norm(channels, channels, KERNEL, 2, channels, **layers),
            Attention(channels, num_heads, queries_by_keys=queries_by_keys, **layers),
        )
        self.conv = conv_norm(channels, channels, KERNEL, groups=channels, **layers)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of ``x``."""
        return self.conv(x + F.interpolate(self.down(x), x.shape[2:], mode='nearest'))


class PartialChannels(nn.Module):
    """Attention in the first quarter of the channels, of T, S and B."""

    def __init__(self, channels: int, attn: Mapping, **options):
        super().__init__()
        self.mixed = channels // 4
        self.attn = token_mixer(attn, self.mixed, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of the first channels of ``x``."""
        first, rest = x[:, : self.mixed], x[:, self.mixed :]
        return torch.cat([self.attn(first), rest], dim=1)


MIXERS = {
    'RecAttn': RecAttn,
    'LinearAttn': Attention,
    'PartialChannels': PartialChannels,
}


def token_mixer(settings: Mapping, channels: int, **options) -> nn.Module:
    """Return the token mixer that the table of models describes."""
    settings = dict(settings)
    kind = settings.pop('type')
    if kind == 'RecConv':
        return RecConv(channels, **settings)
    return MIXERS[kind](channels, **settings, **options)


def channel_mixer(channels: int, ratio: float, **layers) -> nn.Sequential:
    """Return two 1x1 convolutions around a GELU."""
    hidden = int(ratio * channels)
    return nn.Sequential(
        conv_norm(channels, hidden, **layers),
        nn.GELU(),
        conv_norm(hidden, channels, **layers),
    )


class Downsample(nn.Module):
    """Half the resolution, more channels."""

    token_mixer: nn.Module
    norm: nn.Module

    def __init__(self, arch: Arch, stage: int, **layers):
        super().__init__()
        narrow, wide = arch.dims[stage - 1 : stage + 1]
        kernel, groups = arch.downsample_kernel, gcd(narrow, wide)
        if arch.downsample_norm:  # of its own, which stays when the rest is fused
            self.token_mixer = nn.Conv2d(
                narrow, wide, kernel, 2, kernel // 2, groups=groups
            )
            self.norm = nn.BatchNorm2d(wide)
        else:
            self.token_mixer = conv_norm(narrow, wide, kernel, 2, groups, **layers)
            self.norm = nn.Identity()
        self.channel_mixer = channel_mixer(wide, arch.mlp_ratios[stage], **layers)

    def forward(self, x: Tensor) -> Tensor:
        """Halve ``x``."""
        x = self.norm(self.token_mixer(x))
        return x + self.channel_mixer(x)


class RepMixer(nn.Module):
    """Depthwise 3x3 and 1x1 convolutions beside an identity."""

    def __init__(self, channels: int, **layers):
        super().__init__()
        self.lk = conv_norm(channels, channels, 3, groups=channels, **layers)
        self.sk = conv_norm(channels, channels, 1, groups=channels, **layers)

    def forward(self, x: Tensor) -> Tensor:
        """Mix neighbouring pixels of ``x``."""
        return self.lk(x) + self.sk(x) + x


def rep_mixer(channels: int, *, bias: bool, fused: bool) -> nn.Module:
    """Return the first mixer of a block of T, S and B, or one that replaces it."""
    if fused:
        return nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    return RepMixer(channels, bias=bias, fused=fused)


class Block(nn.Module):
    """Token mixer, then channel mixer, around a residual connection."""

    rep_mixer: nn.Module

    def __init__(
        self, arch: Arch, stage: int, index: int, queries_by_keys: bool, **layers
    ):
        super().__init__()
        channels = arch.dims[stage]
        every = arch.share_every if stage == NUM_STAGES - 1 else 0
        self.gives = bool(every)
        self.takes = bool(every) and index % every == every - 1
        self.rep_mixer = nn.Identity()
        if arch.rep_mixer:
            self.rep_mixer = rep_mixer(channels, **layers)
        if not self.takes:
            options = dict(queries_by_keys=queries_by_keys, **layers)
            self.token_mixer = token_mixer(arch.mixers[stage], channels, **options)
        self.norm = nn.BatchNorm2d(channels) if arch.mixer_norm else nn.Identity()
        self.channel_mixer = channel_mixer(channels, arch.mlp_ratios[stage], **layers)

    def forward(self, x: Tensor, attended: list[Tensor]) -> Tensor:
        """Refine ``x``; collect what is attended to, or take and clear it."""
        x = self.rep_mixer(x)
        if self.takes:
            mixed = x + torch.cat(attended, dim=1)
            attended.clear()
        else:
            mixed = self.token_mixer(x)
            if self.gives:
                attended.append(mixed[:, : x.size(1) // 4])
        return x + self.channel_mixer(self.norm(mixed))


class Original(nn.Module):
    """The backbone, as the published code computes it.

    Args:
        arch: one of the published models.
        fused: whether in the form of the published fused files.
        out_indices: stages whose maps are returned; none beyond is built.
        late_stages: stages whose attention takes the order that costs ``pixels**2``.

    Shape: images ``[N, 3, H, W]`` in, a tuple of maps out.
    """

    def __init__(
        self,
        arch: Arch,
        fused: bool = False,
        out_indices: Sequence[int] = tuple(range(NUM_STAGES)),
        late_stages: tuple[int, ...] = LATE_STAGES,
    ):
        super().__init__()
        self.out_indices = out_indices
        layers = dict(bias=arch.conv_bias, fused=fused)
        steps: list[nn.Module] = []
        last = len(arch.stem_strides) - 1
        channels = 3
        for i, stride in enumerate(arch.stem_strides):
            width = arch.dims[0] // 2 ** (last - i)
            steps.append(conv_norm(channels, width, 3, stride, **layers))
            if i < last or arch.depths[0] == 0:
                steps.append(nn.GELU())
            channels = width
        self.stem = nn.Sequential(OrderedDict(stem=nn.Sequential(*steps)))

        self.stages = nn.ModuleList()
        for i, depth in enumerate(arch.depths[: max(out_indices) + 1]):
            stage = nn.Module()
            if i > 0:
                stage.downsample = Downsample(arch, i, **layers)
            stage.blocks = nn.ModuleList(
                Block(arch, i, j, i in late_stages, **layers) for j in range(depth)
            )
            self.stages.append(stage)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract features."""
        x = self.stem(x)
        maps = []
        stage: Any  # a downsampling, but in the first, and blocks
        for stage in self.stages:
            if hasattr(stage, 'downsample'):
                x = stage.downsample(x)
            attended: list[Tensor] = []
            for block in stage.blocks:
                x = block(x, attended)
            maps.append(x)
        return tuple(maps[i] for i in self.out_indices)


def original_of(model: RecNeXt, fused: bool = False) -> Original:
    """Return the original computation of a backbone, with its weights.

    Args:
        model: a published model in its training form.
        fused: bring the weights into the form of the published fused files.
    """
    if fused:
        model = copy.deepcopy(model).eval()
        fuse_conv_norms(model)
    parameter = next(model.parameters())
    original = Original(model.arch, fused, model.out_indices)
    original.to(parameter.device, parameter.dtype)
    original.load_state_dict(model.state_dict())
    return original.train(model.training)
