"""The published weights and figures of all models, as data.

Source: RecNeXt (https://github.com/suous/RecNeXt), its tables and releases.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmrecnext.errors import OptionError

RELEASES = 'https://github.com/suous/RecNeXt/releases/download'
HUB_OWNER = 'suous'
HUB_PREFIXES = ('hf-hub:', 'hf_hub:')
"""How timm marks a repository on the hub."""

INPUT_SIDE = 224
"""Of the images, in pixels, that all figures are of."""

SHORT_SIDE = 256
"""Of a picture, in pixels, once it is resized and before its centre is cut out."""

INTERPOLATION = 'bicubic'
"""By which pictures are resized."""

MEAN = (0.485, 0.456, 0.406)
"""Of the red, green and blue that networks were trained on, from 0 to 1."""

STD = (0.229, 0.224, 0.225)
"""By which what is left of them is divided."""

TAGS = {'dist_300e_in1k': 'distill_300e', 'base_300e_in1k': 'without_distill_300e'}
"""How the hub names a recipe (ImageNet-1k, 300 epochs), by how its files name it."""


DROP_PATH_RATES = {
    **dict.fromkeys(('s', 's_share_channel'), 0.1),
    **dict.fromkeys(('m4', 'a4', 'b', 'b_share_channel'), 0.2),
    **dict.fromkeys(('m5', 'a5'), 0.3),
}
"""Stochastic depth of those trained without distillation; of all others it is 0."""


@dataclass(frozen=True)
class Figures:
    """What is published of one model.

    Args:
        top1_dist: ImageNet top-1 with distillation, in percent.
        top1_base: ImageNet top-1 without.
        params: parameters for inference, in millions.
        macs: multiply-adds at 224 x 224, in billions.
    """

    top1_dist: float
    top1_base: float
    params: float
    macs: float


FIGURES = {
    'm0': Figures(74.7, 73.2, 2.5, 0.4),
    'm1': Figures(79.2, 78.0, 5.2, 0.9),
    'm2': Figures(80.3, 79.2, 6.8, 1.2),
    'm3': Figures(80.9, 79.6, 8.2, 1.4),
    'm4': Figures(82.5, 81.4, 14.1, 2.4),
    'm5': Figures(83.3, 82.9, 22.9, 4.7),
    'a0': Figures(75.0, 73.6, 2.8, 0.4),
    'a1': Figures(79.6, 78.3, 5.9, 0.9),
    'a2': Figures(80.8, 79.6, 7.9, 1.2),
    'a3': Figures(81.1, 80.1, 9.0, 1.4),
    'a4': Figures(82.5, 81.6, 15.8, 2.4),
    'a5': Figures(83.5, 83.1, 25.7, 4.7),
    't': Figures(76.6, 75.1, 12.1, 0.3),
    's': Figures(79.6, 78.3, 15.8, 0.7),
    'b': Figures(81.4, 80.3, 19.3, 1.1),
    't_share_channel': Figures(76.8, 75.2, 12.1, 0.3),
    's_share_channel': Figures(79.5, 78.3, 15.8, 0.7),
    'b_share_channel': Figures(81.5, 80.3, 19.2, 1.1),
}


@dataclass(frozen=True)
class Speed:
    """What is published of how fast one model is, its batch norms merged, in fp32.

    Args:
        npu_ms: of the classifier at 224 x 224 on the neural engine of an iPhone 13, by
            Core ML, in milliseconds.
        cpu_ms: of the same on an ARM Cortex-A57, from an ONNX file.
        gpu_images: that the same takes in a second on an RTX 3090, of the batch, a
            power of two, that is the largest to fit.
        coco_ms: of the backbone on the pictures of COCO, on an iPhone; where published.
        ade20k_ms: of the backbone at 512 x 512, on an iPhone 12; likewise.
    """

    npu_ms: float
    cpu_ms: float
    gpu_images: float
    coco_ms: float | None = None
    ade20k_ms: float | None = None


SPEEDS = {
    'm0': Speed(1.0, 189, 750),
    'm1': Speed(1.4, 361, 384),
    'm2': Speed(1.5, 431, 325),
    'm3': Speed(1.6, 482, 314, 5.2, 5.6),
    'm4': Speed(2.4, 843, 169, 7.6, 7.2),
    'm5': Speed(3.4, 1487, 104, 12.4, 12.4),
    'a0': Speed(1.4, 177, 4891),
    'a1': Speed(1.9, 334, 2730),
    'a2': Speed(2.2, 413, 2331),
    'a3': Speed(2.4, 447, 2151, 8.3, 8.4),
    'a4': Speed(3.6, 764, 1265, 14.0, 14.0),
    'a5': Speed(5.6, 1376, 733, 25.3, 25.3),
    't': Speed(1.8, 109, 13878),
    's': Speed(2.0, 188, 7989),
    'b': Speed(2.5, 290, 4450),
    't_share_channel': Speed(1.8, 105, 13957),
    's_share_channel': Speed(2.0, 182, 8034),
    'b_share_channel': Speed(2.5, 296, 4472),
}


@dataclass(frozen=True)
class Pretrained:
    """Published weights of one model.

    Args:
        arch: the model, a name in ``ARCHS``.
        tag: the recipe, a name in ``TAGS``.
    """

    arch: str
    tag: str

    @property
    def name(self) -> str:
        """The name by which timm and the hub know these weights."""
        return f'recnext_{self.arch}.{self.tag}'

    @property
    def hub_id(self) -> str:
        """Repository on the Hugging Face hub."""
        return f'{HUB_OWNER}/{self.name}'

    @property
    def url(self) -> str:
        """Weights for training, ``{'model': state_dict}``."""
        return f'{self._stem}.pth'

    @property
    def fused_url(self) -> str:
        """Fused model for inference, a TorchScript archive."""
        return f'{self._stem}_fused.pt'

    @property
    def top1(self) -> float:
        """ImageNet top-1, in percent."""
        figures = FIGURES[self.arch]
        return figures.top1_dist if self.tag.startswith('dist') else figures.top1_base

    @property
    def _stem(self) -> str:
        release = 'v1.0' if self.arch.startswith('m') else 'v2.0'
        return f'{RELEASES}/{release}/recnext_{self.arch}_{TAGS[self.tag]}'


MLLA_INPUT_SIDE = 256
"""Of the images, in pixels, that all figures of MLLA are of."""

MLLA_SHORT_SIDE = 292
"""Of a picture, in pixels, once it is resized and before its centre is cut out."""

MLLA_DROP_PATH_RATES = {'nano': 0.0, 'mini': 0.2}
"""Stochastic depth that MLLA was trained with, by size."""


@dataclass(frozen=True)
class MLLAFigures:
    """What is published of one MLLA, of which there are no weights.

    Args:
        top1: ImageNet top-1, in percent: of the best epoch in the log.
        params: parameters, in millions; where published.
        macs: multiply-adds at 256 x 256, in billions; likewise.
    """

    top1: float
    params: float | None = None
    macs: float | None = None


MLLA_FIGURES = {
    'nano_baseline': MLLAFigures(76.262, 3.6, 0.9),
    'nano_recconv_transposed': MLLAFigures(77.090, 4.1, 0.9),
    'nano_recconv_nearest': MLLAFigures(77.140, 4.0, 0.9),
    'nano_recattn_rope': MLLAFigures(76.534),
    'nano_recattn': MLLAFigures(77.276, 4.0, 0.9),
    'mini_baseline': MLLAFigures(82.266, 13.9, 3.1),
    'mini_recconv_transposed': MLLAFigures(82.064, 14.5, 2.9),
    'mini_recconv_nearest': MLLAFigures(81.942, 14.3, 2.9),
    'mini_recattn_rope': MLLAFigures(82.078),
    'mini_recattn': MLLAFigures(82.156, 14.4, 2.8),
}

PRETRAINED = {
    weights.name: weights
    for weights in (Pretrained(arch, tag) for arch in FIGURES for tag in TAGS)
}
"""All published weights, by name: the first tag of a model is its default."""


def tag_of(distillation: bool) -> str:
    """Return the tag of weights trained with a teacher, or without."""
    dist, base = TAGS
    return dist if distillation else base


def get_pretrained(name: str) -> Pretrained:
    """Look up published weights.

    Args:
        name: such as ``recnext_m3.dist_300e_in1k``; the owner on the hub may precede
            it, and ``hf-hub:`` that; ``recnext_`` may be left out, and so may the tag.

    Raises:
        OptionError: for an unknown model or tag, naming the valid ones.

    Examples:
        >>> from mmrecnext.pretrained import get_pretrained
        >>> get_pretrained('m3').name, get_pretrained('m3').top1
        ('recnext_m3.dist_300e_in1k', 80.9)
    """
    short = name
    for prefix in (*HUB_PREFIXES, f'{HUB_OWNER}/', 'recnext_'):
        short = short.removeprefix(prefix)
    arch, _, tag = short.partition('.')
    if arch not in FIGURES:
        raise OptionError(
            f'no weights are published as {name!r}; the models are '
            f'{", ".join(f"recnext_{known}" for known in FIGURES)}'
        )
    tag = tag or next(iter(TAGS))
    if tag not in TAGS:
        raise OptionError(
            f'no weights are published as {name!r}; the tags of recnext_{arch} are '
            f'{", ".join(TAGS)}'
        )
    return PRETRAINED[f'recnext_{arch}.{tag}']
