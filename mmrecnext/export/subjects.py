"""What is exported: networks with their outputs, and what these have to equal."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmrecnext.errors import ExportError
from mmrecnext.export.images import IMAGENET, Images, Preparation
from mmrecnext.export.layers import for_any_size
from mmrecnext.export.networks import WholeBackbone, WholeClassifier, WholeSegmentor
from mmrecnext.export.proof import (
    Difference,
    Results,
    compare_label_maps,
    compare_values,
)
from mmrecnext.models.classifier import Classifier
from mmrecnext.models.fusion import switch_to_deploy
from mmrecnext.pretrained import INPUT_SIDE, INTERPOLATION, SHORT_SIDE


@dataclass(frozen=True)
class Subject:
    """What a file is to hold.

    Args:
        network: turns pictures ``[N, 3, H, W]``, of numbers from 0 to 255, into a
            tuple of outputs, by operators that a graph can hold.
        outputs: their names.
        reference: does the same as the library does it, and returns outputs by name.
        compare: returns by how much outputs of the file differ from the reference's.
        about: what the file tells of itself, ready for JSON.
        compare_roughly: the same of a file of coarser weights, if it is another way.
    """

    network: nn.Module
    outputs: tuple[str, ...]
    reference: Callable[[Tensor], Results]
    compare: Callable[[Results, Results], list[Difference]]
    about: Mapping[str, Any]
    compare_roughly: Callable[[Results, Results], list[Difference]] | None = None

    @property
    def roughly(self) -> Subject:
        """The same, compared as coarser weights are."""
        return replace(self, compare=self.compare_roughly or self.compare)


def classifier_subject(
    model: Classifier,
    deploy: bool = True,
    side: int = INPUT_SIDE,
    short_side: int = SHORT_SIDE,
    **about: Any,
) -> Subject:
    """Return a classifier, from RGB pictures to ``logits``, ``[N, classes]``.

    Args:
        model: in inference, its weights loaded.
        deploy: whether to merge its batch norms, in a copy.
        side: of the squares that it is made for, in pixels.
        short_side: of the pictures that these are cut out of, in pixels.
        about: what the file is to tell besides.

    Raises:
        ExportError: for a model without a head, or of other than three channels.
    """
    if not model.num_classes or model.in_chans != 3:
        raise ExportError(
            'a classifier is exported with a head and for pictures of 3 channels, not '
            f'{model.num_classes} classes of {model.in_chans} channels'
        )
    resize = [
        dict(
            type='Resize',
            short_side=short_side,
            keep_ratio=True,
            interpolation=INTERPOLATION,
        ),
        dict(type='CenterCrop', size=[side, side]),
    ]
    about = dict(classes=classes_of(model), resize=resize, **about)
    prepare = Images(IMAGENET)
    return Subject(
        network=WholeClassifier(exportable(model, deploy), IMAGENET).eval(),
        outputs=('logits',),
        reference=lambda images: {'logits': model(prepare(images))},
        compare=compare_values,
        about=description('classification', IMAGENET, deploy, **about),
    )


def classes_of(model: Classifier) -> list[str]:
    """Return the names of the classes: of ImageNet where it has as many, or numbers."""
    from timm.data import ImageNetInfo

    names = ImageNetInfo()
    if model.num_classes != names.num_classes():
        return [f'class {i}' for i in range(model.num_classes)]
    return [names.index_to_description(i) for i in range(model.num_classes)]


def backbone_subject(
    backbone: nn.Module,
    how: Preparation = IMAGENET,
    deploy: bool = True,
    **about: Any,
) -> Subject:
    """Return a backbone, from pictures to maps ``c1``, ``c2`` and so on.

    Args:
        backbone: in inference, its weights loaded; returns maps ``[N, C, h, w]``.
        how: what its pictures go through.
        deploy: whether to merge its batch norms, in a copy.
        about: what the file is to tell besides.

    Raises:
        ExportError: for one that returns anything else.
    """
    prepare = Images(how)

    def reference(images: Tensor) -> dict[str, Tensor]:
        maps: Sequence[Tensor] = backbone(prepare(images))
        return dict(zip(names, maps, strict=True))

    with torch.no_grad():
        maps = backbone(prepare(torch.zeros(1, 3, 64, 64)))
    if not isinstance(maps, tuple | list) or not all(
        isinstance(x, Tensor) and x.dim() == 4 for x in maps
    ):
        raise ExportError(
            f'{type(backbone).__name__} returns no maps [N, C, H, W], which a file '
            'of a backbone would hold'
        )
    indices = getattr(backbone, 'out_indices', None) or range(len(maps))
    first = 1 if min(indices) == 0 else 0
    names = tuple(f'c{i + first}' for i in indices)
    return Subject(
        network=WholeBackbone(exportable(backbone, deploy), how).eval(),
        outputs=names,
        reference=reference,
        compare=compare_values,
        about=description('features', how, deploy, **about),
    )


def segmentor_subject(
    model: Any,
    how: Preparation,
    deploy: bool = True,
    logits: bool = False,
    **about: Any,
) -> Subject:
    """Return a segmentor, from pictures to ``labels``, ``[N, H, W]``.

    What they have to equal comes from ``model.test_step``.

    Args:
        model: a segmentor of MMSegmentation, in inference.
        how: what its pictures go through.
        deploy: whether to merge its batch norms, in a copy.
        logits: whether the file also returns ``logits``, ``[N, classes, H, W]``.
        about: what the file is to tell besides.

    Raises:
        ExportError: for one that slides a window over pictures.
    """
    if model.test_cfg.get('mode', 'whole') != 'whole':
        raise ExportError(
            f'`model.test_cfg.mode` is {model.test_cfg.mode!r}: a window that slides '
            'over pictures is not exported. Set model.test_cfg.mode=whole, which gives '
            'other results, or cut pictures into windows before the file'
        )
    from mmseg.structures import SegDataSample

    def reference(images: Tensor) -> dict[str, Tensor]:
        size = tuple(images.shape[2:])
        meta = dict(img_shape=size, ori_shape=size, pad_shape=size)
        samples = [SegDataSample(metainfo=meta) for _ in images]
        found = model.test_step(dict(inputs=[*images], data_samples=samples))
        return {
            'labels': torch.stack([x.pred_sem_seg.data[0] for x in found]).long(),
            'logits': torch.stack([x.seg_logits.data for x in found]),
        }

    network = WholeSegmentor(exportable(model, deploy), how, logits)
    single = model.out_channels == 1
    threshold = network.threshold if single else None
    about = dict(about, threshold=threshold, align_corners=model.align_corners)
    return Subject(
        network=network.eval(),
        outputs=('labels', 'logits') if logits else ('labels',),
        reference=reference,
        compare=partial(compare_label_maps, threshold=threshold),
        about=description('segmentation', how, deploy, **about),
    )


def exportable(model: nn.Module, deploy: bool) -> Any:
    """Return a copy of a network, in the form that is exported."""
    model = for_any_size(copy.deepcopy(model)).requires_grad_(False)
    if deploy:
        switch_to_deploy(model)
    return model


def description(
    task: str, how: Preparation, deploy: bool, **about: Any
) -> dict[str, Any]:
    """Return what a file tells of itself; what is None is left out."""
    form = 'deploy' if deploy else 'train'
    told = dict(task=task, form=form, preparation=asdict(how)) | about
    return {name: value for name, value in told.items() if value is not None}
