"""Layer-wise learning-rate decay: the nearer to the image, the slower to learn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmrecnext.errors import ConfigError, OptionError
from mmrecnext.models import Backbone
from mmrecnext.registry import OPTIM_WRAPPER_CONSTRUCTORS

DECAY_TYPES = ('layer_wise', 'stage_wise')
DECAY_OPTIONS = ('decay_rate', 'decay_type')
MMENGINE_OPTIONS = (
    'custom_keys',
    'bias_lr_mult',
    'bias_decay_mult',
    'norm_decay_mult',
    'dwconv_decay_mult',
    'dcn_offset_lr_mult',
    'flat_decay_mult',
    'bypass_duplicate',
)
"""Options of ``DefaultOptimWrapperConstructor``, none of which a signature names."""


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class RecNeXtLayerDecay(DefaultOptimWrapperConstructor):
    """Gives each layer of a RecNeXt or MLLA a learning rate of its own.

    Of ``n`` layers, the ``i``-th (from 0) learns at ``decay_rate ** (n - i)`` times the
    learning rate of the optimizer, all that is not the backbone at the rate itself.
    As ``constructor`` of ``optim_wrapper``, any detector or segmentor can use it.

    Args:
        optim_wrapper_cfg: the ``optim_wrapper`` of a config.
        paramwise_cfg: its ``paramwise_cfg``. ``decay_rate``, in (0, 1], is required.
            ``decay_type`` tells what counts as a layer: ``layer_wise`` (the default)
            the stem and each block, a downsampling with the block that follows it;
            ``stage_wise`` the stem and each stage. The options of MMEngine's
            ``DefaultOptimWrapperConstructor`` apply as well: ``norm_decay_mult=0`` and
            ``bias_decay_mult=0`` exempt norms and biases from weight decay.

    Raises:
        OptionError: for an option that is missing, unknown or of impossible value.
        ConfigError: when called with a model in which neither is found.
    """

    def _validate_cfg(self):
        super()._validate_cfg()
        valid = (*DECAY_OPTIONS, *MMENGINE_OPTIONS)
        if unknown := sorted(set(self.paramwise_cfg) - set(valid)):
            raise OptionError(
                f'paramwise_cfg has no option {", ".join(unknown)} with '
                f'{type(self).__name__}; the options are {", ".join(valid)}'
            )
        rate = self.paramwise_cfg.get('decay_rate')
        if not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise OptionError(
                f'paramwise_cfg: `decay_rate`, the ratio of the learning rates of '
                f'neighbouring layers, is in (0, 1], got {rate!r}'
            )
        kind = self.paramwise_cfg.get('decay_type', DECAY_TYPES[0])
        if kind not in DECAY_TYPES:
            raise OptionError(
                f'paramwise_cfg: `decay_type` is one of {", ".join(DECAY_TYPES)}, '
                f'got {kind!r}'
            )
        if self.base_lr is None:
            raise OptionError('optimizer: `lr`, the rate to be scaled, is missing')

    def add_params(self, params: list[dict], module: nn.Module, prefix='', **options):
        """Add all parameters of ``module`` to ``params``, in few groups.

        Args:
            params: parameter groups, changed in place.
            module: a model; in a recursion, a part of it.
            prefix: where in the model it is.
            options: of the recursion.
        """
        super().add_params(params, module, prefix, **options)
        if prefix:  # a part, to be scaled along with the whole
            return
        scales = self.scales(module)
        for group in params:
            if scale := scales.get(group['params'][0]):
                rate: Any = group.get('lr', self.base_lr)
                group['lr'] = rate * scale
        params[:] = merged(params)

    def scales(self, model: nn.Module) -> dict[nn.Parameter, float]:
        """Return what to scale the learning rate of each backbone parameter by."""
        rate = self.paramwise_cfg['decay_rate']
        by_stage = self.paramwise_cfg.get('decay_type') == 'stage_wise'
        backbones = [m for m in model.modules() if isinstance(m, Backbone)]
        if not backbones:
            found = type(getattr(model, 'backbone', model)).__name__
            raise ConfigError(
                f'{type(self).__name__} decays the learning rate of a RecNeXt or '
                f'MLLA, but finds {found}: set another `optim_wrapper.constructor`'
            )
        scales = {}
        for backbone in backbones:
            layers = list(layers_of(backbone, by_stage))
            for i, layer in enumerate(layers):
                scales.update(dict.fromkeys(layer, rate ** (len(layers) - i)))
            print_log(
                f'Learning rate of {len(layers)} layers of the backbone: from '
                f'{self.base_lr * rate ** len(layers):.3g} to '
                f'{self.base_lr * rate:.3g}, of all else {self.base_lr:.3g}',
                logger='current',
            )
        return scales


def layers_of(
    backbone: Backbone, by_stage: bool = False
) -> Iterator[list[nn.Parameter]]:
    """Yield the parameters of each layer, from the image on.

    Args:
        backbone: a RecNeXt or MLLA.
        by_stage: count a stage as one layer, instead of each of its blocks.
    """
    stem, *stages = backbone.parts()
    yield [*stem.parameters()]
    layer: list[nn.Parameter] = []
    for stage in stages:
        for part in [stage] if by_stage else parts_of(stage):
            layer += part.parameters()
            if layer and part is not getattr(stage, 'downsample', None):
                yield layer
                layer = []
    yield from filter(None, [layer])


def parts_of(stage: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks and the downsampling of a stage, in their order."""
    for child in stage.children():
        yield from child if isinstance(child, nn.ModuleList) else [child]


def merged(groups: list[dict]) -> list[dict]:
    """Put parameters of equal settings into one group each, none of them twice."""
    found: dict[str, dict] = {}
    seen = set()
    for group in groups:
        settings = {k: v for k, v in group.items() if k != 'params'}
        key = repr(sorted(settings.items()))
        new = found.setdefault(key, {'params': [], **settings})
        new['params'] += [p for p in group['params'] if p not in seen]
        seen.update(group['params'])
    return [group for group in found.values() if group['params']]
