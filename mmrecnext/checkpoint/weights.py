"""Take weights out of what checkpoints hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmrecnext.errors import CheckpointError, brief

WEIGHTS = ('state_dict', 'model')
AVERAGED = ('state_dict_ema', 'model_ema')
"""Under which names checkpoints hold weights, and their moving averages beside them."""

WRAPPERS = re.compile(r'^(module\.|_orig_mod\.)+')
"""What data parallelism and ``torch.compile`` put before every key."""

HEAD = 'head.'


def unwrap(checkpoint: Mapping[str, Any], averaged: bool = False) -> Mapping[str, Any]:
    """Return what stands under ``state_dict`` or ``model``, else the checkpoint.

    MMEngine saves moving averages under ``state_dict`` itself, and what they are made
    of under ``ema_state_dict``.

    Args:
        checkpoint: what a file holds.
        averaged: take moving averages, which timm and the authors' scripts save beside
            the weights; by default only where there is nothing else.
    """
    names = (*AVERAGED, *WEIGHTS) if averaged else (*WEIGHTS, *AVERAGED)
    for name in names:
        if isinstance(checkpoint.get(name), Mapping):
            return checkpoint[name]
    return checkpoint


def named_weights(checkpoint: Any, averaged: bool = False) -> dict[str, Tensor]:
    """Take all weights out of a checkpoint.

    Args:
        checkpoint: a published file (weights under ``model``), an OpenMMLab or timm
            checkpoint (under ``state_dict``), or the weights themselves.
        averaged: see :func:`unwrap`.

    Returns:
        Weights by key, without what wrappers of the model put before the keys, and
        without the copies that mmcv 1 averaged (``ema_backbone_stem...``): it saved
        the averages in place of the weights.

    Raises:
        CheckpointError: where there are no weights, or two of a name that differ.
    """
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(
            f'the checkpoint holds no weights: it is a {type(checkpoint).__name__}'
        )
    weights: dict[str, Tensor] = {}
    for key, value in unwrap(checkpoint, averaged).items():
        if isinstance(key, str) and isinstance(value, Tensor):
            name = WRAPPERS.sub('', key)
            if name in weights and not are_equal(weights[name], value):
                raise CheckpointError(
                    f'the checkpoint holds two weights {name}, of different values, '
                    f'one of them as {key}: keep those of one model'
                )
            weights[name] = value
    if not weights:
        raise CheckpointError(
            'the checkpoint holds no weights: neither under '
            f'{", ".join(f"`{name}`" for name in (*WEIGHTS, *AVERAGED))}, nor at its '
            f'top, where it has {brief(sorted(map(str, checkpoint))) or "nothing"}'
        )
    return {k: v for k, v in weights.items() if '.' in k or not k.startswith('ema_')}


def backbone_weights(
    checkpoint: Mapping[str, Any], prefix: str | None = None
) -> dict[str, Tensor]:
    """Take the backbone's weights out of a checkpoint.

    Args:
        checkpoint: see :func:`named_weights`.
        prefix: what the backbone's keys begin with; by default ``backbone.`` where such
            keys are found, nothing elsewhere.

    Returns:
        Weights by key, without the classification head.

    Raises:
        CheckpointError: where there are no weights, or none with the prefix.
    """
    weights = without_prefix(named_weights(checkpoint), prefix)
    return {k: v for k, v in weights.items() if not k.startswith(HEAD)}


def without_prefix(
    weights: Mapping[str, Tensor], prefix: str | None = None
) -> Mapping[str, Tensor]:
    """Keep the weights whose keys begin with ``prefix``, and take it off.

    See :func:`backbone_weights`.
    """
    if prefix is None and any(key.startswith('backbone.') for key in weights):
        prefix = 'backbone.'
    if not prefix:
        return weights
    prefix = prefix.rstrip('.') + '.'
    found = {
        k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)
    }
    if not found:
        raise CheckpointError(
            f'no key of the checkpoint begins with {prefix!r}: it has '
            f'{brief(sorted(weights))}'
        )
    if twins := [
        k for k, v in found.items() if k in weights and not are_equal(weights[k], v)
    ]:
        raise CheckpointError(
            f'the checkpoint holds weights of different values with {prefix!r} before '
            f'their keys and without: {brief(sorted(twins))}. Keep those of one model'
        )
    return found


def check_values(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str):
    """Check that weights are numbers that a training may have left.

    Args:
        own: the weights that they are to replace, by key; other keys do not count.
        weights: by key.
        source: where they come from.

    Raises:
        CheckpointError: naming weights without values, of integers or complex numbers
            in the place of real ones, not finite, or variances below 0.
    """
    faults: dict[str, list[str]] = {}
    for key in sorted(own.keys() & weights.keys()):
        if fault := _fault(key, weights[key], own[key].is_floating_point()):
            faults.setdefault(fault, []).append(key)
    if faults:
        told = '; '.join(
            f'{fault}: {brief(sorted(keys))}' for fault, keys in faults.items()
        )
        raise CheckpointError(f'{source} holds weights that no model can use; {told}')


def _fault(key: str, weight: Tensor, is_real: bool) -> str | None:
    if weight.layout is not torch.strided or weight.is_quantized:
        return 'sparse or quantized'
    if weight.is_meta:
        return 'without values'
    if not is_real:
        return None
    if not weight.is_floating_point():
        return f'{str(weight.dtype).removeprefix("torch.")} in place of real numbers'
    if not weight.isfinite().all():
        return 'not finite'
    if key.endswith('running_var') and (weight < 0).any():
        return 'below 0'
    return None


def are_equal(one: Tensor, other: Tensor) -> bool:
    """Tell whether two weights are the same, in kind and in every value."""
    if one is other:
        return True
    kinds = [(x.shape, x.dtype, x.layout, x.device) for x in (one, other)]
    return kinds[0] == kinds[1] and not one.is_meta and one.equal(other)
