"""The RecNeXt backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor, nn

from mmrecnext.archs import ARCHS, NUM_STAGES, Arch, get_arch
from mmrecnext.models.backbone import Backbone, as_is, check_known, recomputed
from mmrecnext.models.blocks import Block, Downsample, SharingBlock, Stem, dilate
from mmrecnext.registry import MODELS


class Stage(nn.Module):
    """Blocks of one resolution, behind a downsampling in all stages but the first.

    With a ``dilation`` of 2 or more, as large as the reduction that this stage and
    those before it have forgone, it does not reduce the map: its kernels widen.
    """

    block = Block

    def __init__(
        self,
        arch: Arch,
        index: int,
        drop_path_rates: list[float],
        dilation: int = 1,
        **layers: Any,
    ):
        super().__init__()
        if index > 0:
            grows = arch.linear_drop_path and len(drop_path_rates) > 0
            first = drop_path_rates[0] if grows else 0.0
            stride = 2 if dilation == 1 else 1
            self.downsample = Downsample(arch, index, first, stride, **layers)
        self.blocks = nn.ModuleList(
            self.block(arch, index, i, rate, **layers)
            for i, rate in enumerate(drop_path_rates)
        )
        if dilation > 1:
            dilate(self.blocks, dilation)
            dilate(self.downsample, dilation // 2)

    def forward(self, x: Tensor, with_cp: bool = False) -> Tensor:
        """Run the stage, with ``with_cp`` recomputing each block in backward."""
        if hasattr(self, 'downsample'):
            x = self.downsample(x)
        return self.run_blocks(x, recomputed if with_cp else as_is)

    def run_blocks(self, x: Tensor, run: Callable[..., Any]) -> Tensor:
        """Run the blocks, each by what ``run`` makes of it."""
        for block in self.blocks:
            x = run(block)(x)
        return x


class SharingStage(Stage):
    """Stage whose blocks reuse channels that others before them have attended to."""

    block = SharingBlock

    def run_blocks(self, x: Tensor, run: Callable[..., Any]) -> Tensor:
        """Run the blocks, and hand on what they have attended to."""
        attended: tuple[Tensor, ...] = ()
        for block in self.blocks:
            x, attended = run(block)(x, attended)
        return x


def build_stage(arch: Arch, index: int, *args: Any, **layers: Any) -> Stage:
    """Build a stage; the last of a model with ``share_every`` shares channels."""
    shares = arch.share_every and index == NUM_STAGES - 1
    return (SharingStage if shares else Stage)(arch, index, *args, **layers)


def drop_path_rates(arch: Arch, rate: float) -> list[list[float]]:
    """Give each block of each stage its stochastic depth."""
    total = sum(arch.depths)
    rates = iter(
        [rate * i / max(total - 1, 1) for i in range(total)]
        if arch.linear_drop_path
        else [rate] * total
    )
    return [[next(rates) for _ in range(depth)] for depth in arch.depths]


@MMENGINE_MODELS.register_module()
@MODELS.register_module()
class RecNeXt(Backbone):
    """RecNeXt, a light backbone that emits multi-scale maps.

    Args:
        arch: name of a published model (the keys of ``ARCHS``), or a dict of settings:
            the fields of :class:`~mmrecnext.archs.Arch`, over those of the model
            named by its key ``base``.
        in_channels: channels of the input image.
        out_indices: stages, 0 to 3, whose maps are returned, in this order. Stages
            beyond the last of them are not built.
        frozen_stages: -1 freezes nothing, 0 the stem, ``i`` the stem and the first
            ``i`` stages: no gradients, and norms in inference mode.
        norm_cfg: norm layer. Published weights fit ``BN`` and ``SyncBN``.
        norm_eval: keep all batch norms in inference mode during training.
        drop_path_rate: stochastic depth, a probability: that of every block, or, in T,
            S and B, that of the last.
        with_cp: trade time for memory: recompute each block in the backward pass.
        output_stride: input pixels per pixel that no map exceeds, one of the strides
            of the model; None for no limit. Stages beyond it do not reduce the map:
            their kernels dilate, by 2, then 4, as DeepLab and PSPNet want it. The
            weights are the same.
        deploy: build the inference form, as of :meth:`switch_to_deploy`, which cannot
            train. Its ``Pretrained`` weights may be fused ones.
        init_cfg: initialisation. ``dict(type='Pretrained', checkpoint=...)`` takes a
            published name such as ``recnext_m3.dist_300e_in1k``, a repository on the
            hub, or a published file or OpenMMLab checkpoint by path or URL, and fails
            unless every weight fits.

    Attributes:
        out_channels (tuple[int, ...]): channels of each returned map.
        out_strides (tuple[int, ...]): input pixels per pixel of each returned map.
        deployed (bool): whether the model is in its inference form.

    Raises:
        OptionError: for an option of unknown name or impossible value, naming the valid
            choices.

    Examples:
        >>> import torch
        >>> from mmrecnext import RecNeXt
        >>> model = RecNeXt('m0', out_indices=(1, 3)).eval()
        >>> [list(x.shape) for x in model(torch.zeros(1, 3, 64, 96))]
        [[1, 80, 8, 12], [1, 320, 2, 3]]
        >>> model.out_channels, model.out_strides
        ((80, 320), (8, 32))

    Source: RecNeXt (https://github.com/suous/RecNeXt).
    """

    family = 'RecNeXt'
    archs = ARCHS
    stages_key = 'stages'
    arch: Arch

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'm3',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_cfg: Mapping[str, Any] = dict(type='BN'),
        norm_eval: bool = False,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        output_stride: int | None = None,
        deploy: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
        **unknown: Any,
    ):
        check_known(RecNeXt, unknown)
        model = get_arch(arch)
        super().__init__(
            model,
            in_channels,
            out_indices,
            frozen_stages,
            norm_cfg,
            norm_eval,
            drop_path_rate,
            with_cp,
            output_stride,
            deploy,
            init_cfg,
        )
        strides = [min(stride, output_stride or stride) for stride in model.strides]
        layers = dict(norm_cfg=norm_cfg, bias=model.conv_bias)
        rates = drop_path_rates(model, drop_path_rate)
        self.stem = Stem(model, in_channels, **layers)
        self.stages = nn.ModuleList(
            build_stage(model, i, rates[i], model.strides[i] // strides[i], **layers)
            for i in range(max(self.out_indices) + 1)
        )
        self.finish(deploy)

    def parts(self) -> tuple[nn.Module, ...]:
        """Return the stem, then each stage that is built."""
        return (self.stem, *self.stages)

    def extract(self, x: Tensor) -> tuple[Tensor, ...]:
        """Do what :meth:`forward` does, of images as they come, in any layout."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x, with_cp=self.with_cp and self.training)
            maps.append(x)
        return tuple(maps[i] for i in self.out_indices)
