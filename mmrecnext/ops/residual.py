"""Layers in turn, with a residual connection around them, in the way that fits best.

Training keeps for the backward pass only what is dear to compute again, see
:mod:`mmrecnext.ops.recompute`. Inference does what follows a convolution in the same
pass, and writes over maps that nobody else holds, see :mod:`mmrecnext.ops.conv`.
Elsewhere each layer runs by itself: :func:`residual_plain` and :func:`in_turn_plain`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest

from torch import Tensor, nn

from mmrecnext.ops import fast_paths
from mmrecnext.ops.batch_norm import apply_norm
from mmrecnext.ops.conv import conv_gelu, mix_channels
from mmrecnext.ops.recompute import is_gelu, recompute

Mix = Callable[..., tuple[Tensor, ...]]


def residual(
    x: Tensor,
    layers: Sequence[nn.Module],
    channel_mixer: nn.Sequential,
    drop_path: nn.Module,
    *,
    skip_layers: bool = True,
) -> Tensor:
    """Return ``x + drop_path(channel_mixer(layers(x)))``.

    Args:
        x: ``[N, C, H, W]``.
        layers: those before the channel mixer, in turn.
        channel_mixer: two convolutions of kernel size 1 around a GELU, in sequence.
        drop_path: stochastic depth, which inference goes without.
        skip_layers: whether the connection goes around the layers too; if not,
            the result is ``y + drop_path(channel_mixer(y))`` with ``y = layers(x)``.
    """
    if skip_layers:
        return residual_of(partial(_call, layers), layers, channel_mixer, drop_path, x)[
            0
        ]
    if _is_inference(channel_mixer, *layers, drop_path):
        (y,) = _call(layers, x)
        return _add_mixed(y, y, channel_mixer, overwrite=y is not x)
    mix = partial(_call_twice, layers)
    mixed, y = recompute(mix, layers, channel_mixer, x)
    return y + drop_path(mixed)


def residual_plain(
    x: Tensor,
    layers: Sequence[nn.Module],
    channel_mixer: nn.Module,
    drop_path: nn.Module,
    *,
    skip_layers: bool = True,
) -> Tensor:
    """Return what :func:`residual` does, layer by layer."""
    y = in_turn_plain(x, layers)
    return (x if skip_layers else y) + drop_path(channel_mixer(y))


def residual_of(
    mix: Mix,
    layers: Sequence[nn.Module],
    channel_mixer: nn.Sequential,
    drop_path: nn.Module,
    x: Tensor,
    *others: Tensor,
) -> tuple[Tensor, ...]:
    """Return ``x + drop_path(channel_mixer(y)), *rest``; ``y, *rest = mix(x, ...)``.

    Args:
        mix: what comes before the channel mixer.
        layers: those that it uses.
        channel_mixer: see :func:`residual`.
        drop_path: likewise.
        x: ``[N, C, H, W]``.
        others: what ``mix`` is given besides.
    """
    if _is_inference(channel_mixer, *layers, drop_path):
        y, *rest = mix(x, *others)
        # What is left of the same memory would be written over too.
        free = y is not x and not rest
        return _add_mixed(x, y, channel_mixer, free), *rest
    y, *rest = recompute(mix, layers, channel_mixer, x, *others)
    return x + drop_path(y), *rest


def in_turn(x: Tensor, chain: nn.Sequential) -> Tensor:
    """Return ``chain(x)``, of convolutions with norms and GELUs.

    Args:
        x: ``[N, C, H, W]``.
        chain: the layers, dense convolutions with a norm of their own, whose outputs
            training keeps; a GELU may follow each.
    """
    if chain.training:
        return recompute(_same, (), chain, x)[0]
    convs, gelus = chain[::2], chain[1::2]
    if not _is_inference(chain) or not all(map(is_gelu, gelus)):
        return chain(x)
    for conv, gelu in zip_longest(convs, gelus):
        x = conv(x) if gelu is None else conv_gelu(x, conv)
    return x


def in_turn_plain(x: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    """Return what layers make of ``x`` one after the other."""
    for layer in layers:
        x = layer(x)
    return x


def _is_inference(*layers: nn.Module) -> bool:
    """Tell whether results may be written over, and layers not called."""
    return not layers[0].training and fast_paths.suit(*layers)


def _call(layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor]:
    for layer in layers:
        x = apply_norm(layer, x)
    return (x,)


def _call_twice(layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
    (y,) = _call(layers, x)
    return y, y


def _same(x: Tensor) -> tuple[Tensor]:
    return (x,)


def _add_mixed(
    residual: Tensor, x: Tensor, channel_mixer: nn.Sequential, overwrite: bool
) -> Tensor:
    """Return ``residual + channel_mixer(x)``, which may ``overwrite`` ``x``."""
    expand, gelu, project = channel_mixer
    if not is_gelu(gelu):
        return residual + channel_mixer(x)
    return mix_channels(x, expand, project, residual, overwrite)
