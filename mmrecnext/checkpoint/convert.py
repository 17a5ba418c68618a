"""Turn checkpoints of one form into another."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmrecnext.archs import timm_name
from mmrecnext.checkpoint.fit import (
    FAMILY_NAMES,
    FOR_INFERENCE,
    STEMS,
    closest_arch,
    is_fused,
    sizes_of_classifier,
    stem_of,
    with_weights,
)
from mmrecnext.checkpoint.weights import HEAD, named_weights, without_prefix
from mmrecnext.errors import CheckpointError, OptionError, brief
from mmrecnext.files import write_file
from mmrecnext.models.backbone import Backbone
from mmrecnext.models.classifier import backbone_class, classifier_class
from mmrecnext.models.fusion import fuse_conv_norms
from mmrecnext.pretrained import INPUT_SIDE
from mmrecnext_autoload.choices import CHECKPOINTS

Arch = str | Mapping[str, Any]

SUFFIXES = {'.safetensors': 'safetensors', '.pt': 'fused', '.bin': 'bare'}
"""Forms that the name of a file tells."""

BACKBONE = 'backbone.'
UNUSED = f'{BACKBONE}{HEAD}'
"""A classification head that some backbones of dense prediction carry along."""

RENAMED_META = {'CLASSES': 'classes', 'PALETTE': 'palette'}
DROPPED_META = ('config', 'hook_msgs', *RENAMED_META)


def is_network(weights: Mapping[str, Tensor]) -> bool:
    """Tell whether weights are those of a detector or segmentor, not of a backbone."""
    return any(k.startswith(BACKBONE) for k in weights) and not all(
        k.startswith(BACKBONE) for k in weights
    )


def choose_form(weights: Mapping[str, Tensor], file: Path) -> str:
    """Return the form that the name of the output asks for, of ``CHECKPOINTS``.

    Raises:
        OptionError: for a name that tells none.
    """
    if file.suffix in SUFFIXES:
        return SUFFIXES[file.suffix]
    if file.suffix != '.pth':
        raise OptionError(
            f'{file} tells no form; names end in .pth, {", ".join(SUFFIXES)}, or the '
            f'form is named by --to: {", ".join(CHECKPOINTS)}'
        )
    return 'network' if is_network(weights) else 'published'


def model_of(
    weights: Mapping[str, Tensor], source: str, arch: Arch | None = None
) -> Backbone:
    """Build the model that some weights are of, for inference.

    Args:
        weights: by key; with a classification head or without, fused or not.
        source: where they come from.
        arch: the model, by name or settings; by default the known one that the weights
            are most like.

    Returns:
        A backbone or, with a head, a classifier, fused as far as the weights are.

    Raises:
        CheckpointError: where they are not exactly those of the model.
    """
    stem = stem_of(weights)
    if stem is None or stem.dim() != 4:
        raise CheckpointError(
            f'{source} holds no {FAMILY_NAMES}, whose keys begin with '
            f'{" or ".join(STEMS)}: it has {brief(sorted(weights))}'
        )
    if arch is None:
        arch, _ = closest_arch(weights, stem.size(1))
    model: Backbone
    if any(key.startswith(HEAD) for key in weights):
        sizes = sizes_of_classifier(weights, source)
        model = classifier_class(arch)(arch, *sizes)
    else:
        model = backbone_class(arch)(arch, in_channels=stem.size(1))
        weights = model.own_weights(weights)
    return with_weights(model, weights, source)


def convert(
    checkpoint: Any,
    form: str,
    file: Path,
    source: str,
    averaged: bool = False,
    arch: Arch | None = None,
    progress: Callable[[str, float], None] = lambda text, done: None,
) -> str:
    """Write the weights of a backbone or classifier in another form.

    Args:
        checkpoint: what a file holds, in any form; of a detector or segmentor the
            backbone without any head is taken.
        form: what to write, one of ``CHECKPOINTS`` but ``network``.
        file: where to.
        source: where the checkpoint comes from.
        averaged: see :func:`~mmrecnext.checkpoint.weights.unwrap`.
        arch: see :func:`model_of`.
        progress: is told what comes next, and what share is done.

    Returns:
        What was written, in words.

    Raises:
        CheckpointError: for weights that are not the model's, or fused ones where those
            for training are asked for.
    """
    found = named_weights(checkpoint, averaged)
    weights = without_prefix(found)
    if form == 'backbone' or is_network(found):
        weights = {k: v for k, v in weights.items() if not k.startswith(HEAD)}
    if is_fused(weights) and form != 'fused':
        raise CheckpointError(
            f'{source} holds {FOR_INFERENCE}, so that no other form can be made of it: '
            'take the training weights (.pth or safetensors) of the same model'
        )
    progress('build', 0.1)
    model = model_of(weights, source, arch)
    progress(f'write {form}', 0.4)
    write(model, form, file)
    known = (timm_name(name) for name, own in model.archs.items() if own == model.arch)
    name = next(known, f'a changed {model.family}')
    classes = getattr(model, 'num_classes', 0)
    head = f'classifier of {classes} classes' if classes else 'backbone'
    return f'{name}, {head}, {len(model.state_dict())} weights'


def write(model: Backbone, form: str, file: Path) -> None:
    """Write a model in a released form; for ``fused`` it is fused, in place.

    Raises:
        OSError: where the file cannot be written; one that was there is as it was.
    """
    write_file(file, content_of(model, form))


def content_of(model: Backbone, form: str) -> bytes:
    """Return what :func:`write` writes."""
    if form == 'fused':
        return torchscript_of(model)
    weights = model.state_dict()
    if form == 'safetensors':
        from safetensors.torch import save  # here: it is an extra

        content: bytes = save(weights, metadata={'format': 'pt'})
        return content
    if form == 'published':
        return pickled({'model': weights})
    if form == 'backbone':
        prefixed = {BACKBONE + key: value for key, value in weights.items()}
        return pickled({'meta': {}, 'state_dict': prefixed})
    return pickled(weights)


def pickled(checkpoint: Any) -> bytes:
    """Return what ``torch.save`` writes.

    Not into a file at once: on a full disk PyTorch tells of positions in archives, and
    of a TorchScript it aborts the process.
    """
    content = io.BytesIO()
    torch.save(checkpoint, content)
    return content.getvalue()


def torchscript_of(model: Backbone) -> bytes:
    """Fuse a model and return the content of the released ``_fused.pt``."""
    fuse_conv_norms(model)
    image = torch.zeros(1, model.in_channels, INPUT_SIDE, INPUT_SIDE)
    with torch.no_grad(), warnings.catch_warnings():
        # Of the check of sizes and the order of products, which no result depends on.
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        # Unchecked, for the check compiles kernels, half a minute of some models.
        traced = torch.jit.trace(model, image, check_trace=False)
    content: bytes = traced.save_to_buffer()
    return content


def upgrade_network(
    checkpoint: Mapping[str, Any],
    source: str,
    keep_optimizer: bool = False,
    drop: Iterable[str] = (),
    arch: Arch | None = None,
) -> dict[str, Any]:
    """Bring a detector or segmentor of mmdet 2 or mmseg 0 into the form of 3 and 1.

    The heads' and necks' keys are the same in both, for the detectors and segmentors
    released with RecNeXt at least: Mask R-CNN and Semantic FPN. Class names move to
    ``dataset_meta``. The config's text goes: MMEngine would execute it on resuming.

    Args:
        checkpoint: what a file holds; one that is new already comes back the same.
        source: where it comes from.
        keep_optimizer: keep its state, so that training can be resumed.
        drop: what the keys of further weights begin with that are to go, such as
            ``auxiliary_head.``.
        arch: of the backbone, see :func:`model_of`.

    Returns:
        ``meta``, ``state_dict``, and what resuming takes.

    Raises:
        CheckpointError: for a backbone that is not the model's, or an optimizer
            that is missing or also has the dropped weights.
    """
    old = named_weights(checkpoint)
    for prefix in drop:
        if not any(key.startswith(prefix) for key in old):
            parts = sorted({f'{key.split(".")[0]}.' for key in old})
            raise OptionError(
                f'drop: no key of {source} begins with {prefix}; they begin with '
                f'{", ".join(parts)}'
            )
    dropped = (UNUSED, *drop)
    weights = {k: v for k, v in old.items() if not k.startswith(dropped)}
    model_of(without_prefix(weights, BACKBONE), source, arch)

    meta = dict(checkpoint.get('meta') or {})
    names = {new: meta[k] for k, new in RENAMED_META.items() if meta.get(k)}
    meta = {k: v for k, v in meta.items() if k not in DROPPED_META}
    if names:
        meta.setdefault('dataset_meta', names)
    new = {'meta': meta, 'state_dict': weights}
    if not keep_optimizer:
        return new
    if 'optimizer' not in checkpoint or len(weights) < len(old):
        why = 'has none' if 'optimizer' not in checkpoint else 'counts dropped weights'
        raise CheckpointError(f'the optimizer of {source} cannot be kept: it {why}')
    resumed = ('optimizer', 'param_schedulers', 'message_hub')
    return {
        'message_hub': {'log_scalars': {}, 'runtime_info': {}, 'resumed_keys': {}},
        **new,
        **{name: checkpoint[name] for name in resumed if name in checkpoint},
    }
