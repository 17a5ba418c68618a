"""What all backbones have in common: options, modes, and the inference form."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmrecnext.archs import NUM_STAGES
from mmrecnext.compat import BatchNorm, has_hooks, is_symbolic
from mmrecnext.errors import CheckpointError, OptionError, check_flag
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

# MMSegmentation hands the `pretrained` of a segmentor on to its backbone.
PRETRAINED_HINT = (
    ". Set the model's `pretrained=None`, and the weights as the backbone's "
    "`init_cfg=dict(type='Pretrained', checkpoint=...)`"
)


def check_known(kind: type[Backbone], unknown: Mapping[str, Any]) -> None:
    """Raise an :class:`OptionError` if there are options that a backbone has not."""
    if unknown:
        *options, _ = list(inspect.signature(kind).parameters)
        hint = PRETRAINED_HINT if 'pretrained' in unknown else ''
        raise OptionError(
            f'{kind.family} has no option {", ".join(unknown)}; '
            f'the options are {", ".join(options)}{hint}'
        )


def as_is(block: nn.Module) -> Callable[..., Any]:
    """Return ``block``, in the place of :func:`recomputed`."""
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


def traced(module: nn.Module, model: Backbone) -> Traced:
    """Trace a module that turns images into what a model makes of them.

    Args:
        module: the model, or one around it.
        model: the model.

    Raises:
        OptionError: in training, of which a trace would record a step.
    """
    if model.training:
        raise OptionError(
            f'torch.jit.script takes a {model.family} in inference: `eval()`'
        )
    side = 2 * model.arch.strides[-1]
    image = next(model.parameters()).new_zeros(1, model.in_channels, side, side)
    with torch.no_grad():
        return Traced(torch.jit.trace(module, image, check_trace=False, strict=False))


class Backbone(BaseModule):
    """Turns images into maps of up to four stages.

    A subclass builds a stem and the stages, tells them by :meth:`parts`, and runs them
    by :meth:`extract`; last of all it calls :meth:`finish`.

    Args:
        arch: what the model is made of.
        in_channels: channels of the input image.
        out_indices: stages, 0 to 3, whose maps are returned, in this order.
        frozen_stages: -1 freezes nothing, 0 the stem, ``i`` the stem and the first
            ``i`` stages.
        norm_cfg: norm layer.
        norm_eval: keep all batch norms in inference mode during training.
        drop_path_rate: stochastic depth, a probability.
        with_cp: recompute each block in the backward pass.
        output_stride: input pixels per pixel that no map exceeds, None for no limit.
        deploy: build the inference form, by :meth:`finish`.
        init_cfg: initialisation.

    Attributes:
        family (str): what errors call the model.
        archs (Mapping[str, Arch | MLLAArch]): the published models, by name.
        stages_key (str): what the keys of the stages begin with.
        out_channels (tuple[int, ...]): channels of each returned map.
        out_strides (tuple[int, ...]): input pixels per pixel of each returned map.
        deployed (bool): whether the model is in its inference form.

    Raises:
        OptionError: for an option of impossible value, naming the valid choices.
    """

    family: ClassVar[str]
    archs: ClassVar[Mapping[str, Any]]
    stages_key: ClassVar[str]

    def __init__(
        self,
        arch: Any,
        in_channels: int,
        out_indices: Sequence[int],
        frozen_stages: int,
        norm_cfg: Mapping[str, Any],
        norm_eval: bool,
        drop_path_rate: float,
        with_cp: bool,
        output_stride: int | None,
        deploy: bool,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None,
    ):
        check_options(arch, in_channels, out_indices, frozen_stages, output_stride)
        check_rate('drop_path_rate', drop_path_rate)
        for name, value in dict(
            norm_eval=norm_eval, with_cp=with_cp, deploy=deploy
        ).items():
            check_flag(name, value)
        check_norm_cfg(norm_cfg, arch.dims[0])
        check_init_cfg(init_cfg)
        super().__init__(strictly_pretrained(init_cfg))
        out_indices = tuple(out_indices)
        strides = [min(stride, output_stride or stride) for stride in arch.strides]

        self.arch = arch
        self.in_channels = in_channels
        self.out_indices = out_indices
        self.out_channels: tuple[int, ...] = tuple(arch.dims[i] for i in out_indices)
        self.out_strides = tuple(strides[i] for i in out_indices)
        self.frozen_stages = frozen_stages
        self.norm_cfg = norm_cfg
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.deployed = False

    @abstractmethod
    def parts(self) -> tuple[nn.Module, ...]:
        """Return the stem, then each stage that is built."""

    @abstractmethod
    def extract(self, x: Tensor) -> tuple[Tensor, ...]:
        """Do what :meth:`forward` does, of images as they come, in any layout."""

    def own_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave out what a whole backbone has and this one has not: stages.

        Args:
            weights: of a backbone, by key.
        """
        count = len(self.parts()) - 1
        unbuilt = tuple(f'{self.stages_key}.{i}.' for i in range(count, NUM_STAGES))
        return {k: v for k, v in weights.items() if not k.startswith(unbuilt)}

    def finish(self, deploy: bool) -> None:
        """Freeze what is to be frozen, once all is built, and deploy if asked to."""
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
                f'{self.family} takes images as a tensor [N, {self.in_channels}, H, W] '
                f'of a floating point type, got {got}'
            )
        if x.dim() != 4 or x.size(1) != self.in_channels or 0 in x.shape[2:]:
            raise ValueError(
                f'{self.family} takes images [N, {self.in_channels}, H, W], '
                f'got a tensor of shape {list(x.shape)}'
            )
        layout = memory_format(x, next(self.parameters()))
        if x.device.type == 'cpu':  # whose depthwise convolutions are faster so
            x = x.contiguous(memory_format=torch.channels_last)
        # Whatever is fast in here, heads may take `view`s of what comes out.
        return tuple(x.contiguous(memory_format=layout) for x in self.extract(x))

    def __prepare_scriptable__(self) -> nn.Module:
        """Give ``torch.jit.script`` a trace, which suits images of any size.

        Raises:
            OptionError: in training, which a trace would record a step of.
        """
        return traced(self, self)

    def train(self, mode: bool = True) -> Backbone:
        """Switch to training, frozen parts and ``norm_eval`` norms excepted.

        Raises:
            OptionError: for training in the inference form.
        """
        if mode and self.deployed:
            raise OptionError(
                f'this {self.family} has been switched to deploy: its batch norms are '
                'merged into its convolutions, so that it cannot train any more. Build '
                'the model anew and load its training checkpoint'
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
        for part in self.parts()[: self.frozen_stages + 1]:
            part.eval()
            part.requires_grad_(False)
