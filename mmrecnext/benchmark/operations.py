"""Counting parameters and operations, with nothing computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from mmrecnext.archs import ARCHS
from mmrecnext.engine.build import build_network, fit_cpu
from mmrecnext.engine.frameworks import framework_of
from mmrecnext.errors import OptionError
from mmrecnext.models import RecNeXtClassifier
from mmrecnext.models.fusion import switch_to_deploy
from mmrecnext.pretrained import get_pretrained

FLOPS_PER_MAC = 2
MACS_PER_BILINEAR_PIXEL = 4

PROPOSALS, MASKS = 1000, 100
"""What a detector of two stages is given, as in MMDetection's own count."""


@dataclass(frozen=True)
class Cost:
    """What a model takes.

    Args:
        params: parameters in the inference form.
        train_params: parameters in the training form.
        macs: multiply-adds of an image, in the inference form.
    """

    params: int
    train_params: int
    macs: int


def count_flops(call: Callable[[], object], interpolation: bool = True) -> int:
    """Count the operations of convolutions and matrix products in a call.

    Args:
        call: what is to be counted, on tensors of the meta device.
        interpolation: whether bilinear interpolation counts too.
    """
    counter, bilinear = FlopCounterMode(display=False), _Bilinear()
    with torch.no_grad(), torch.device('meta'), counter, bilinear:
        call()
    return counter.get_total_flops() + (bilinear.flops if interpolation else 0)


class _Bilinear(TorchFunctionMode):
    """Counts bilinear interpolation, and has nearest pixels in its place.

    These have the same shape, which is all there is on the meta device, and come of a
    tenth of the operations there.
    """

    flops = 0

    def __torch_function__(
        self,
        func: Callable,
        types: Any,
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch."""
        kwargs = kwargs or {}
        if func is not F.interpolate or kwargs['mode'] != 'bilinear':
            return func(*args, **kwargs)
        enlarged = func(*args, **{**kwargs, 'mode': 'nearest', 'align_corners': None})
        self.flops += FLOPS_PER_MAC * MACS_PER_BILINEAR_PIXEL * enlarged.numel()
        return enlarged


def cost_of(model: nn.Module, run: Callable[[nn.Module], object]) -> Cost:
    """Count what a model takes; it is brought into its inference form, in place.

    Args:
        model: a classifier, detector or segmentor on the meta device.
        run: puts an image through it.
    """
    train_params = _count_parameters(model)
    switch_to_deploy(model)
    flops = count_flops(lambda: run(model))
    return Cost(_count_parameters(model), train_params, flops // FLOPS_PER_MAC)


def _count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def classifier_cost(arch: str, height: int = 224, width: int = 224) -> Cost:
    """Count what a classifier takes.

    Args:
        arch: a name in ``ARCHS``.
        height: of the image, in pixels.
        width: likewise.
    """
    with torch.device('meta'):
        model = RecNeXtClassifier(arch).eval()
        image = torch.empty(1, 3, height, width)
    return cost_of(model, lambda model: model(image))


def arch_of(name: str) -> str:
    """Return the arch of a model, whose name may be that of its weights.

    Raises:
        OptionError: for an unknown model.
    """
    if (arch := name.removeprefix('recnext_')) in ARCHS:
        return arch
    try:
        return get_pretrained(name).arch
    except OptionError as error:
        known = ', '.join(f'recnext_{arch}' for arch in ARCHS)
        raise OptionError(f'unknown model {name!r}; the models are {known}') from error


def network_cost(cfg: Config, size: tuple[int, int] | None = None) -> Cost:
    """Count what the detector or segmentor of a config takes; RoI align is left out.

    Args:
        cfg: the config; changed.
        size: height and width of the image; by default as the row of its framework
            says.
    """
    fit_cpu(cfg)
    framework = framework_of(cfg)
    model = build_network(cfg.model, framework.scope, weights=False).to('meta').eval()
    image = torch.empty(1, 3, *(size or framework.image_size), device='meta')
    return cost_of(model, lambda model: run_networks(model, image, framework.heads))


def run_networks(model: Any, images: Tensor, heads: tuple[str, ...]):
    """Run each network of a detector or segmentor, and nothing between them.

    Args:
        model: the model.
        images: ``[N, 3, H, W]``.
        heads: the parts of it that predict, as its framework names them.
    """
    maps = model.extract_feat(images)
    for name in heads:
        head = getattr(model, name, None)
        if head is None or name == 'auxiliary_head':  # which only training runs
            continue
        if not hasattr(head, 'bbox_roi_extractor'):
            head(maps)
            continue
        for part, number in (('bbox', PROPOSALS), ('mask', MASKS)):
            extractor = getattr(head, f'{part}_roi_extractor')
            size = extractor.roi_layers[0].output_size
            rois = torch.empty(number, extractor.out_channels, *size)
            getattr(head, f'{part}_head')(rois)
