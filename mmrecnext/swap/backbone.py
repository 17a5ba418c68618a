"""The swap itself: one backbone out, another in, and all that hangs on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import is_seq_of

from mmrecnext.archs import get_arch, get_mlla_arch, is_mlla
from mmrecnext.checkpoint.sources import check_source, existing_file
from mmrecnext.engine.build import SYNCED_NORMS
from mmrecnext.engine.configs import (
    import_modules,
    read_config,
    spell_out,
    type_of,
)
from mmrecnext.engine.frameworks import FRAMEWORKS, names_of
from mmrecnext.errors import ConfigError, OptionError
from mmrecnext.pretrained import get_pretrained
from mmrecnext.swap.fitting import fitter_of
from mmrecnext.swap.measure import IMAGE_CHANNELS, image_channels
from mmrecnext.swap.plan import family_of
from mmrecnext.swap.reasons import check_model
from mmrecnext.swap.training import fit_training, is_other_model, swapped_nodes


def swap_backbone(
    cfg: Config | Mapping[str, Any] | str | Path,
    arch: str | Mapping[str, Any] = 'm3',
    pretrained: bool | str | None = True,
    strides: Sequence[int] | None = None,
    fpn: bool = False,
) -> Config:
    """Put a RecNeXt, or an MLLA, in the place of the backbone of any model.

    What depends on the backbone is rewritten too: channels of necks and heads, strides,
    normalisation of the images, weights to start from, and optimizer settings that name
    it. What trained the old backbone (frozen stages, fixed norms, stochastic depth)
    goes with it, as in the published RecNeXt recipes.

    The old backbone is built to measure its maps; the modules that ``custom_imports``
    names are imported for that.

    Args:
        cfg: a config of an OpenMMLab framework: loaded, or a path, or a name such as
            ``mmdet::retinanet/retinanet_r50_fpn_1x_coco.py``.
        arch: the RecNeXt, as its option of that name; or the MLLA, by a name or the
            ``base`` of its settings. Of MLLA, no weights are published.
        pretrained: weights to start from: True for the default published ones of
            ``arch``, a path, URL or name for others, False or None for none.
        strides: input pixels per pixel of each map of the old backbone, where that
            cannot be built here.
        fpn: whether to put a feature pyramid between, where the head of a pose
            estimator takes one map of stride 4, as of an HRNet; such are refused else.

    Returns:
        A new config; the given one stays as it is. Classes in it became their names.

    Raises:
        ConfigError: for a config whose backbone cannot be swapped, or in which
            something cannot be rewritten, naming the field.
        OptionError: for an unknown ``arch``, or one without published weights.
        CheckpointError: for weights that are no file, URL or published name.

    Examples:
        >>> from mmrecnext import swap_backbone
        >>> cfg = swap_backbone('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'm0')
        >>> cfg.model.backbone.type, cfg.model.neck.in_channels
        ('mmrecnext.RecNeXt', [40, 80, 160, 320])
    """
    layout = get_mlla_arch(arch) if is_mlla(arch) else get_arch(arch)
    init_cfg = initialisation(arch, pretrained)
    if not isinstance(cfg, Config | Mapping | str | Path):
        raise ConfigError(f'cfg is a config, or the name or path of one, got {cfg!r}')
    if strides is not None and not (
        is_seq_of(strides, int) and min(strides, default=0) > 0
    ):
        raise OptionError(f'strides are positive integers, got {strides!r}')
    if isinstance(cfg, str | Path):
        cfg = read_config(cfg)
    cfg = spell_out(cfg if isinstance(cfg, Config) else Config({**cfg}))
    check_config(cfg)
    owners = list(find_owners(cfg.model))
    if not owners:
        raise ConfigError(f'model.backbone: {type_of(cfg.model)} has none')

    packages = {str(owner.backbone.get('type')).split('.')[0] for _, owner in owners}
    packages &= MODULE2PACKAGE.keys() - {cfg.default_scope}
    import_modules(cfg, dispensable=packages)
    synced = any(type_of(node) in SYNCED_NORMS for node in swapped_nodes(cfg.model))
    scope = model_scope(cfg)
    fitter = fitter_of(scope, fpn)
    for path, owner in owners:
        fitter.check(owner, path)
        old = owner.backbone
        maps = fitter.measure(owner, path, strides)
        plan = fitter.plan(owner, path, maps, layout)
        kept = kept_options(old, scope)
        if pretrained is True and 'in_channels' in kept:
            raise OptionError(
                f'{path}.backbone.in_channels is {kept["in_channels"]}: no weights are '
                'published for that; name a checkpoint, or set pretrained=False'
            )
        owner.backbone = ConfigDict(
            type=f'mmrecnext.{family_of(layout)}',
            arch=copy.deepcopy(arch),
            **plan.options(layout),
            **({'norm_cfg': dict(type='SyncBN')} if synced else {}),
            **kept,
            **({'init_cfg': init_cfg} if init_cfg else {}),
        )
        fitter.fit(owner, path, maps, layout)
        fitter.fit_model(cfg.model, owner, path, maps)
    fit_training(cfg, owners, packages, scope)
    return cfg


def check_config(cfg: Config) -> None:
    """Raise a :class:`ConfigError` if a config has no model that can be swapped."""
    if cfg.get('default_scope') not in FRAMEWORKS:
        raise ConfigError(
            f'default_scope is {cfg.get("default_scope")}; configs for '
            f'{names_of()} can be swapped'
        )
    if not cfg.get('model'):
        raise ConfigError('model: the config has none')
    check_model(cfg.model)


def model_scope(cfg: Config) -> str:
    """Return the framework of a model, which a config of another one may have taken."""
    scope: str = cfg.model.get('_scope_')
    return scope if scope in FRAMEWORKS else cfg.default_scope


def kept_options(old: Mapping[str, Any], scope: str) -> dict[str, Any]:
    """Return the options of the old backbone that the new one takes over."""
    kept = {'with_cp': True} if old.get('with_cp') else {}
    channels = image_channels(old, scope)
    return kept if channels == IMAGE_CHANNELS else {**kept, 'in_channels': channels}


def initialisation(
    arch: str | Mapping[str, Any], pretrained: bool | str | None
) -> dict[str, Any] | None:
    """Return the ``init_cfg`` of the backbone, or None for a start from scratch."""
    if not pretrained:
        return None
    if pretrained is True:
        if not isinstance(arch, str):
            raise OptionError(
                'pretrained=True takes a published arch by its name; for a dict of '
                'settings name a checkpoint that fits, or set pretrained=False'
            )
        if is_mlla(arch):
            raise OptionError(
                f'no weights are published of {arch}: name a checkpoint, or set '
                'pretrained=False'
            )
        pretrained = get_pretrained(arch).name
    check_source(str(pretrained))
    check_published(arch, str(pretrained))
    return dict(type='Pretrained', checkpoint=str(pretrained))


def check_published(arch: str | Mapping[str, Any], name: str) -> None:
    """Refuse published weights of another model."""
    try:
        weights = get_pretrained(name)
    except OptionError:  # of a file or URL
        return
    if isinstance(arch, str) and weights.arch != arch and not existing_file(name):
        raise OptionError(f'pretrained: {name} is of arch {weights.arch}, not {arch}')


def find_owners(
    node: Mapping[str, Any], path: str = 'model'
) -> Iterator[tuple[str, ConfigDict]]:
    """Yield the nodes that have a backbone, teachers and re-identification excepted."""
    if isinstance(node.get('backbone'), Mapping):
        yield path, node
    for key, value in node.items():
        if isinstance(value, Mapping) and not is_other_model(key):
            yield from find_owners(value, f'{path}.{key}')
