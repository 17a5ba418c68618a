"""Small checkpoints, whole, in every form that is read."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file
from torch import nn

from mmrecnext import RecNeXt
from tests.helpers import TINY, randomise
from tests.reliability import reference


def network() -> RecNeXt:
    """What the checkpoints are of."""
    torch.manual_seed(0)
    return randomise(RecNeXt(TINY, out_indices=(1,)))


def of_mmengine() -> dict[str, Any]:
    """As a runner saves a run."""
    weights = network().state_dict()
    state = {0: {'step': torch.tensor(4.0), 'exp_avg': torch.ones(3, 2)}}
    groups = [{'lr': 1e-3, 'betas': (0.9, 0.999), 'params': [0], 'fused': None}]
    log = HistoryBuffer([2.0, 1.5, 1.0], [1, 1, 1])
    hub = {'log_scalars': {'train/loss': log}, 'runtime_info': {'iter': 3}}
    return {
        'meta': {'epoch': 1, 'iter': 3, 'dataset_meta': {'classes': ('bolt', 'nut')}},
        'state_dict': weights,
        'message_hub': hub,
        'optimizer': {'state': state, 'param_groups': groups},
        'param_schedulers': [{'last_step': 3, '_get_lr_called_within_step': False}],
        'random': [np.arange(4, dtype='u4'), np.float64(0.5)],
    }


def of_timm() -> dict[str, Any]:
    """As timm's script saves a run."""
    weights = network().state_dict()
    return {
        'epoch': 3,
        'arch': 'recnext_m0',
        'state_dict': weights,
        'args': Namespace(lr=0.1, mean=[0.5], opt='adamw', resume=''),
        'metric': 71.5,
        'state_dict_ema': {key: value.clone() for key, value in weights.items()},
    }


def of_deepspeed() -> dict[str, Any]:
    """As DeepSpeed saves the states of a model."""
    return {
        'module': network().half().state_dict(),
        'buffer_names': ['stem.stem.0.norm.running_mean'],
        'optimizer': None,
        'ds_config': {'train_batch_size': 8, 'zero_optimization': {'stage': 0}},
        'ds_version': '0.14.0',
        'global_steps': 7,
        'mp_world_size': 1,
    }


def of_views() -> dict[str, Any]:
    """Tensors of several types and strides, of which some share their numbers."""
    numbers = torch.arange(24.0).reshape(4, 6)
    return {
        'whole': numbers,
        'part': numbers[1:3, ::2],
        'turned': numbers.T,
        'empty': torch.zeros(0, 3),
        'flags': torch.tensor([True, False]),
        **{str(t): torch.ones(2).to(t) for t in (torch.float64, torch.int8)},
    }


class Scripted(nn.Module):
    """A module of several, with a list of numbers."""

    sizes: list[int]

    def __init__(self):
        super().__init__()
        self.sizes = [3, 4]
        self.inner = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.register_buffer('turned', torch.arange(6.0).reshape(2, 3).T)

    def forward(self, x):
        return self.inner(x) + self.sizes[0]


def save_zip(path: Path, content: Any):
    torch.save(content, path)


def save_protocol_4(path: Path, content: Any):
    torch.save(content, path, pickle_protocol=4)


def save_old(path: Path, content: Any):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_torchscript(path: Path, content: nn.Module):
    torch.jit.script(content).save(str(path))


def save_safetensors(path: Path, content: Any):
    save_file(content, path, metadata={'format': 'pt'})


@dataclass(frozen=True)
class Form:
    """A form of checkpoints.

    Attributes:
        suffix: of its files.
        content: makes what is saved.
        save: writes it.
        read: reads it, as :mod:`tests.reliability.reference` does.
        has_checksums: whether all of it is told by checksums.
    """

    suffix: str
    content: Callable[[], Any]
    save: Callable[[Path, Any], None]
    read: Callable[[Path], Any]
    has_checksums: bool = False


def _zipped(content, save=save_zip):
    return Form('.pth', content, save, reference.read_zip, True)


def _old(content):
    return Form('.pth', content, save_old, reference.read_old)


FORMS = {
    'MMEngine, zip': _zipped(of_mmengine),
    'MMEngine, before 1.6': _old(of_mmengine),
    'timm, zip': _zipped(of_timm),
    'timm, before 1.6': _old(of_timm),
    'DeepSpeed, zip': _zipped(of_deepspeed),
    'views, zip, protocol 4': _zipped(of_views, save_protocol_4),
    'views, before 1.6': _old(of_views),
    'TorchScript': Form(
        '.pt', Scripted, save_torchscript, reference.read_zip, has_checksums=True
    ),
    'safetensors': Form(
        '.safetensors',
        lambda: dict(network().state_dict()),
        save_safetensors,
        reference.read_safetensors,
    ),
}
