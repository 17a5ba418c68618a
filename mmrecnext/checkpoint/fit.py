"""Fit a model with weights, entirely or not at all."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from typing import Any, TypeVar

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmrecnext.archs import NUM_STAGES, is_mlla
from mmrecnext.checkpoint.sources import read_checkpoint
from mmrecnext.checkpoint.weights import (
    HEAD,
    WRAPPERS,
    backbone_weights,
    check_values,
    named_weights,
    without_prefix,
)
from mmrecnext.errors import CheckpointError, brief
from mmrecnext.models import MLLA, RecNeXt
from mmrecnext.models.backbone import Backbone
from mmrecnext.models.classifier import CLASSIFIERS, FIRST_CONV, MLLA_FIRST_CONV
from mmrecnext.models.fusion import fold_outer_norms, fuse_conv_norms
from mmrecnext.models.mlla import TURNS

Model = TypeVar('Model', bound=Backbone)

FAMILIES: tuple[Any, ...] = (RecNeXt, MLLA)

FAMILY_NAMES = ' or '.join(family.family for family in FAMILIES)

STEMS = tuple(stem.removesuffix('.conv') for stem in (FIRST_CONV, MLLA_FIRST_CONV))
"""The first layer of each family, which is the convolution itself once it is fused."""

HEADS = (f'{CLASSIFIERS[0]}.weight', 'head.weight')
FOR_INFERENCE = (
    'fused weights, for inference only: batch norms are merged into the convolutions '
    'and their statistics are gone'
)
ALIKE = 0.5
"""Share of common keys and shapes, of all, from which on two models are alike."""


def is_fused(weights: Mapping[str, Any]) -> bool:
    """Tell whether norms are merged into convolutions, as in the released files."""
    return any(f'{stem}.weight' in weights for stem in STEMS)


def stem_of(weights: Mapping[str, Tensor]) -> Tensor | None:
    """Return the weight of the first convolution, None where there is none."""
    keys = (f'{stem}{end}' for stem in STEMS for end in ('.conv.weight', '.weight'))
    return next((weights[key] for key in keys if key in weights), None)


def is_deployed(weights: Mapping[str, Any]) -> bool:
    """Tell whether all norms are merged.

    The released fused files keep those behind token mixers and between stages.
    """
    norms = any(key.endswith('.running_mean') for key in weights)
    return is_fused(weights) and not norms


def fuse_like(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Merge the norms of a model, in place, as far as in ``weights``."""
    if is_fused(weights):
        fuse_conv_norms(model)
    if is_deployed(weights):
        fold_outer_norms(model)


def load_pretrained(
    model: Backbone,
    checkpoint: str,
    prefix: str | None = None,
    map_location: Any = 'cpu',
) -> None:
    """Load pretrained weights into a backbone, all of them or none.

    Args:
        model: one that is deployed takes fused
            weights and those for training, whose norms are merged on the way.
        checkpoint: path, URL, published name, or repository on the hub.
        prefix: see :func:`backbone_weights`.
        map_location: as of ``torch.load``.

    Raises:
        CheckpointError: where a weight is missing, left over or of another shape, or
            the weights are fused and the model is not; it is then as it was.

    Examples:
        >>> import torch
        >>> from mmrecnext import RecNeXt
        >>> from mmrecnext.checkpoint import load_pretrained, read_checkpoint
        >>> torch.save(RecNeXt('m0').state_dict(), 'm0.pth')
        >>> read_checkpoint('m0.pth')['stages.0.blocks.0.token_mixer.down.weight'].shape
        torch.Size([40, 1, 5, 5])
        >>> load_pretrained(RecNeXt('m0'), 'm0.pth')
        >>> load_pretrained(RecNeXt('a0'), 'm0.pth')  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        mmrecnext.errors.CheckpointError: m0.pth does not fit a0; ...
    """
    found = backbone_weights(read_checkpoint(checkpoint, map_location), prefix)
    weights: Mapping[str, Tensor] = model.own_weights(found)
    if model.deployed:
        weights = _deployed_weights(model, weights, checkpoint)
    elif is_fused(weights):
        raise CheckpointError(
            f'{checkpoint} holds {FOR_INFERENCE}. Take the training weights (.pth or '
            'safetensors) of the same model, or, for inference, build the backbone '
            'with `deploy=True`'
        )
    check_fit(model, weights, checkpoint)
    model.load_state_dict(weights)
    print_log(
        f'Loaded {len(weights)}/{len(model.state_dict())} weights of the backbone '
        f'from {checkpoint}',
        logger='current',
    )


def _deployed_weights(
    model: Backbone, weights: Mapping[str, Tensor], source: str
) -> Mapping[str, Tensor]:
    """Merge in ``weights`` what norms there are."""
    options = ('in_channels', 'out_indices', 'norm_cfg')
    settings = {k: getattr(model, k) for k in options}
    twin = _blank(type(model), asdict(model.arch), **settings)
    fuse_like(twin, weights)
    check_fit(twin, weights, source)
    twin.load_state_dict(weights, assign=True)
    twin.switch_to_deploy()
    merged: Mapping[str, Tensor] = twin.state_dict()
    return merged


def _blank(
    kind: Callable[..., Backbone], arch: str | Mapping[str, Any], **options: Any
) -> Backbone:
    """Build a backbone for training, with no memory for weights."""
    with torch.device('meta'):
        return kind(arch, **options)


def with_weights(model: Model, weights: Mapping[str, Tensor], source: str) -> Model:
    """Bring a model for inference into the form of weights, and load them.

    Args:
        model: a backbone or classifier, in its training form.
        weights: by key, fused or not.
        source: where they come from.

    Raises:
        CheckpointError: where they are not exactly those of the model.
    """
    model.eval()
    fuse_like(model, weights)
    check_fit(model, weights, source)
    model.load_state_dict(weights)
    return model


def sizes_of_classifier(weights: Mapping[str, Tensor], source: str) -> tuple[int, int]:
    """Return how many classes a classifier tells, and channels of its images.

    Raises:
        CheckpointError: where the weights are none of a classifier.
    """
    head = next((weights[key] for key in HEADS if key in weights), None)
    stem = stem_of(weights)
    if stem is None or head is None:
        lacking = ('a first convolution', STEMS) if stem is None else ('a head', HEADS)
        raise CheckpointError(
            f'{source} holds no classifier of {FAMILY_NAMES}: it lacks {lacking[0]}, '
            f'{" or ".join(lacking[1])}'
        )
    return len(head), stem.size(1)


def check_fit(model: Backbone, weights: Mapping[str, Tensor], source: str) -> None:
    """Check that ``weights`` are all those of a model.

    Turns of queries and keys do not count: models keep their own.

    Args:
        model: a backbone, with a classification head or without.
        weights: by key.
        source: where they come from.

    Raises:
        CheckpointError: telling what is missing, left over or of another shape, and of
            which published model the weights seem to be; or what no training leaves.
    """
    own, weights = (
        {k: v for k, v in each.items() if not k.endswith(TURNS)}
        for each in (model.state_dict(), weights)
    )
    found = _differences(own, weights)
    if not found:
        check_values(own, weights, source)
        return
    name = _name_of(model)
    count = len(model.parts()) - 1
    match, likeness = closest_arch(weights, model.in_channels, count)
    hint = ''
    if match != name and likeness >= ALIKE:
        verb = 'are' if likeness == 1 else 'look like'
        hint = f' These {verb} weights of {match}, this is {name or "another model"}.'
    raise CheckpointError(
        f'{source} does not fit {name or "this model"}; {found}.{hint}'
    )


def _name_of(model: Backbone) -> str | None:
    archs = model.archs.items()
    return next((name for name, known in archs if known == model.arch), None)


def closest_arch(
    weights: Mapping[str, Tensor], in_channels: int, num_stages: int = NUM_STAGES
) -> tuple[str, float]:
    """Find the published model whose backbone is most like ``weights``.

    Args:
        weights: by key; a head does not count.
        in_channels: channels of the images that the model is to take.
        num_stages: how many stages it is to have.

    Returns:
        Its name, and how many keys and shapes are common, of all that either has: 1
        where the weights are those of that model.
    """
    shapes = {(k, v.shape) for k, v in weights.items() if not k.startswith(HEAD)}
    form = is_fused(weights), is_deployed(weights)
    likeness = {}
    for family in FAMILIES:
        for name in family.archs:
            other = _shapes(family, name, in_channels, num_stages, *form)
            likeness[name] = len(shapes & other) / len(shapes | other)
    return max(likeness.items(), key=lambda item: item[1])


@cache  # 28 models take two seconds to build, even without memory for weights
def _shapes(
    kind: Callable[..., Backbone],
    arch: str,
    in_channels: int,
    num_stages: int,
    fused: bool,
    deployed: bool,
) -> frozenset[tuple[str, torch.Size]]:
    model = _blank(kind, arch, in_channels=in_channels, out_indices=(num_stages - 1,))
    if fused:
        fuse_conv_norms(model)
    if deployed:
        fold_outer_norms(model)
    return frozenset((k, v.shape) for k, v in model.state_dict().items())


def load_network(
    model: nn.Module, filename: str, map_location: Any = 'cpu'
) -> dict[str, Any]:
    """Load a checkpoint into a detector or segmentor, all of its weights or none.

    Args:
        model: as a config describes it.
        filename: path, URL or name.
        map_location: as of ``torch.load``.

    Returns:
        What the file holds.

    Raises:
        CheckpointError: where the weights do not fit, or no training has left them.
    """
    checkpoint: dict[str, Any] = read_checkpoint(filename, map_location)
    weights = named_weights(checkpoint)
    with explained_misfit(model, filename, weights):
        check_values(model.state_dict(), weights, filename)
        model.load_state_dict(weights)
    return checkpoint


@contextmanager
def explained_misfit(
    model: nn.Module, source: str, weights: Mapping[str, Tensor] | None = None
) -> Iterator[None]:
    """Turn the complaint about a strictly loaded checkpoint into a short one.

    Args:
        model: a detector or segmentor, perhaps wrapped.
        source: where the weights come from.
        weights: by key; read from ``source`` if left out.

    Raises:
        CheckpointError: where the weights did not fit the model, telling of what they
            seem to be, and what is missing, left over or of another shape.
    """
    try:
        yield
    except CheckpointError:
        raise
    except RuntimeError as error:
        if weights is None:
            weights = named_weights(read_checkpoint(source, 'cpu'))
        own = {WRAPPERS.sub('', key): v for key, v in model.state_dict().items()}
        found = _differences(own, weights) or ' '.join(str(error).split())
        raise CheckpointError(
            f'{source} does not fit the model of this config{_guess(own, weights)}; '
            f'{textwrap.shorten(found, 600, placeholder=" ...")}'
        ) from error


def _guess(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Tell in which way the weights are those of another network, if it shows."""
    kinds = _kind(own), _kind(weights)
    names = _backbone_in(own), _backbone_in(weights)
    if names[1] and not kinds[1]:
        head = any(key.startswith(HEAD) for key in weights)
        return f': it is only a {"classifier" if head else "backbone"} ({names[1]})'
    guesses = [
        guess.format(wanted=wanted, found=found)
        for guess, (wanted, found) in (
            ('it is of {found}, the config of {wanted}', kinds),
            ('its backbone is {found}, that of the config {wanted}', names),
        )
        if wanted and found and wanted != found
    ]
    return f': {", and ".join(guesses)}' if guesses else ''


def _kind(weights: Iterable[str]) -> str | None:
    tops = {key.partition('.')[0] for key in weights}
    if 'decode_head' in tops:
        return 'a segmentor'
    return 'a detector' if any(top.endswith('_head') for top in tops) else None


def _backbone_in(weights: Mapping[str, Tensor]) -> str | None:
    """Name the known model that the backbone among some weights is most like."""
    backbone = without_prefix(weights)
    stem = stem_of(backbone)
    if stem is None:
        return None
    keys = tuple(f'{family.stages_key}.' for family in FAMILIES)
    stages = {key.split('.')[1] for key in backbone if key.startswith(keys)}
    name, likeness = closest_arch(backbone, stem.size(1), len(stages))
    if likeness < ALIKE:
        return None
    return f'MLLA {name}' if is_mlla(name) else f'RecNeXt-{name.upper()}'


def _differences(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    return '; '.join(
        f'{what}: {brief(sorted(keys))}'
        for what, keys in (
            ('missing', own.keys() - weights.keys()),
            ('left over', weights.keys() - own.keys()),
            ('of another shape', _reshaped(own, weights)),
        )
        if keys
    )


def _reshaped(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    return [
        f'{key} {list(weights[key].shape)} instead of {list(own[key].shape)}'
        for key in own.keys() & weights.keys()
        if own[key].shape != weights[key].shape
    ]
