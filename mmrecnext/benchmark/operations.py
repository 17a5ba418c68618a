"""Counting parameters and operations, with nothing computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmrecnext.engine.build import build_network, fit_cpu
from mmrecnext.engine.configs import load_config, read_config
from mmrecnext.engine.flops import FLOPS_PER_MAC, count_flops, count_parameters
from mmrecnext.engine.frameworks import FRAMEWORKS, framework_of
from mmrecnext.engine.named import named
from mmrecnext.models.classifier import classifier_class
from mmrecnext.models.fusion import switch_to_deploy

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


def cost_of(model: nn.Module, run: Callable[[nn.Module], object]) -> Cost:
    """Count what a model takes; it is brought into its inference form, in place.

    Args:
        model: a classifier, detector or segmentor on the meta device.
        run: puts an image through it.
    """
    train_params = count_parameters(model)
    switch_to_deploy(model)
    flops = count_flops(lambda: run(model))
    return Cost(count_parameters(model), train_params, flops // FLOPS_PER_MAC)


def classifier_cost(
    arch: str | Mapping[str, Any], height: int = 224, width: int = 224
) -> Cost:
    """Count what a classifier takes.

    Args:
        arch: a name in ``ARCHS`` or ``MLLA_ARCHS``, or a dict that changes a model.
        height: of the image, in pixels.
        width: likewise.
    """
    with torch.device('meta'):
        model = classifier_class(arch)(arch).eval()
        image = torch.empty(1, 3, height, width)
    return cost_of(model, lambda model: model(image))


def named_cost(name: str, size: tuple[int, int] | None = None) -> Cost:
    """Count what a classifier takes, or the network of a config.

    Args:
        name: see :func:`~mmrecnext.engine.named.named`; or the config of a model of a
            framework.
        size: height and width of the image, by default those it was made for.

    Raises:
        OptionError: for an unknown model.
        ConfigError: for a config that cannot be read.
    """
    is_config = '::' in name or name.endswith('.py')
    if is_config and read_config(name).get('default_scope') in FRAMEWORKS:
        return network_cost(load_config(name), size)
    model = named(name)
    return classifier_cost(model.arch, *(size or (model.side, model.side)))


def network_cost(cfg: Config, size: tuple[int, int] | None = None) -> Cost:
    """Count what the network of a config takes; RoI align is left out.

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
    """Run each network of a model of a framework, and nothing between them.

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
