"""Classifiers for inference, from any form of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from timm.models import create_model, is_model, list_models
from torch import Tensor, nn

from mmrecnext.archs import ARCHS, MLLA_ARCHS, nearest_archs, timm_name
from mmrecnext.checkpoint import read_checkpoint
from mmrecnext.checkpoint.fit import check_fit, sizes_of_classifier, with_weights
from mmrecnext.checkpoint.weights import HEAD
from mmrecnext.classification.registration import chosen_weights
from mmrecnext.engine.named import named
from mmrecnext.errors import OptionError, closest
from mmrecnext.models.classifier import Classifier, classifier_class
from mmrecnext.models.fusion import fuse_conv_norms
from mmrecnext.pretrained import get_pretrained


def replace_batchnorm(model: nn.Module):
    """Bring a classifier into the form of the published fused files, in place.

    Norms are merged into the convolutions that they belong to, the two heads into one
    linear layer. ``model.switch_to_deploy()`` merges also the norms that remain.

    Args:
        model: a classifier in inference mode, its weights loaded; one that is fused
            already stays as it is.
    """
    fuse_conv_norms(model)


def load_classifier(
    name: str, checkpoint: str | None = None, averaged: bool = False
) -> Classifier:
    """Build a classifier for inference, with all of its weights.

    Args:
        name: a model, such as ``recnext_m3`` or ``recnext_m3.base_300e_in1k``; with a
            checkpoint, whatever :func:`~mmrecnext.engine.named.named` takes, such as
            the config of a training.
        checkpoint: what :func:`~mmrecnext.checkpoint.load_pretrained` takes; by default
            the published weights.
        averaged: take the moving averages that timm saves beside the weights, if any.

    Raises:
        OptionError: for a model of unknown name, or one that has no published weights.
        CheckpointError: where the file is not that of such a classifier.
    """
    if checkpoint is None:
        published = get_pretrained(name)
        checkpoint = published.url
        arch: str | Mapping[str, Any] = published.arch
    else:
        arch = named(name).arch
    weights = chosen_weights(read_checkpoint(checkpoint, 'cpu'), averaged)
    return classifier_of(weights, arch, checkpoint)


def make_classifier(arch: str | Mapping[str, Any], **options: Any) -> nn.Module:
    """Build a classifier.

    Args:
        arch: a RecNeXt or MLLA, by its name in ``ARCHS`` or ``MLLA_ARCHS``, or by a
            dict that changes one; or the name of any other model of timm's.
        options: of the model.

    Raises:
        OptionError: for an unknown name.
    """
    if not isinstance(arch, str):
        model: nn.Module = classifier_class(arch)(arch, **options)
        return model
    known = [*ARCHS, *MLLA_ARCHS]
    name = timm_name(arch) if arch in known else arch
    if ':' not in name and not is_model(name):
        near = closest(arch, [*known, *list_models()]) or nearest_archs(arch)
        hint = f'did you mean {" or ".join(near)}? The' if near else 'the'
        raise OptionError(
            f'neither RecNeXt nor timm has a model {arch!r}; {hint} archs are '
            f'{", ".join(known)}, and timm.list_models() lists others'
        )
    return create_model(name, **options)


def classifier_of(
    weights: Mapping[str, Tensor], arch: str | Mapping[str, Any], source: str
) -> Classifier:
    """Build the classifier that some weights are of, for inference.

    Args:
        weights: by key. The classes and the channels of the images are as many as in
            them, and it is fused if they are.
        arch: the model, a name in ``ARCHS`` or ``MLLA_ARCHS``, or a dict that changes
            one.
        source: where the weights come from.

    Raises:
        CheckpointError: where they are not those of such a classifier.
    """
    num_classes, in_chans = sizes_of_classifier(weights, source)
    sizes = dict(num_classes=num_classes, in_chans=in_chans)
    model: Any = make_classifier(arch, **sizes, drop_path_rate=0.0)
    return with_weights(model, weights, source)


def load_with_new_heads(model: Classifier, checkpoint: str) -> None:
    """Load weights into a classifier that is to be trained, and say which.

    Args:
        model: of any number of classes; its heads stay as they are where those of the
            checkpoint are of another.
        checkpoint: see :func:`load_classifier`; a published name as well.

    Raises:
        CheckpointError: where all else does not fit, or norms are merged already.
    """
    weights = chosen_weights(read_checkpoint(checkpoint, 'cpu'))
    num_classes, _ = sizes_of_classifier(weights, checkpoint)
    heads = 'heads included'
    if num_classes != model.num_classes:
        own = {k: v for k, v in model.state_dict().items() if k.startswith(HEAD)}
        weights = {k: v for k, v in weights.items() if not k.startswith(HEAD)} | own
        heads = f'but new heads: of {model.num_classes} classes, not {num_classes}'
    check_fit(model, weights, checkpoint)
    model.load_state_dict(weights)
    print_log(f'Loaded all weights of {checkpoint}, {heads}', logger='current')
