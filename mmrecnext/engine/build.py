"""Networks and runners of a config, built for the machine at hand."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.registry import MODELS, RUNNERS, DefaultScope
from mmengine.runner import Runner
from torch import nn
from torch.overrides import TorchFunctionMode

from mmrecnext.compat import keep_memory
from mmrecnext.engine.configs import nodes, type_of
from mmrecnext.engine.misbuilt import describe_unknown
from mmrecnext.errors import ConfigError

SYNCED_NORMS = ('SyncBN', 'MMSyncBN', 'SyncBatchNorm')
"""Batch norms of PyTorch, by its own name as well, and of MMCV that count across GPUs.
"""


class WithoutWeights(TorchFunctionMode):
    """Has layers made without memory for their weights.

    ``torch.device('meta')`` would reach further: some backbones compute options of
    theirs, such as rates of stochastic depth, with tensors.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs['device'] = 'meta'
        return func(*args, **kwargs)


def build_network(
    node: Mapping[str, Any], scope: str, weights: bool = True
) -> nn.Module:
    """Build a model, or a part of one.

    Args:
        node: its config.
        scope: the framework whose config it is.
        weights: whether to make memory for its weights.
    """
    importlib.import_module(f'{scope}.models')
    mode = nullcontext() if weights else WithoutWeights()
    with DefaultScope.overwrite_default_scope(scope), mode:
        network: nn.Module = MODELS.build(node)
    return network


def find_type(node: Mapping[str, Any], scope: str) -> Callable[..., Any] | None:
    """Return what builds a part of a model, or None if it is not registered.

    Args:
        node: its config.
        scope: the framework whose config it is.
    """
    kind = node.get('type')
    if not isinstance(kind, str):
        return kind
    importlib.import_module(f'{scope}.models')
    with (
        DefaultScope.overwrite_default_scope(scope),
        MODELS.switch_scope_and_registry(None) as registry,
    ):
        found: Callable[..., Any] | None = registry.get(kind)
    return found


def whole_model(cfg: Config) -> dict[str, Any]:
    """Return the model of a config, with the preprocessor that stands beside it.

    A runner puts that into the model too.
    """
    beside = cfg.get('data_preprocessor')
    return {**({'data_preprocessor': beside} if beside else {}), **cfg.model}


def build_runner(cfg: Config) -> Runner:
    """Build the runner that the config names, by default one that checks more.

    Raises:
        ConfigError: where it names none.
    """
    import mmrecnext.engine.runner  # noqa: F401  registers it

    kind = cfg.setdefault('runner_type', 'RecNeXtRunner')
    if not isinstance(kind, type) and RUNNERS.get(str(kind)) is None:
        raise ConfigError(f'runner_type: {describe_unknown(kind, RUNNERS)}')
    return RUNNERS.build(cfg)


def fit_cpu(cfg: Config) -> None:
    """Replace what needs a GPU, in place: NCCL by Gloo, SyncBN by BN.

    The process keeps its memory from then on, see :func:`keep_memory`.
    """
    keep_memory()
    launcher = cfg.get('launcher', 'none')
    if launcher == 'pytorch':
        # MMEngine would choose a GPU for each process first, and for its wrapper.
        torch.distributed.init_process_group('gloo')
        cfg.setdefault(
            'model_wrapper_cfg',
            dict(
                type='MMDistributedDataParallel',
                device_ids=None,
                broadcast_buffers=False,
                find_unused_parameters=cfg.get('find_unused_parameters', False),
            ),
        )
    synced = [node for node in nodes(cfg.model) if type_of(node) in SYNCED_NORMS]
    for node in synced:
        node.type = 'BN'
    if synced and launcher != 'none' and is_main_process():
        print_log(
            'SyncBN needs GPUs: each process normalises its own batch (BN)', 'current'
        )
