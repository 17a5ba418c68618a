"""What else in a config speaks of the old backbone: images, weights, optimizer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from torch import nn

from mmrecnext.compat import BatchNorm
from mmrecnext.engine.build import find_type
from mmrecnext.engine.configs import custom_modules, import_modules, nodes, type_of
from mmrecnext.engine.frameworks import framework_of
from mmrecnext.engine.misbuilt import options_of
from mmrecnext.engine.optim import layers_of
from mmrecnext.errors import ConfigError
from mmrecnext.models import Backbone
from mmrecnext.models.settings import PRETRAINED_NAMES
from mmrecnext.pretrained import MEAN, STD
from mmrecnext.registry import MODELS
from mmrecnext.swap.measure import IMAGE_CHANNELS

MEAN_OF_255, STD_OF_255 = ([round(255 * x, 3) for x in xs] for xs in (MEAN, STD))
"""As the frameworks count, from 0 to 255."""

PREPROCESSOR = dict(type='DetDataPreprocessor', pad_mask=True, pad_size_divisor=32)
"""Of a detector of MMDetection, to begin with."""

POSITIONS = ('absolute_pos_embed', 'relative_position_bias_table', 'pos_block')
"""Parameters of the backbones of Swin, MiT and their like, which RecNeXt has not."""

OLD_LAYER_DECAY = 'LearningRateDecayOptimizerConstructor'
PLAIN_LAYER_DECAY = 'LayerDecayOptimizerConstructor'
"""Constructors of optimizers that know ConvNeXt, and plain transformers."""


def fit_training(
    cfg: Config,
    owners: Sequence[tuple[str, ConfigDict]],
    packages: Collection[str],
    scope: str,
):
    """Rewrite all that stands outside of the network, in place.

    Args:
        cfg: the config, whose backbones are swapped.
        owners: path and node of each model with a backbone.
        packages: that the types of the old backbones name.
        scope: framework of the model.
    """
    path, owner = owners[0]
    if scope != cfg.default_scope and not cfg.model.get('data_preprocessor'):
        # Such as the detectors that MMDetection3D takes for nuImages.
        cfg.model.data_preprocessor = ConfigDict(PREPROCESSOR)
    channels = owner.backbone.get('in_channels', IMAGE_CHANNELS)
    if channels == IMAGE_CHANNELS:
        fit_normalisation(cfg, path)
    else:
        keep_normalisation(cfg, path, channels)
    forget_weights(cfg, owners, scope)
    fit_imports(cfg, packages)
    if cfg.get('optim_wrapper'):
        fit_optimizer(cfg.optim_wrapper, owner.backbone)


def swapped_nodes(tree: Any) -> Iterator[ConfigDict]:
    """Yield every dict of a config, without teachers and re-identification."""
    if isinstance(tree, Mapping):
        yield tree
        tree = [value for key, value in tree.items() if not is_other_model(key)]
    if isinstance(tree, list | tuple):
        for branch in tree:
            yield from swapped_nodes(branch)


def is_other_model(key: str) -> bool:
    """Tell the settings of a network that stands beside the one with the backbone."""
    return str(key).startswith(('teacher', 'reid'))


def preprocessors(cfg: Config, path: str) -> list[ConfigDict]:
    """Return what normalises images for a backbone.

    Raises:
        ConfigError: where nothing does.
    """
    found = [
        node
        for parent in swapped_nodes(cfg._cfg_dict)
        for key, node in parent.items()
        if isinstance(node, Mapping) and is_preprocessor(key, node)
    ]
    if not found:
        raise ConfigError(
            f'{path}.data_preprocessor: there is none that would normalise the images'
        )
    return found


def is_preprocessor(key: str, node: Mapping) -> bool:
    """Tell what normalises images, and holds nothing else that does."""
    if not type_of(node):  # classifiers know it by its place
        return key == 'data_preprocessor' and 'mean' in node
    named = type_of(node).lower().endswith('datapreprocessor')
    return named and 'data_preprocessor' not in node


def fit_normalisation(cfg: Config, path: str):
    """Have images normalised as RecNeXt expects, once."""
    to_rgb = framework_of(cfg).to_rgb
    for node in preprocessors(cfg, path):
        node.update({'mean': [*MEAN_OF_255], 'std': [*STD_OF_255], to_rgb: True})
        if node.get('rgb_to_bgr'):
            node.rgb_to_bgr = False
    for node in swapped_nodes(cfg._cfg_dict):
        if 'to_rgb' in node and 'mean' in node:  # one that fills with the mean
            node.update(mean=list(MEAN_OF_255), to_rgb=True)
            if 'std' in node:
                node.std = list(STD_OF_255)
    # The preprocessor does it: a transform that did so as well would be one too many.
    for node in swapped_nodes(cfg._cfg_dict):
        for key, value in node.items():
            if isinstance(value, list) and any(map(is_normalise, value)):
                node[key] = [item for item in value if not is_normalise(item)]


def keep_normalisation(cfg: Config, path: str, channels: int):
    """Leave images of other than three channels normalised as they were.

    Only the order of colours is left alone, which not all preprocessors do unasked.

    Raises:
        ConfigError: where there are numbers for another count of channels.
    """
    # A model's own comes before that of the config.
    inner = Config(dict(model=cfg.model)) if 'data_preprocessor' in cfg.model else cfg
    for node in preprocessors(inner, path):
        for option in ('bgr_to_rgb', 'rgb_to_bgr', 'to_rgb'):
            if node.get(option):
                node[option] = False
        for option in ('mean', 'std'):
            values = node.get(option)
            if isinstance(values, list | tuple) and len(values) not in (1, channels):
                raise ConfigError(
                    f'{path}.data_preprocessor.{option}: {len(values)} values for '
                    f'images of {channels} channels; give '
                    + ' or '.join(map(str, sorted({1, channels})))
                )


def is_normalise(item) -> bool:
    """Tell the transform that normalises images."""
    return type_of(item) == 'Normalize'


def forget_weights(cfg: Config, owners: Sequence[tuple[str, ConfigDict]], scope: str):
    """Take back weights of the old backbone, or of the whole old model."""
    for node in (cfg.model, *(owner for _, owner in owners)):
        if node.get('pretrained'):
            node.pretrained = None
            if 'pretrained' not in options_of(find_type(node, scope)):
                node.pop('pretrained')  # which no detector of MMDetection 3 takes
        init = node.get('init_cfg')
        if isinstance(init, list | tuple):
            node.init_cfg = [one for one in init if not is_pretrained(one)]
        elif is_pretrained(init):
            node.init_cfg = None
    if cfg.get('load_from'):
        cfg.load_from = None


def is_pretrained(init: Any) -> bool:
    """Tell an initialisation from a file of weights, by its name or its class's."""
    return type_of(init) in PRETRAINED_NAMES


def fit_imports(cfg: Config, packages: Collection[str]):
    """Take back imports that the old backbone alone needed, and try the others.

    Args:
        cfg: the config.
        packages: that the types of the old backbones name.
    """
    modules = custom_modules(cfg)
    types = {str(n.get('type')).split('.')[0] for n in nodes(cfg._cfg_dict)}
    kept = [m for m in modules if m.split('.')[0] not in set(packages) - types]
    if kept != modules:
        cfg.custom_imports = dict(cfg.custom_imports, imports=kept) if kept else None
    import_modules(cfg)


def fit_optimizer(optim_wrapper: ConfigDict, backbone: Mapping):
    """Rewrite multipliers that name the old backbone, or that only suit it.

    Raises:
        ConfigError: for those that cannot be rewritten.
    """
    options = optim_wrapper.get('paramwise_cfg') or {}
    constructor = str(optim_wrapper.get('constructor')).split('.')[-1]
    if constructor == PLAIN_LAYER_DECAY:
        raise ConfigError(
            f'optim_wrapper.constructor: {constructor} only knows plain transformers; '
            'take it out, or set `mmrecnext.RecNeXtLayerDecay`'
        )
    if constructor == OLD_LAYER_DECAY:
        optim_wrapper.constructor = 'mmrecnext.RecNeXtLayerDecay'
        fit_layer_decay(options, backbone)
    if keys := options.get('custom_keys'):
        fit_custom_keys(keys, backbone)


def fit_layer_decay(options: ConfigDict, backbone: Mapping):
    """Let the first of the new layers learn as fast as the first of the old ones.

    MMDetection and MMSegmentation decay ``num_layers + 1`` times down to it.
    """
    old_layers = options.pop('num_layers') + 1
    if options.get('decay_type', 'layer_wise') == 'layer_wise':
        layers = len(list(layers_of(build(backbone))))
        options.decay_rate = round(options.decay_rate ** (old_layers / layers), 4)


def fit_custom_keys(keys: ConfigDict, backbone: Mapping):
    """Rewrite the keys, which are parts of the names of parameters.

    Exemptions that name norms inside the old backbone become those of the new norms.

    Raises:
        ConfigError: for a key that names another part of the old backbone.
    """
    inside = [key for key in keys if 'backbone.' in key]
    for key in inside:
        if not key.endswith('norm') or keys[key] != keys[inside[0]]:
            raise ConfigError(
                f'optim_wrapper.paramwise_cfg.custom_keys: {key!r} names a part of the '
                'old backbone; name one of the new one, or take it out'
            )
    multipliers = [keys.pop(key) for key in inside]
    for key in POSITIONS:
        keys.pop(key, None)
    if inside:
        prefix = inside[0][: inside[0].index('backbone.')]
        for name in norm_keys(backbone):
            key = prefix + name if name.startswith('backbone.') else name
            keys[key] = multipliers[0]


def norm_keys(backbone: Mapping) -> list[str]:
    """Return what names the norms of the backbone and no other parameters, briefly."""
    names = [
        f'backbone.{name}'
        for name, module in build(backbone).named_modules()
        if isinstance(module, BatchNorm | nn.LayerNorm)
    ]
    inner = [re.sub(r'.*\.(?=\w+_mixer\.)', '', name) for name in names]
    return list(dict.fromkeys(inner))


def build(backbone: Mapping) -> Backbone:
    """Build a backbone without memory for its weights."""
    options = {k: v for k, v in backbone.items() if k != 'init_cfg'}
    options['norm_cfg'] = dict(type='BN')
    with torch.device('meta'):
        return MODELS.build(dict(options, _scope_='mmrecnext'))
