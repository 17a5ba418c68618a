"""What timm is told: the models, their weights, and how it comes by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub.errors import LocalEntryNotFoundError
from mmengine.logging import print_log
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from timm.models._pretrained import PretrainedCfg
from torch import Tensor, nn

from mmrecnext.archs import ARCHS, MLLA_ARCHS
from mmrecnext.checkpoint.files import read_file
from mmrecnext.checkpoint.fit import FOR_INFERENCE, check_fit, is_fused
from mmrecnext.checkpoint.sources import HUB_FILES
from mmrecnext.checkpoint.weights import (
    AVERAGED,
    HEAD,
    WEIGHTS,
    named_weights,
    without_prefix,
)
from mmrecnext.classification.features import feature_class
from mmrecnext.errors import CheckpointError, OptionError
from mmrecnext.models.classifier import (
    CLASSIFIERS,
    FIRST_CONV,
    MLLA_FIRST_CONV,
    Classifier,
    MLLAClassifier,
    RecNeXtClassifier,
)
from mmrecnext.pretrained import (
    DROP_PATH_RATES,
    FIGURES,
    INPUT_SIDE,
    INTERPOLATION,
    MEAN,
    MLLA_DROP_PATH_RATES,
    MLLA_INPUT_SIDE,
    MLLA_SHORT_SIDE,
    PRETRAINED,
    SHORT_SIDE,
    STD,
    TAGS,
    Pretrained,
    tag_of,
)

SOURCES = ('file', 'url', 'hf_hub_id', 'state_dict')
"""Fields of timm's ``pretrained_cfg`` that tell where weights come from."""

SUFFIXES = ('.safetensors', '.pth', '.pth.tar', '.bin')


def _cfg(arch: str, weights: Pretrained | None = None) -> dict:
    side = -(-INPUT_SIDE // ARCHS[arch].strides[-1])
    return dict(
        url=weights.url if weights else '',
        hf_hub_id=weights.hub_id if weights else None,
        num_classes=1000,
        input_size=(3, INPUT_SIDE, INPUT_SIDE),
        pool_size=(side, side),
        crop_pct=INPUT_SIDE / SHORT_SIDE,
        interpolation=INTERPOLATION,
        mean=MEAN,
        std=STD,
        first_conv=FIRST_CONV,
        classifier=CLASSIFIERS,
    )


def _mlla_cfg(arch: str) -> dict:
    side = MLLA_INPUT_SIDE // MLLA_ARCHS[arch].strides[-1]
    return dict(
        num_classes=1000,
        input_size=(3, MLLA_INPUT_SIDE, MLLA_INPUT_SIDE),
        pool_size=(side, side),
        crop_pct=MLLA_INPUT_SIDE / MLLA_SHORT_SIDE,
        interpolation=INTERPOLATION,
        mean=MEAN,
        std=STD,
        first_conv=MLLA_FIRST_CONV,
        classifier='head',
    )


default_cfgs = generate_default_cfgs(
    {
        **{name: _cfg(weights.arch, weights) for name, weights in PRETRAINED.items()},
        **{f'recnext_{arch}': _cfg(arch) for arch in ARCHS if arch not in FIGURES},
        **{f'mlla_{arch}': _mlla_cfg(arch) for arch in MLLA_ARCHS},
    }
)


def chosen_weights(checkpoint: Any, averaged: bool = False) -> dict[str, Tensor]:
    """Take weights out of a checkpoint, and say which where it also has averages.

    See :func:`~mmrecnext.checkpoint.weights.named_weights`. Those of a training here
    stand under ``backbone``, as a detector's do.
    """
    if isinstance(checkpoint, Mapping):
        both = [
            [name for name in names if isinstance(checkpoint.get(name), Mapping)]
            for names in (AVERAGED, WEIGHTS)
        ]
        if all(both):
            taken, left = (names[0] for names in (both if averaged else both[::-1]))
            print_log(
                f'Took the weights under `{taken}`, not those under `{left}`',
                logger='current',
            )
    return dict(without_prefix(named_weights(checkpoint, averaged)))


def checkpoint_filter_fn(
    checkpoint: Mapping[str, Any], model: Classifier
) -> dict[str, Tensor]:
    """Give timm the weights in ``checkpoint``.

    Args:
        checkpoint: what a file holds.
        model: the classifier that they are for. It may have fewer or more channels of
            the image, or another head, which timm then makes of these weights, or anew.

    Raises:
        CheckpointError: where they are fused, unlike the model, or do not fit it.
    """
    weights = chosen_weights(checkpoint)
    if is_fused(weights):
        raise CheckpointError(
            f'these are {FOR_INFERENCE}. Take the training checkpoint (.pth or '
            'safetensors) of the same model'
        )
    if isinstance(model.head, nn.Identity):
        weights = {k: v for k, v in weights.items() if not k.startswith(HEAD)}
    own = model.state_dict()
    cfg: Any = model.pretrained_cfg
    adapted = {f'{cfg["first_conv"]}.weight'} & weights.keys()
    if model.num_classes != cfg['num_classes']:
        adapted |= {key for key in own if key.startswith(HEAD)}
    unchanged = weights | {key: own[key] for key in adapted}
    check_fit(model, unchanged, cfg.get('file') or 'the checkpoint')
    return weights


def with_file(cfg: PretrainedCfg) -> PretrainedCfg:
    """Read the weights that a file, or a folder in timm's form, holds.

    timm's own reader would take moving averages where there are any.

    Args:
        cfg: with a ``file``.

    Returns:
        The same with the weights, and the numbers of channels and classes that they
        are for.

    Raises:
        CheckpointError: where there are none.
    """
    path = Path(cfg.file or '').expanduser()
    if path.is_dir():
        path = file_in(path)
    if not path.is_file():
        raise CheckpointError(f'there is no checkpoint {path}')
    weights = chosen_weights(read_file(path, 'cpu'))
    names: Any = cfg.classifier
    head = weights.get(f'{names if isinstance(names, str) else names[0]}.weight')
    stem = weights.get(f'{cfg.first_conv}.weight')
    found: dict[str, Any] = {}
    if stem is not None:
        found['input_size'] = (stem.size(1), *cfg.input_size[1:])
    if head is not None:
        found['num_classes'] = len(head)
    return replace(cfg, source=None, file=str(path), state_dict=weights, **found)


def file_in(folder: Path) -> Path:
    """Find the weights in a folder, which timm and the hub give certain names."""
    named = [folder / name for name in HUB_FILES]
    others = [file for suffix in SUFFIXES for file in folder.glob(f'*{suffix}')]
    for file in (*named, *sorted(others)):
        if file.is_file():
            return file
    raise CheckpointError(
        f'{folder} holds no weights: none of {", ".join(HUB_FILES)}, nor any other '
        f'{", ".join(SUFFIXES)}'
    )


def resolve_weights(
    arch: str,
    pretrained_cfg: str | Mapping | PretrainedCfg | None,
    overlay: Mapping[str, Any] | None,
    distillation: bool | None,
) -> PretrainedCfg:
    """Find the weights that are asked for.

    Args:
        arch: a name in ``ARCHS``.
        pretrained_cfg: a tag, or timm's description of weights; by default the tag that
            ``distillation`` asks for.
        overlay: fields in place of those of the description.
        distillation: as the caller gave it, if at all.

    Raises:
        OptionError: where the tag contradicts ``distillation``.
    """
    if not pretrained_cfg and distillation is not None:
        pretrained_cfg = tag_of(distillation)
    asked: Any = pretrained_cfg  # of more types than timm says that it takes
    fields: Any = overlay
    cfg = resolve_pretrained_cfg(f'recnext_{arch}', asked, fields)
    tag = cfg.tag or (cfg.hf_hub_id or '').partition('@')[0].rpartition('.')[2]
    is_own = any((overlay or {}).get(field) for field in SOURCES)
    wanted = tag if distillation is None else tag_of(distillation)
    if tag in TAGS and tag != wanted and not is_own:
        raise OptionError(
            f'distillation={distillation} asks for the weights {wanted}, but those '
            f'of recnext_{arch}.{tag} were named: leave out either'
        )
    return completed(cfg, f'recnext_{arch}')


def completed(cfg: PretrainedCfg, name: str) -> PretrainedCfg:
    """Add to a description of weights which layers of a model timm adapts."""
    table = default_cfgs[name].default
    missing = {
        field: getattr(table, field)
        for field in ('first_conv', 'classifier')
        if getattr(cfg, field) is None
    }
    return replace(cfg, **missing)


def build_classifier(
    arch: str,
    pretrained: bool = False,
    pretrained_cfg: str | Mapping | PretrainedCfg | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    **options,
) -> nn.Module:
    """Build a classifier, or what gives its maps, as timm asks for it.

    Args:
        arch: a name in ``ARCHS``.
        pretrained: load weights.
        pretrained_cfg: see :func:`resolve_weights`.
        pretrained_cfg_overlay: see :func:`resolve_weights`.
        options: of :class:`~mmrecnext.classification.RecNeXtClassifier`, and timm's.

    Raises:
        OptionError: for an unknown option, or a tag that contradicts another.
        CheckpointError: where the weights cannot be had or do not fit.
    """
    distillation = options.get('distillation') if pretrained else None
    cfg = resolve_weights(arch, pretrained_cfg, pretrained_cfg_overlay, distillation)
    if pretrained and cfg.file:
        cfg = with_file(cfg)
    if not options.get('distillation') and not options.get('features_only'):
        options.setdefault('drop_path_rate', DROP_PATH_RATES.get(arch, 0.0))
    name = f'recnext_{arch}'
    try:
        return build(RecNeXtClassifier, name, pretrained, cfg, arch=arch, **options)
    except LocalEntryNotFoundError as error:
        weights = PRETRAINED.get((cfg.hf_hub_id or '').rpartition('/')[2])
        if weights is None:
            raise
        raise CheckpointError(
            f'cannot fetch {weights.hub_id} from the hub, out of reach. Fetch '
            f'{weights.url} elsewhere and give its path: timm.create_model(..., '
            "pretrained_cfg_overlay=dict(file='PATH'))"
        ) from error


def build(
    kind: type[Classifier],
    name: str,
    pretrained: bool,
    cfg: PretrainedCfg,
    **options: Any,
) -> nn.Module:
    """Have timm build a classifier, or what gives its maps.

    Args:
        kind: the classifier.
        name: by which timm knows it.
        pretrained: load weights.
        cfg: which weights.
        options: of the classifier, and timm's.
    """
    if options.get('features_only'):
        named = options.get('feature_cls', 'getter')
        options['feature_cls'] = feature_class(named, options)
    model = build_model_with_cfg(
        kind,
        name,
        pretrained,
        pretrained_cfg=cfg,  # type: ignore[arg-type]  # as timm itself does
        feature_cfg=dict(out_indices=(0, 1, 2, 3)),
        pretrained_filter_fn=checkpoint_filter_fn,
        **options,
    )
    if cfg.file:
        model.pretrained_cfg.pop('state_dict', None)  # read, and loaded
    return model


def build_mlla(
    arch: str,
    pretrained: bool = False,
    pretrained_cfg: str | Mapping | PretrainedCfg | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    **options,
) -> nn.Module:
    """Build a classifier with MLLA, or what gives its maps, as timm asks for it.

    Args:
        arch: a name in ``MLLA_ARCHS``.
        pretrained: load weights, of a file.
        pretrained_cfg: timm's description of weights.
        pretrained_cfg_overlay: fields in place of those of the description.
        options: of :class:`~mmrecnext.classification.MLLAClassifier`, and timm's.

    Raises:
        OptionError: for an unknown option.
        CheckpointError: without a file of weights, or where they do not fit.
    """
    name = f'mlla_{arch}'
    asked: Any = pretrained_cfg
    fields: Any = pretrained_cfg_overlay
    cfg = completed(resolve_pretrained_cfg(name, asked, fields), name)
    if pretrained and not cfg.file:
        raise CheckpointError(
            f'no weights are published of {name}: give the path of some by '
            "pretrained_cfg_overlay=dict(file='PATH'), or leave out pretrained=True"
        )
    if pretrained:
        cfg = with_file(cfg)
    if not options.get('features_only'):
        size, _, _ = arch.partition('_')
        options.setdefault('drop_path_rate', MLLA_DROP_PATH_RATES[size])
    return build(MLLAClassifier, name, pretrained, cfg, arch=arch, **options)


def register(name: str, build_model: Callable[..., nn.Module], doc: str) -> None:
    """Register a model with timm.

    Args:
        name: such as ``recnext_m0`` or ``mlla_nano_recattn``.
        build_model: builds it, given ``pretrained`` and timm's options.
        doc: what it is.
    """

    def create(pretrained: bool = False, **kwargs) -> nn.Module:
        return build_model(pretrained=pretrained, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = doc
    register_model(create)


for _arch in ARCHS:
    register(
        f'recnext_{_arch}',
        partial(build_classifier, _arch),
        f'RecNeXt-{_arch.upper()}, options as of RecNeXtClassifier.',
    )
for _arch in MLLA_ARCHS:
    register(
        f'mlla_{_arch}',
        partial(build_mlla, _arch),
        f'MLLA {_arch}, options as of MLLAClassifier.',
    )
