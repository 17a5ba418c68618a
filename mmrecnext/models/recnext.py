"""The RecNeXt backbone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmrecnext.archs import NUM_STAGES, Arch, get_arch
from mmrecnext.compat import BatchNorm, has_hooks, is_symbolic
from mmrecnext.errors import CheckpointError, OptionError, check_flag
from mmrecnext.models.blocks import Block, Downsample, SharingBlock, Stem, dilate
from mmrecnext.models.fusion import fold_outer_norms
from mmrecnext.models.settings import (
    check_init_cfg,
    check_norm_cfg,
    check_options,
    check_rate,
    strictly_pretrained,
)
from mmrecnext.ops import fast_paths
from mmrecnext.ops.conv import memory_format
from mmrecnext.ops.replay import Moment
from mmrecnext.registry import MODELS

# MMSegmentation hands the `pretrained` of a segmentor on to its backbone.
PRETRAINED_HINT = (
    ". Set the model's `pretrained=None`, and the weights as the backbone's "
    "`init_cfg=dict(type='Pretrained', checkpoint=...)`"
)


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
        return self.run_blocks(x, recomputed if with_cp else _as_is)

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


def _as_is(block: nn.Module) -> Callable[..., Any]:
    return block


def recomputed(block: nn.Module) -> Callable[..., Any]:
    """Have ``block`` keep no activations for the backward pass."""
    if has_hooks(block):  # which would be called again with the block
        return block
    return partial(
        checkpoint,
        block,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), AsItWas(block)),
    )


class AsItWas(ExitStack):
    """Has ``block`` compute, whenever entered, as it would now, by the same paths."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.moment, self.paths = Moment([block]), fast_paths.as_now()

    def __enter__(self) -> AsItWas:
        self.enter_context(self.moment.restored())  # the first, for it may refuse
        self.enter_context(self.paths())
        return super().__enter__()


class Traced(nn.Module):
    """What a trace does, as a module that ``torch.jit.script`` takes."""

    def __init__(self, trace: torch.jit.ScriptModule):
        super().__init__()
        self.trace = trace

    def forward(self, x: Tensor) -> Any:
        """Run the trace."""
        return self.trace(x)


def traced(module: nn.Module, model: RecNeXt) -> Traced:
    """Trace a module that turns images into what a model makes of them.

    Args:
        module: the model, or one around it.
        model: the model.

    Raises:
        OptionError: in training, of which a trace would record a step.
    """
    if model.training:
        raise OptionError('torch.jit.script takes a RecNeXt in inference: `eval()`')
    side = 2 * model.arch.strides[-1]
    image = next(model.parameters()).new_zeros(1, model.in_channels, side, side)
    with torch.no_grad():
        return Traced(torch.jit.trace(module, image, check_trace=False, strict=False))


@MMENGINE_MODELS.register_module()
@MODELS.register_module()
class RecNeXt(BaseModule):
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
        if unknown:
            *options, _ = list(inspect.signature(RecNeXt).parameters)
            hint = PRETRAINED_HINT if 'pretrained' in unknown else ''
            raise OptionError(
                f'RecNeXt has no option {", ".join(unknown)}; '
                f'the options are {", ".join(options)}{hint}'
            )
        model = get_arch(arch)
        check_options(model, in_channels, out_indices, frozen_stages, output_stride)
        check_rate('drop_path_rate', drop_path_rate)
        for name, value in dict(
            norm_eval=norm_eval, with_cp=with_cp, deploy=deploy
        ).items():
            check_flag(name, value)
        check_norm_cfg(norm_cfg, model.dims[0])
        check_init_cfg(init_cfg)
        super().__init__(strictly_pretrained(init_cfg))
        out_indices = tuple(out_indices)
        num_stages = max(out_indices) + 1
        strides = [min(stride, output_stride or stride) for stride in model.strides]

        self.arch = model
        self.in_channels = in_channels
        self.out_indices = out_indices
        self.out_channels = tuple(model.dims[i] for i in out_indices)
        self.out_strides = tuple(strides[i] for i in out_indices)
        self.frozen_stages = frozen_stages
        self.norm_cfg = norm_cfg
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.deployed = False

        layers = dict(norm_cfg=norm_cfg, bias=model.conv_bias)
        rates = drop_path_rates(model, drop_path_rate)
        self.stem = Stem(model, in_channels, **layers)
        self.stages = nn.ModuleList(
            build_stage(model, i, rates[i], model.strides[i] // strides[i], **layers)
            for i in range(num_stages)
        )
        self._freeze()
        if deploy:
            self.switch_to_deploy()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            x: images ``[N, in_channels, H, W]``, normalised.

        Returns:
            One map ``[N, out_channels[k], ceil(H / out_strides[k]), ...]`` per entry of
            ``out_indices``, channels-last if the images or the weights are.
        """
        if is_symbolic():
            return self.extract(x)
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                f'RecNeXt takes images as a tensor [N, {self.in_channels}, H, W] of a '
                f'floating point type, got {got}'
            )
        if x.dim() != 4 or x.size(1) != self.in_channels or 0 in x.shape[2:]:
            raise ValueError(
                f'RecNeXt takes images [N, {self.in_channels}, H, W], '
                f'got a tensor of shape {list(x.shape)}'
            )
        layout = memory_format(x, next(self.stem.parameters()))
        if x.device.type == 'cpu':  # whose depthwise convolutions are faster so
            x = x.contiguous(memory_format=torch.channels_last)
        # Whatever is fast in here, heads may take `view`s of what comes out.
        return tuple(x.contiguous(memory_format=layout) for x in self.extract(x))

    def extract(self, x: Tensor) -> tuple[Tensor, ...]:
        """Do what :meth:`forward` does, of images as they come, in any layout."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x, with_cp=self.with_cp and self.training)
            maps.append(x)
        return tuple(maps[i] for i in self.out_indices)

    def __prepare_scriptable__(self) -> nn.Module:
        """Give ``torch.jit.script`` a trace, which suits images of any size.

        Raises:
            OptionError: in training, which a trace would record a step of.
        """
        return traced(self, self)

    def train(self, mode: bool = True) -> RecNeXt:
        """Switch to training, frozen parts and ``norm_eval`` norms excepted.

        Raises:
            OptionError: for training in the inference form.
        """
        if mode and self.deployed:
            raise OptionError(
                'this RecNeXt has been switched to deploy: its batch norms are merged '
                'into its convolutions, so that it cannot train any more. Build the '
                'model anew and load its training checkpoint'
            )
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, BatchNorm):
                    module.eval()
        return self

    def switch_to_deploy(self) -> None:
        """Merge every batch norm into a convolution, in place, for inference only.

        The maps stay the same. Weights are to be loaded before.

        Raises:
            OptionError: for norms that are no batch norms; the model is then as it was.
        """
        fold_outer_norms(self)
        self.deployed = True
        self.eval()

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Refuse weights with norms, which a load that is not strict would skip."""
        if self.deployed and any(
            key.startswith(prefix) and key.endswith('.running_mean')
            for key in state_dict
        ):
            raise CheckpointError(
                'these weights have batch norms, which the backbone, switched to '
                'deploy, has no more: load them before `switch_to_deploy()`, or by the '
                "backbone's `init_cfg`"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        for part in (self.stem, *self.stages[: self.frozen_stages]):
            part.eval()
            part.requires_grad_(False)
