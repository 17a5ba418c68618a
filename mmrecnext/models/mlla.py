"""MLLA, a linear-attention network, and what RecNeXt's token mixers make of it.

Source: MLLA (https://github.com/LeapLabTHU/MLLA), RecNeXt
(https://github.com/suous/RecNeXt).
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor, nn

from mmrecnext.archs import MLLA_ARCHS, NUM_STAGES, MLLAArch, get_mlla_arch
from mmrecnext.models.attention import RecAttn
from mmrecnext.models.backbone import Backbone, as_is, check_known, recomputed
from mmrecnext.models.blocks import ConvNorm, build_drop_path, padded_conv
from mmrecnext.models.recconv import RecConv
from mmrecnext.ops.attention import attend
from mmrecnext.ops.rope import angles
from mmrecnext.pretrained import MLLA_INPUT_SIDE
from mmrecnext.registry import MODELS

torch.fx.wrap('attend')


TURNS = '.rope.rotations'
"""Ends the keys of what files hold for one size of image."""


def depthwise(
    channels: int, kernel_size: int, stride: int = 1, times: int = 1
) -> nn.Conv2d:
    """Return a depthwise convolution with a bias, which keeps ``ceil(size / stride)``.

    Args:
        channels: channels of the map.
        kernel_size: side of the kernels, an odd number.
        stride: in pixels.
        times: channels of the result for each of the map.
    """
    sizes = (channels, times * channels, kernel_size, stride, channels)
    return padded_conv(*sizes, bias=True)


class Linear(nn.Linear):
    """A linear layer, initialised as in a transformer."""

    def reset_parameters(self) -> None:
        """Draw small weights, and no bias."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)


class PixelLinear(Linear):
    """A linear layer of the channels of each pixel, ``[N, C, H, W]`` in and out."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, C', H, W]``."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PixelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel, ``[N, C, H, W]`` in and out."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PatchEmbed(nn.Module):
    """Convolutions that reduce the image to the first stage's map.

    Args:
        in_channels: channels of the image.
        channels: channels of the map, an even number.
        norm_cfg: norm layer.
    """

    def __init__(self, in_channels: int, channels: int, norm_cfg: Mapping[str, Any]):
        super().__init__()
        narrow, wide = channels // 2, 4 * channels
        layers: dict[str, Any] = dict(norm_cfg=norm_cfg, bias=False)
        self.conv1 = ConvNorm(in_channels, narrow, 3, 2, **layers)
        self.conv2 = nn.Sequential(
            ConvNorm(narrow, narrow, 3, **layers),
            ConvNorm(narrow, narrow, 3, **layers),
        )
        self.conv3 = nn.Sequential(
            ConvNorm(narrow, wide, 3, 2, **layers),
            ConvNorm(wide, channels, 1, **layers),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``[N, in_channels, H, W]`` into ``[N, C, ceil(H / 4), ...]``."""
        x = self.conv1(x).relu()
        x = x + self.conv2[1](self.conv2[0](x).relu())
        mapped: Tensor = self.conv3[1](self.conv3[0](x).relu())
        return mapped


class RoPE(nn.Module):
    """The turns of a rotary position embedding, as files hold them.

    They are of one size of image, and computed for the one at hand instead: a file may
    have those of another, or none.

    Args:
        channels: channels of the map, a multiple of 4.
        side: height and width of the map, in pixels.
    """

    rotations: Tensor

    def __init__(self, channels: int, side: int):
        super().__init__()
        turn = angles(channels, side, side).permute(1, 2, 0)
        self.register_buffer('rotations', torch.stack([turn.cos(), turn.sin()], -1))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Keep the own ones, whatever the file has."""
        if self.rotations.is_meta:
            side, _, pairs, _ = self.rotations.shape
            self.rotations = RoPE(2 * pairs, side).rotations


class RotaryAttn(nn.Module):
    """Linear attention, of queries and keys that are turned by where they stand.

    Args:
        channels: channels of the map, which are the values.
        num_heads: heads that the channels are divided into.
        qk: makes ``2 * channels`` of them, queries and then keys.
        side: of the map of an image of ``MLLA_INPUT_SIDE``, in pixels.
    """

    def __init__(self, channels: int, num_heads: int, qk: nn.Module, side: int):
        super().__init__()
        self.num_heads = num_heads
        self.qk = qk
        self.lepe = depthwise(channels, 3)
        self.rope = RoPE(channels, side)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of ``x`` by their likeness."""
        return attend(self.qk(x), x, self.num_heads, self.lepe(x), rotated=True)


class Mlp(nn.Module):
    """Inverted bottleneck of two linear layers around a GELU."""

    def __init__(self, channels: int, ratio: float):
        super().__init__()
        hidden = int(ratio * channels)
        self.fc1 = PixelLinear(channels, hidden)
        self.fc2 = PixelLinear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels of each pixel of ``x``."""
        mixed: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return mixed


class Block(nn.Module):
    """Token mixer and channel mixer, each behind a depthwise convolution and a norm.

    Args:
        arch: the model.
        stage: the one that the block is in.
        drop_path_rate: stochastic depth.
    """

    cpe_kernel = 3
    halvings = 0
    """How often the block halves the map and doubles its channels."""

    def __init__(self, arch: MLLAArch, stage: int, drop_path_rate: float):
        super().__init__()
        scale = 2**self.halvings
        channels = scale * arch.dims[stage]
        self.cpe1 = depthwise(arch.dims[stage], self.cpe_kernel, scale, scale)
        self.norm1 = PixelNorm(channels)
        self.build_mixer(arch, stage, channels)
        self.cpe2 = depthwise(channels, 3)
        self.norm2 = PixelNorm(channels)
        self.mlp = Mlp(channels, arch.mlp_ratio)
        self.drop_path = build_drop_path(drop_path_rate)

    @abstractmethod
    def build_mixer(self, arch: MLLAArch, stage: int, channels: int) -> None:
        """Build what mixes the pixels of a map."""

    @abstractmethod
    def mix_tokens(self, x: Tensor) -> Tensor:
        """Mix the pixels of a map, ``[N, C, H, W]`` in and out."""

    def embed(self, x: Tensor) -> Tensor:
        """Let each pixel know of its neighbours."""
        embedded: Tensor = x + self.cpe1(x)
        return embedded

    def forward(self, x: Tensor) -> Tensor:
        """Refine a map ``[N, C, H, W]``."""
        x = self.embed(x)
        x = x + self.drop_path(self.mix_tokens(self.norm1(x)))
        x = x + self.cpe2(x)
        refined: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return refined


class AttentionBlock(Block):
    """The block of MLLA, whose attention a gate lets through."""

    def build_mixer(self, arch: MLLAArch, stage: int, channels: int) -> None:
        """Build attention, its gate, and the layers around it."""
        self.in_proj = PixelLinear(channels, channels)
        self.act_proj = PixelLinear(channels, channels)
        self.dwc = depthwise(channels, 3)
        self.attn = RotaryAttn(
            channels,
            arch.num_heads[stage],
            PixelLinear(channels, 2 * channels),
            MLLA_INPUT_SIDE // arch.strides[stage],
        )
        self.out_proj = PixelLinear(channels, channels)

    def mix_tokens(self, x: Tensor) -> Tensor:
        """Attend, and weigh what comes of it by the gate."""
        gate = F.silu(self.act_proj(x))
        content = self.attn(F.silu(self.dwc(self.in_proj(x))))
        mixed: Tensor = self.out_proj(content * gate)
        return mixed


class RecBlock(Block):
    """The block with a recursive operator, which a gate lets through.

    That is :class:`~mmrecnext.models.RecConv`, in a wider map and with a GELU as gate,
    or :class:`~mmrecnext.models.RecAttn`, without norms and with a SiLU.
    """

    cpe_kernel = 5

    def build_mixer(self, arch: MLLAArch, stage: int, channels: int) -> None:
        """Build the operator, its gate, and the layers around it."""
        is_conv = arch.mixer.startswith('recconv')
        width = channels * 5 // 4 if is_conv else channels
        self.i_proj = PixelLinear(channels, 2 * width)
        self.o_proj = nn.Conv2d(width, channels, 1)
        self.act: nn.Module = nn.GELU() if is_conv else nn.SiLU()
        self.agg = self.build_operator(arch, stage, width)

    def build_operator(self, arch: MLLAArch, stage: int, width: int) -> nn.Module:
        """Build the operator, of maps of ``width`` channels."""
        if arch.mixer.startswith('recconv'):
            level = NUM_STAGES - stage - self.halvings
            return RecConv(width, level, 5, arch.mixer.removeprefix('recconv_'))
        heads = arch.num_heads[stage]
        operator = RecAttn(width, heads, norm_cfg=None, bias=True)
        if arch.mixer == 'recattn_rope':
            side = MLLA_INPUT_SIDE // arch.strides[stage] // 2 ** (self.halvings + 1)
            qk = nn.Conv2d(width, 2 * width, 1, groups=2)
            operator.down[1] = RotaryAttn(width, heads, qk, side)
        return operator

    def mix_tokens(self, x: Tensor) -> Tensor:
        """Mix by the operator, and weigh what comes of it by the gate."""
        gate, content = self.i_proj(x).chunk(2, dim=1)
        mixed: Tensor = self.o_proj(self.act(gate) * self.agg(content))
        return mixed


class RecDownsample(RecBlock):
    """A block whose first convolution halves the map and doubles its channels."""

    halvings = 1

    def embed(self, x: Tensor) -> Tensor:
        """Turn ``[N, C, H, W]`` into ``[N, 2 * C, ceil(H / 2), ...]``."""
        halved: Tensor = self.cpe1(x)
        return halved


class ConvDownsample(nn.Module):
    """Convolutions that halve the map and double its channels.

    Args:
        arch: the model.
        stage: the one after which it stands.
        norm_cfg: norm layer.
    """

    def __init__(self, arch: MLLAArch, stage: int, norm_cfg: Mapping[str, Any]):
        super().__init__()
        channels = arch.dims[stage]
        wide = 8 * channels
        first, halving = nn.Conv2d(channels, wide, 1), depthwise(wide, 3, stride=2)
        self.conv = nn.Sequential(
            nn.Sequential(OrderedDict(conv=first, act=nn.ReLU())),
            nn.Sequential(OrderedDict(conv=halving, act=nn.ReLU())),
            ConvNorm(wide, 2 * channels, 1, norm_cfg=norm_cfg, bias=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``[N, C, H, W]`` into ``[N, 2 * C, ceil(H / 2), ...]``."""
        halved: Tensor = self.conv(x)
        return halved


class Stage(nn.Module):
    """Blocks of one resolution, and what leads to the next one.

    Args:
        arch: the model.
        index: of the stage.
        drop_path_rates: stochastic depth of each block.
        norm_cfg: norm layer.
        is_last: whether nothing follows.
    """

    def __init__(
        self,
        arch: MLLAArch,
        index: int,
        drop_path_rates: Sequence[float],
        norm_cfg: Mapping[str, Any],
        is_last: bool,
    ):
        super().__init__()
        is_baseline = arch.mixer == 'baseline'
        block = AttentionBlock if is_baseline else RecBlock
        self.blocks = nn.ModuleList(
            block(arch, index, rate) for rate in drop_path_rates
        )
        self.downsample: nn.Module = nn.Identity()
        if is_baseline and not is_last:
            self.downsample = ConvDownsample(arch, index, norm_cfg)
        elif not is_last:
            rate = [0.0, *drop_path_rates][-1]  # its last block's
            self.downsample = RecDownsample(arch, index, rate)


def drop_path_rates(arch: MLLAArch, rate: float) -> list[list[float]]:
    """Give each block of each stage its stochastic depth, from 0 on to ``rate``."""
    last = max(1, sum(arch.depths) - 1)
    starts = [sum(arch.depths[:stage]) for stage in range(NUM_STAGES)]
    return [
        [rate * i / last for i in range(start, start + depth)]
        for start, depth in zip(starts, arch.depths, strict=True)
    ]


@MMENGINE_MODELS.register_module()
@MODELS.register_module()
class MLLA(Backbone):
    """MLLA, with its own linear attention or with what RecNeXt mixes tokens by.

    Args:
        arch: name of a model (the keys of ``MLLA_ARCHS``), or a dict of settings: the
            fields of :class:`~mmrecnext.archs.MLLAArch`, over those of the model named
            by its key ``base``.
        in_channels: channels of the input image.
        out_indices: stages, 0 to 3, whose maps are returned, in this order, each
            through a layer norm of its own. Stages beyond the last of them are not
            built.
        frozen_stages: -1 freezes nothing, 0 the stem, ``i`` the stem and the first
            ``i`` stages, each with the downsampling behind it: no gradients, and norms
            in inference mode. The norms of the maps go on learning.
        norm_cfg: norm layer of the stem, and of the baseline between its stages.
        norm_eval: keep all batch norms in inference mode during training.
        drop_path_rate: stochastic depth, a probability: that of the last block; it
            grows from 0 at the first.
        with_cp: trade time for memory: recompute each block in the backward pass.
        deploy: build the inference form, as of :meth:`switch_to_deploy`, which cannot
            train.
        init_cfg: initialisation. ``dict(type='Pretrained', checkpoint=...)`` takes a
            checkpoint of a classifier or of a backbone by path or URL, and fails unless
            every weight fits; a classifier's has no norms of maps, which then begin as
            identities. No weights are published.

    Attributes:
        out_channels (tuple[int, ...]): channels of each returned map.
        out_strides (tuple[int, ...]): input pixels per pixel of each returned map.
        deployed (bool): whether the model is in its inference form.

    Raises:
        OptionError: for an option of unknown name or impossible value, naming the valid
            choices.

    Examples:
        >>> import torch
        >>> from mmrecnext import MLLA
        >>> model = MLLA('nano_recattn', out_indices=(1, 3)).eval()
        >>> [list(x.shape) for x in model(torch.zeros(1, 3, 64, 96))]
        [[1, 64, 8, 12], [1, 256, 2, 3]]

    Source: MLLA (https://github.com/LeapLabTHU/MLLA), RecNeXt
    (https://github.com/suous/RecNeXt).
    """

    family = 'MLLA'
    archs = MLLA_ARCHS
    stages_key = 'layers'
    arch: MLLAArch
    map_norm: type[nn.Module] = PixelNorm

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'nano_recattn',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_cfg: Mapping[str, Any] = dict(type='BN'),
        norm_eval: bool = False,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        deploy: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
        **unknown: Any,
    ):
        check_known(MLLA, unknown)
        model = get_mlla_arch(arch)
        super().__init__(
            model,
            in_channels,
            out_indices,
            frozen_stages,
            norm_cfg,
            norm_eval,
            drop_path_rate,
            with_cp,
            None,
            deploy,
            init_cfg,
        )
        last = max(self.out_indices)
        rates = drop_path_rates(model, drop_path_rate)
        self.patch_embed = PatchEmbed(in_channels, model.embed_dim, norm_cfg)
        self.layers: Any = nn.ModuleList(
            Stage(model, i, rates[i], norm_cfg, i == last) for i in range(last + 1)
        )
        for i in self.out_indices:
            self.add_module(f'norm{i}', self.map_norm(model.dims[i]))
        self.finish(deploy)

    def parts(self) -> tuple[nn.Module, ...]:
        """Return the stem, then each stage that is built."""
        return (self.patch_embed, *self.layers)

    def extract(self, x: Tensor) -> tuple[Tensor, ...]:
        """Do what :meth:`forward` does, of images as they come, in any layout."""
        run = recomputed if self.with_cp and self.training else as_is
        x = self.patch_embed(x)
        maps = []
        for stage in self.layers:
            for block in stage.blocks:
                x = run(block)(x)
            maps.append(x)
            x = run(stage.downsample)(x)
        return tuple(getattr(self, f'norm{i}')(maps[i]) for i in self.out_indices)

    def own_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave out what a classifier has and this model has not, and add the reverse.

        Norms of maps begin as they are, unless ``weights`` have some.

        Args:
            weights: of a backbone or classifier, by key.
        """
        own = self.state_dict()
        last = f'layers.{len(self.layers) - 1}.downsample.'
        norms = tuple(f'norm{i}.' for i in range(NUM_STAGES))
        kept = {
            key: value
            for key, value in super().own_weights(weights).items()
            if not key.startswith(('norm.', last))
            and (key in own or not key.startswith(norms))
        }
        return {k: v for k, v in own.items() if k.startswith(norms)} | kept
