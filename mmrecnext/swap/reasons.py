"""Why the backbones that RecNeXt cannot stand in for are what they are."""

from __future__ import annotations

from collections.abc import Mapping

from mmrecnext.engine.configs import type_of
from mmrecnext.errors import ConfigError

ONE_SCALE = (
    'it is a plain transformer, whose maps all have one stride, and what follows is '
    'made for those'
)
WHOLE_SEGMENTOR = (
    'it is a whole segmentor: the heads take maps of paths and fusions inside it, not '
    'the stages of a classifier'
)
POINTS = (
    'it takes the points of a LiDAR or a view of them from above, and RecNeXt images'
)

WELDED = {
    'VisionTransformer': ONE_SCALE,
    'BEiT': ONE_SCALE,
    'MAE': ONE_SCALE,
    'UNet': 'encoder and decoder are one: the heads take the maps of its decoder',
    'ICNet': 'its branches see the image at three sizes, as ICNeck expects',
    'BiSeNetV1': WHOLE_SEGMENTOR,
    'BiSeNetV2': WHOLE_SEGMENTOR,
    'STDCContextPathNet': WHOLE_SEGMENTOR,
    'PIDNet': WHOLE_SEGMENTOR,
    'CGNet': WHOLE_SEGMENTOR,
    'DDRNet': WHOLE_SEGMENTOR,
    'ERFNet': WHOLE_SEGMENTOR,
    'FastSCNN': WHOLE_SEGMENTOR,
    'VPD': 'it is a text-conditioned diffusion model',
    'SSDVGG': (
        "SSD's own VGG, whose layers and L2 norm the neck continues; "
        '`mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py` can be swapped'
    ),
    'HourglassNet': (
        'its stacked hourglasses give maps of one stride, each with a loss of its own'
    ),
    'TridentResNet': (
        'its three branches triple the batch, and its RoI head takes that apart'
    ),
    'Asymm3DSpconv': POINTS,
    'DGCNNBackbone': POINTS,
    'MinkResNet': POINTS,
    'MinkUNetBackbone': POINTS,
    'MinkUNetBackboneV2': POINTS,
    'MultiBackbone': POINTS,
    'PointNet2SAMSG': POINTS,
    'PointNet2SASSG': POINTS,
    'SECOND': POINTS,
    'SPVCNNBackbone': POINTS,
}
"""Per type of backbone."""

MODELS_WITHOUT = {
    'BaseReID': 'a classifier of whole pictures; it takes no multi-scale maps',
    'Detectron2Wrapper': "Detectron2's own models, which OpenMMLab does not build",
    'ImVoteNet': (
        'a detector of points; the branch that sees pictures, its `img_backbone`, '
        'votes for them'
    ),
    'MultimodalEncoderDecoder': (
        'a side adapter network; its `image_encoder` is CLIP, one plain transformer'
    ),
}
"""Per type of model."""


def check_model(model: Mapping):
    """Raise a :class:`ConfigError` if a model has no backbone that can be swapped."""
    kind = type_of(model)
    if kind in MODELS_WITHOUT:
        raise ConfigError(f'model.type: {kind} is {MODELS_WITHOUT[kind]}')
    if 'pts_backbone' in model:
        points = type_of(model['pts_backbone'])
        raise ConfigError(f'model.pts_backbone: {points} cannot be swapped: {POINTS}')


def check_backbone(owner: Mapping, path: str):
    """Raise a :class:`ConfigError` if a backbone and what uses it are inseparable.

    Args:
        owner: the node with the keys ``backbone`` and perhaps ``neck``.
        path: of the node in the config.
    """
    kind = type_of(owner['backbone'])
    if kind in WELDED:
        raise ConfigError(f'{path}.backbone: {kind} cannot be swapped: {WELDED[kind]}')
    neck = owner.get('neck')
    if isinstance(neck, Mapping) and type_of(neck) == 'RFP':
        raise ConfigError(
            f'{path}.neck: RFP feeds its output back into stages of the backbone, '
            f'which only {kind} can take'
        )
