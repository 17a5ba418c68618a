"""The classifiers, as timm expects them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmrecnext.archs import MOST_BLOCKS, is_mlla
from mmrecnext.compat import timm_feature_indices
from mmrecnext.errors import OptionError, check_flag, check_option, is_integer
from mmrecnext.models.backbone import Backbone
from mmrecnext.models.fusion import affine
from mmrecnext.models.mlla import MLLA, Linear, PixelNorm
from mmrecnext.models.recnext import RecNeXt

POOLINGS = ('avg', '')

FIRST_CONV = 'stem.stem.0.conv'
MLLA_FIRST_CONV = 'patch_embed.conv1.conv'
CLASSIFIERS = ('head.head.linear', 'head.head_dist.linear')
"""Layers that timm adapts to other images and other classes."""


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
        mean: Tensor = sum(logits) / 2
        return mean

    def fused(self) -> nn.Linear:
        """Return one linear layer that does the same in inference."""
        weight, bias = self.head.merged()
        weight_dist, bias_dist = self.head_dist.merged()
        like = self.head.linear
        linear = nn.Linear(
            like.in_features,
            like.out_features,
            device=like.weight.device,
            dtype=like.weight.dtype,
        )
        with torch.no_grad():
            linear.weight.copy_((weight + weight_dist) / 2)
            linear.bias.copy_((bias + bias_dist) / 2)
        return linear

    fuse = fused


class Classifier(Backbone):
    """What makes a backbone a classifier, in timm's ways.

    A subclass, of a backbone too, calls :meth:`reset_classifier` last of all.

    Args:
        arch: as of the backbone.
        in_chans: channels of the input image.
        drop_rate: dropout before the head, a probability.
        options: further options of the backbone.
    """

    global_pool: str
    head: nn.Module

    def __init__(self, arch: Any, in_chans: int, drop_rate: float, **options: Any):
        super().__init__(arch, in_channels=in_chans, **options)
        self.in_chans = in_chans
        self.feature_info = [
            dict(num_chs=channels, reduction=stride, module=self.name_of_map(i))
            for i, channels, stride in zip(
                self.out_indices, self.out_channels, self.out_strides, strict=True
            )
        ]
        self.head_drop = nn.Dropout(drop_rate)

    @abstractmethod
    def name_of_map(self, stage: int) -> str:
        """Return the name of the module that returns the map of a stage."""

    @abstractmethod
    def build_head(self, num_classes: int) -> nn.Module:
        """Build what turns pooled features into logits."""

    @abstractmethod
    def cut(self, count: int) -> None:
        """Drop the stages after the first ``count``."""

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
        self, num_classes: int, global_pool: str | None = None
    ) -> None:
        """Put a new head in place of the old one.

        Args:
            num_classes: classes; 0 for no head.
            global_pool: how to pool; as before if left out.

        Raises:
            OptionError: for an impossible number, an unknown pooling, or a head
                without any.
        """
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in POOLINGS or (num_classes and not pool):
            raise OptionError(
                "global_pool is 'avg', or '' where num_classes is 0, got "
                f'{pool!r} with num_classes {num_classes}'
            )
        check_option(
            'num_classes',
            num_classes,
            is_integer(num_classes, 0),
            'a number of classes, 0 for no head',
        )
        self.global_pool = pool
        self.num_classes = num_classes
        self.head = nn.Identity()
        if num_classes:
            self.head = self.build_head(num_classes)
        self.head.train(self.training)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last map of images ``[N, in_chans, H, W]``."""
        return super().forward(x)[-1]

    def pool(self, x: Tensor) -> Tensor:
        """Turn the last map into features ``[N, C]``."""
        return x.mean((2, 3))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify the last map.

        Args:
            x: ``[N, C, H, W]``.
            pre_logits: return what the head would be given.

        Returns:
            ``[N, num_classes]``; of a RecNeXt in training with distillation two of
            them.
        """
        if self.global_pool:
            x = self.pool(x)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    # A classifier is a backbone in all but what it returns.
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
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
            norm: nothing to these models, whose maps are those of the stages.
            stop_early: nothing either; :meth:`prune_intermediate_layers` saves more.
            output_fmt: ``NCHW``.
            intermediates_only: leave out the last map, which otherwise comes first.

        Raises:
            OptionError: for another format.
        """
        if output_fmt != 'NCHW':
            raise OptionError(f"output_fmt is 'NCHW', got {output_fmt!r}")
        maps = super().forward(x)
        taken, _ = timm_feature_indices(len(maps), indices)
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
            prune_norm: drop the norm before the head, where there is one.
            prune_head: drop the head even where the last stage stays.

        Returns:
            The stages kept, none of them negative.
        """
        count = len(self.parts()) - 1
        taken, last = timm_feature_indices(count, indices)
        self.cut(last + 1)
        self.out_indices = self.out_indices[: last + 1]
        self.out_channels = self.out_channels[: last + 1]
        self.out_strides = self.out_strides[: last + 1]
        if prune_head or last + 1 < count:
            self.reset_classifier(0, '')
        return taken

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: recompute each block in the backward pass."""
        self.with_cp = enable


class RecNeXtClassifier(Classifier, RecNeXt):
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

    distillation: bool

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'm3',
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        distillation: bool = False,
        **options: Any,
    ):
        super().__init__(
            arch, in_chans, drop_rate, drop_path_rate=drop_path_rate, **options
        )
        self.reset_classifier(num_classes, global_pool, distillation)

    def name_of_map(self, stage: int) -> str:
        """Return the name of the module that returns the map of a stage."""
        # A stage without layers is no operation that could be named.
        return f'stages.{stage}' if stage or self.arch.depths[0] else 'stem'

    def reset_classifier(
        self,
        num_classes: int,
        global_pool: str | None = None,
        distillation: bool | None = None,
    ) -> None:
        """Put a new head in place of the old one.

        Args:
            num_classes: classes; 0 for no head.
            global_pool: how to pool; as before if left out.
            distillation: see the class; as before if left out.

        Raises:
            OptionError: for an impossible number, an unknown pooling, or a head
                without any.
        """
        if distillation is not None:
            check_flag('distillation', distillation)
            self.distillation = distillation
        super().reset_classifier(num_classes, global_pool)

    def build_head(self, num_classes: int) -> nn.Module:
        """Build what turns pooled features into logits."""
        return Head(self.num_features, num_classes, self.distillation)

    def cut(self, count: int) -> None:
        """Drop the stages after the first ``count``."""
        self.stages = self.stages[:count]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tell timm's layer-wise settings which parameters belong together."""
        block = [
            (r'^stages\.(\d+)\.downsample', (0,)),
            (r'^stages\.(\d+)\.blocks\.(\d+)', None),
        ]
        return dict(stem=r'^stem', blocks=r'^stages\.(\d+)' if coarse else block)


class MLLAClassifier(Classifier, MLLA):
    """MLLA with pooling, a norm and a head, in timm's ways.

    Args:
        arch: as of :class:`~mmrecnext.models.MLLA`.
        num_classes: classes; 0 for no head.
        in_chans: channels of the input image.
        global_pool: ``avg``, or an empty string for none, which goes without a head.
        drop_rate: dropout before the head, a probability.
        drop_path_rate: stochastic depth, see :class:`~mmrecnext.models.MLLA`.
        options: further options of :class:`~mmrecnext.models.MLLA`. Maps have no norms
            of their own.

    Source: MLLA (https://github.com/LeapLabTHU/MLLA), RecNeXt
    (https://github.com/suous/RecNeXt).
    """

    map_norm = nn.Identity

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'nano_recattn',
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **options: Any,
    ):
        super().__init__(
            arch, in_chans, drop_rate, drop_path_rate=drop_path_rate, **options
        )
        is_baseline = self.arch.mixer == 'baseline'  # which norms before it pools
        self.norm: nn.Module = (PixelNorm if is_baseline else nn.LayerNorm)(
            self.num_features
        )
        self.reset_classifier(num_classes, global_pool)

    def name_of_map(self, stage: int) -> str:
        """Return the name of the module that returns the map of a stage."""
        return f'layers.{stage}.blocks.{self.arch.depths[stage] - 1}'

    def build_head(self, num_classes: int) -> nn.Module:
        """Build what turns pooled features into logits."""
        return Linear(self.num_features, num_classes)

    def pool(self, x: Tensor) -> Tensor:
        """Turn the last map into features ``[N, C]``, which are normalised."""
        if isinstance(self.norm, PixelNorm):
            return super().pool(self.norm(x))
        features: Tensor = self.norm(super().pool(x))
        return features

    def cut(self, count: int) -> None:
        """Drop the stages after the first ``count``, and the norm."""
        self.layers = self.layers[:count]
        self.layers[-1].downsample = nn.Identity()
        self.norm = nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tell timm's layer-wise settings which parameters belong together."""
        block = [
            (r'^layers\.(\d+)\.blocks\.(\d+)', None),
            (r'^layers\.(\d+)\.downsample', (MOST_BLOCKS,)),
        ]
        stem = r'^patch_embed'
        return dict(stem=stem, blocks=r'^layers\.(\d+)' if coarse else block)


def classifier_class(arch: str | Mapping[str, Any]) -> Callable[..., Classifier]:
    """Return which classifier is built of an arch, by its name or settings."""
    return MLLAClassifier if is_mlla(arch) else RecNeXtClassifier


def backbone_class(arch: str | Mapping[str, Any]) -> Callable[..., Backbone]:
    """Return which backbone is built of an arch, by its name or settings."""
    return MLLA if is_mlla(arch) else RecNeXt
