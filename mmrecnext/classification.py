"""The RecNeXt classifiers, registered with timm by importing this module.

``timm.create_model('recnext_m3', pretrained=True, distillation=False)`` then works as
the model cards say, and so do timm's own scripts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import (
    build_model_with_cfg,
    create_model,
    generate_default_cfgs,
    register_model,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from mmrecnext.archs import ARCHS
from mmrecnext.checkpoint import named_weights, read_checkpoint
from mmrecnext.checkpoint.fit import FOR_INFERENCE, check_fit, fuse_like, is_fused
from mmrecnext.errors import CheckpointError, OptionError
from mmrecnext.fusion import affine, fuse_conv_norms
from mmrecnext.models import RecNeXt
from mmrecnext.pretrained import INPUT_SIDE, PRETRAINED, Pretrained, get_pretrained

__all__ = ['RecNeXtClassifier', 'load_classifier', 'replace_batchnorm']

POOLINGS = ('avg', '')

FIRST_CONV = 'stem.stem.0.conv'
CLASSIFIERS = ('head.head.linear', 'head.head_dist.linear')
ENDS = (f'{FIRST_CONV}.weight', f'{CLASSIFIERS[0]}.weight')
FUSED_ENDS = ('stem.stem.0.weight', 'head.weight')
"""Keys that tell how many channels the images have, and how many classes there are."""


class NormLinear(nn.Sequential):
    """Norm, then a linear layer."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.linear = nn.Linear(channels, num_classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def merged(self) -> tuple[Tensor, Tensor]:
        """Return weight ``[classes, channels]`` and bias of the two as one layer."""
        scale, shift = affine(self.norm)
        weight, bias = (p.detach().double() for p in self.linear.parameters())
        return weight * scale, bias + weight @ shift


class Head(nn.Module):
    """Two linear heads: one learns from the labels, one from a teacher.

    Args:
        channels: channels of the pooled features.
        num_classes: classes.
        distillation: whether training gets both results, or, as inference, their mean.
    """

    def __init__(self, channels: int, num_classes: int, distillation: bool):
        super().__init__()
        self.distillation = distillation
        self.head = NormLinear(channels, num_classes)
        self.head_dist = NormLinear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Turn ``[N, channels]`` into logits ``[N, num_classes]``, or two of them."""
        logits = self.head(x), self.head_dist(x)
        if self.training and self.distillation:
            return logits
        return sum(logits) / 2

    def fused(self) -> nn.Linear:
        """Return one linear layer that does the same in inference."""
        weights, biases = zip(self.head.merged(), self.head_dist.merged(), strict=True)
        like = self.head.linear.weight
        linear = nn.Linear(*reversed(like.shape), device=like.device, dtype=like.dtype)
        with torch.no_grad():
            linear.weight.copy_(sum(weights) / 2)
            linear.bias.copy_(sum(biases) / 2)
        return linear


class RecNeXtClassifier(RecNeXt):
    """RecNeXt with pooling and a head, in timm's ways.

    Args:
        arch: as of :class:`~mmrecnext.models.RecNeXt`.
        num_classes: classes; 0 for no head.
        in_chans: channels of the input image.
        global_pool: ``avg``, or an empty string for none, which goes without a head.
        drop_rate: dropout before the head, a probability.
        drop_path_rate: stochastic depth, see :class:`~mmrecnext.models.RecNeXt`.
        distillation: in training, return the logits of both heads, in this order: that
            of the labels, that of the teacher. Otherwise, as in inference, their mean:
            both heads stand in every published file, and both are trained.
        options: further options of :class:`~mmrecnext.models.RecNeXt`.

    Source: RecNeXt (https://github.com/suous/RecNeXt).
    """

    def __init__(
        self,
        arch: str | Mapping = 'm3',
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        distillation: bool = False,
        **options,
    ):
        super().__init__(
            arch, in_channels=in_chans, drop_path_rate=drop_path_rate, **options
        )
        self.in_chans = in_chans
        self.feature_info = [
            dict(num_chs=channels, reduction=stride, module=f'stages.{i}')
            for i, (channels, stride) in enumerate(
                zip(self.out_channels, self.out_strides, strict=True)
            )
        ]
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool, distillation)

    @property
    def num_features(self) -> int:
        """Channels of the last map."""
        return self.out_channels[-1]

    @property
    def head_hidden_size(self) -> int:
        """Channels that the head is given."""
        return self.num_features

    def get_classifier(self) -> nn.Module:
        """Return what turns pooled features into logits."""
        return self.head

    def reset_classifier(
        self,
        num_classes: int,
        global_pool: str | None = None,
        distillation: bool | None = None,
    ):
        """Put a new head in place of the old one.

        Args:
            num_classes: classes; 0 for no head.
            global_pool: how to pool; as before if left out.
            distillation: see the class; as before if left out.

        Raises:
            OptionError: for an unknown pooling, or a head without any.
        """
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in POOLINGS or (num_classes and not pool):
            raise OptionError(
                "global_pool is 'avg', or '' where num_classes is 0, got "
                f'{pool!r} with num_classes {num_classes}'
            )
        if distillation is not None:
            self.distillation = distillation
        self.global_pool = pool
        self.num_classes = num_classes
        self.head = nn.Identity()
        if num_classes:
            self.head = Head(self.num_features, num_classes, self.distillation)
        self.head.train(self.training)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last map of images ``[N, in_chans, H, W]``."""
        return super().forward(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify the last map.

        Args:
            x: ``[N, C, H, W]``.
            pre_logits: return what the head would be given.

        Returns:
            ``[N, num_classes]``; in training with distillation two of them.
        """
        if self.global_pool:
            x = x.mean((2, 3))
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images ``[N, in_chans, H, W]``, see :meth:`forward_head`."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return maps of the stages.

        Args:
            x: images ``[N, in_chans, H, W]``.
            indices: which stages; a number for that many of the last.
            norm: nothing to this model, which has no norm after its stages.
            stop_early: nothing either; :meth:`prune_intermediate_layers` saves more.
            output_fmt: ``NCHW``.
            intermediates_only: leave out the last map, which otherwise comes first.

        Raises:
            OptionError: for another format.
        """
        if output_fmt != 'NCHW':
            raise OptionError(f"output_fmt is 'NCHW', got {output_fmt!r}")
        maps = super().forward(x)
        taken, _ = feature_take_indices(len(maps), indices)
        chosen = [maps[i] for i in taken]
        return chosen if intermediates_only else (maps[-1], chosen)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the stages after the last of ``indices``, and the head.

        Args:
            indices: stages to keep; a number for that many of the last.
            prune_norm: nothing to this model.
            prune_head: drop the head even where the last stage stays.

        Returns:
            The stages kept, none of them negative.
        """
        taken, last = feature_take_indices(len(self.stages), indices)
        shorter = last + 1 < len(self.stages)
        self.stages = self.stages[: last + 1]
        self.out_indices = self.out_indices[: last + 1]
        self.out_channels = self.out_channels[: last + 1]
        self.out_strides = self.out_strides[: last + 1]
        if prune_head or shorter:
            self.reset_classifier(0, '')
        return taken

    def set_grad_checkpointing(self, enable: bool = True):
        """Trade time for memory: recompute each block in the backward pass."""
        self.with_cp = enable

    def group_matcher(self, coarse: bool = False) -> dict:
        """Tell timm's layer-wise settings which parameters belong together."""
        block = [
            (r'^stages\.(\d+)\.downsample', (0,)),
            (r'^stages\.(\d+)\.blocks\.(\d+)', None),
        ]
        return dict(stem=r'^stem', blocks=r'^stages\.(\d+)' if coarse else block)


def replace_batchnorm(model: nn.Module):
    """Bring a classifier into the form of the published fused files, in place.

    Norms are merged into the convolutions that they belong to, the two heads into one
    linear layer. ``model.switch_to_deploy()`` merges also the norms that remain.

    Args:
        model: a classifier in inference mode, its weights loaded; one that is fused
            already stays as it is.
    """
    fuse_conv_norms(model)


def checkpoint_filter_fn(checkpoint: Mapping[str, Any], model: nn.Module) -> dict:
    """Give timm the weights in ``checkpoint``.

    Raises:
        CheckpointError: where they are fused, unlike the model.
    """
    weights = named_weights(checkpoint)
    if is_fused(weights) and isinstance(model.head, Head):
        raise CheckpointError(
            f'these are {FOR_INFERENCE}. Take the training checkpoint (.pth or '
            'safetensors) of the same model'
        )
    return weights


def load_classifier(
    name: str, checkpoint: str | None = None, averaged: bool = False
) -> RecNeXtClassifier:
    """Build a classifier for inference, with all of its weights.

    Args:
        name: a model, such as ``recnext_m3`` or ``recnext_m3.base_300e_in1k``.
        checkpoint: what :func:`~mmrecnext.checkpoint.load_pretrained` takes; by default
            the published weights.
        averaged: take the moving averages that timm saves beside the weights, if any.

    Raises:
        OptionError: for a model of unknown name.
        CheckpointError: where the file is not that of such a classifier.
    """
    published = get_pretrained(name)
    checkpoint = checkpoint or published.url
    weights = named_weights(read_checkpoint(checkpoint, 'cpu'), averaged)
    return classifier_of(weights, published.arch, checkpoint)


def classifier_of(
    weights: Mapping[str, Tensor], arch: str, source: str
) -> RecNeXtClassifier:
    """Build the classifier that some weights are of, for inference.

    Args:
        weights: by key. The classes and the channels of the images are as many as in
            them, and it is fused if they are.
        arch: the model, a name in ``ARCHS``.
        source: where the weights come from.

    Raises:
        CheckpointError: where they are not those of such a classifier.
    """
    stem, head = FUSED_ENDS if is_fused(weights) else ENDS
    if not {stem, head} <= weights.keys():
        raise CheckpointError(
            f'{source} holds no RecNeXt classifier: it lacks {stem} or {head}'
        )
    model = create_model(
        f'recnext_{arch}',
        num_classes=len(weights[head]),
        in_chans=weights[stem].size(1),
    ).eval()
    fuse_like(model, weights)
    check_fit(model, weights, source)
    model.load_state_dict(weights)
    return model


def _cfg(weights: Pretrained) -> dict:
    side = -(-INPUT_SIDE // ARCHS[weights.arch].strides[-1])
    return dict(
        url=weights.url,
        hf_hub_id=weights.hub_id,
        num_classes=1000,
        input_size=(3, INPUT_SIDE, INPUT_SIDE),
        pool_size=(side, side),
        crop_pct=0.875,  # the authors evaluate a centre of 224 in a short side of 256
        interpolation='bicubic',
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        first_conv=FIRST_CONV,
        classifier=CLASSIFIERS,
    )


default_cfgs = generate_default_cfgs(
    {name: _cfg(weights) for name, weights in PRETRAINED.items()}
)


def _entrypoint(arch: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs) -> nn.Module:
        try:
            return build_model_with_cfg(
                RecNeXtClassifier,
                create.__name__,
                pretrained,
                arch=arch,
                feature_cfg=dict(feature_cls='getter', out_indices=(0, 1, 2, 3)),
                pretrained_filter_fn=checkpoint_filter_fn,
                **kwargs,
            )
        except LocalEntryNotFoundError as error:
            # A tag is given as a string; what is no string comes from elsewhere.
            tag = kwargs.get('pretrained_cfg') or ''
            if not isinstance(tag, str):
                raise
            weights = get_pretrained(f'{arch}.{tag}')
            raise CheckpointError(
                f'cannot fetch {weights.hub_id} from the hub, out of reach. Fetch '
                f'{weights.url} elsewhere and give its path: timm.create_model(..., '
                "pretrained_cfg_overlay=dict(file='PATH'))"
            ) from error

    create.__name__ = create.__qualname__ = f'recnext_{arch}'
    create.__doc__ = f'RecNeXt-{arch.upper()}, options as of RecNeXtClassifier.'
    return create


for _arch in ARCHS:
    globals()[f'recnext_{_arch}'] = register_model(_entrypoint(_arch))
