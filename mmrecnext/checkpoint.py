"""Checkpoints: read without running code, and fit a backbone entirely or not at all."""

from __future__ import annotations

import os
import pickle
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor, nn

from mmrecnext.archs import ARCHS, NUM_STAGES
from mmrecnext.errors import CheckpointError

SHOWN_KEYS = 3


def _history_buffer_method(owner: Any, name: str) -> Any:
    """Stand in for the ``getattr`` that MMEngine's checkpoints name.

    A log history refers to its statistics as ``getattr(HistoryBuffer, 'mean')``; the
    real ``getattr`` would reach everything.
    """
    if owner is not HistoryBuffer or name not in HistoryBuffer._statistics_methods:
        raise pickle.UnpicklingError(f'GLOBAL builtins.getattr({owner!r}, {name!r})')
    return getattr(owner, name)


def allow_mmengine_checkpoints():
    """Let ``torch.load(weights_only=True)`` read what MMEngine's checkpoints hold.

    Beside tensors these are log histories and the NumPy arrays and numbers in them,
    which NumPy 1 and 2 name differently. Nothing in the list can run code.
    """
    HistoryBuffer()  # its first instance registers the statistics
    core_module = np.core if np.lib.NumpyVersion(np.__version__) < '2.0.0' else np._core
    arrays = [
        (getattr(core_module.multiarray, name), f'numpy.{core}.multiarray.{name}')
        for core in ('core', '_core')
        for name in ('_reconstruct', 'scalar')
    ]
    dtypes = {type(np.dtype(code)) for code in np.typecodes['AllInteger'] + 'efdg?SU'}
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            (_history_buffer_method, 'builtins.getattr'),
            np.ndarray,
            np.dtype,
            *dtypes,
            *arrays,
        ]
    )


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Read a checkpoint file; what would run code is refused.

    Args:
        filename: path.
        map_location: as of ``torch.load``.

    Raises:
        CheckpointError: for a file that is missing, broken or would run code.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        raise CheckpointError(f'there is no checkpoint {path}')
    try:
        with warnings.catch_warnings():  # of TorchScript, which is refused below
            warnings.simplefilter('ignore', UserWarning)
            return torch.load(path, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(_explain(path, str(error))) from error


def _explain(path: Path, message: str) -> str:
    if 'TorchScript' in message:
        return (
            f'{path} is a TorchScript archive, a fused model for inference only: '
            'take the training checkpoint (.pth) of the same model'
        )
    # After PyTorch's advice, which is to run the code, comes what it found.
    found = message.rpartition('WeightsUnpickler error: ')[2].strip()
    if code := re.search(
        r'GLOBAL (\S+)|unrecognized function (.+)|(Can only .+)', found
    ):
        return (
            f'{path} is refused: loading it would execute code '
            f'({next(filter(None, code.groups()))}). '
            'Ask its author for a file of tensors only'
        )
    return (
        f'{path} is broken or cut short ({os.path.getsize(path)} bytes; '
        f'{found.splitlines()[0] if found else "unexpected end of file"}). '
        'Delete it and fetch it again'
    )


def load_from_http(
    filename: str, map_location: Any = None, model_dir: str | None = None
) -> Any:
    """Download a checkpoint, once on each machine, and read it.

    Args:
        filename: URL.
        map_location: as of ``torch.load``.
        model_dir: folder of downloads, by default that of ``torch.hub``.

    Raises:
        CheckpointError: where the download or the file fails.
    """
    folder = Path(model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints'))
    path = folder / Path(urlparse(filename).path).name
    first_of_node = os.environ.get('LOCAL_RANK', '0') == '0'
    if not path.is_file() and first_of_node:
        folder.mkdir(parents=True, exist_ok=True)
        print_log(f'Downloading {filename} to {path}', logger='current')
        try:
            torch.hub.download_url_to_file(filename, str(path))
        except (URLError, OSError) as error:
            reason = getattr(error, 'reason', error)
            raise CheckpointError(
                f'cannot download {filename} ({reason}). Fetch it elsewhere and put it '
                f'at {path}; to train from scratch, set `init_cfg=None`'
            ) from error
    barrier()
    return load_from_local(str(path), map_location)


def register_loaders():
    """Have MMEngine read files and URLs through this module, wherever it loads."""
    from mmengine.runner.checkpoint import CheckpointLoader  # here: it is slow

    CheckpointLoader.register_scheme('', loader=load_from_local, force=True)
    CheckpointLoader.register_scheme(
        ('http://', 'https://'), loader=load_from_http, force=True
    )


def unwrap(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what stands under ``state_dict`` or ``model``, else the checkpoint."""
    for name in ('state_dict', 'model'):
        if isinstance(checkpoint.get(name), Mapping):
            return checkpoint[name]
    return checkpoint


def backbone_weights(
    checkpoint: Mapping[str, Any], prefix: str | None = None
) -> dict[str, Tensor]:
    """Take the backbone's weights out of a checkpoint.

    Args:
        checkpoint: a published file (weights under ``model``), an OpenMMLab checkpoint
            (under ``state_dict``), or the weights themselves.
        prefix: what the backbone's keys begin with; by default ``backbone.`` where such
            keys are found, nothing elsewhere.

    Returns:
        Weights by key, without the classification head.

    Raises:
        CheckpointError: where there are no weights, or none with the prefix.
    """
    checkpoint = unwrap(checkpoint)
    weights = {
        key.removeprefix('module.'): value
        for key, value in checkpoint.items()
        if isinstance(value, Tensor)
    }
    if not weights:
        raise CheckpointError(
            'the checkpoint holds no weights: neither under `model`, nor under '
            f'`state_dict`, nor at its top, where it has {_some(checkpoint)}'
        )
    if prefix is None and any(key.startswith('backbone.') for key in weights):
        prefix = 'backbone.'
    if prefix:
        prefix = prefix.rstrip('.') + '.'
        found = {
            k.removeprefix(prefix): v
            for k, v in weights.items()
            if k.startswith(prefix)
        }
        if not found:
            raise CheckpointError(
                f'no key of the checkpoint begins with {prefix!r}: '
                f'it has {_some(weights)}'
            )
        weights = found
    return {k: v for k, v in weights.items() if not k.startswith('head.')}


def load_pretrained(
    model: nn.Module,
    checkpoint: str,
    prefix: str | None = None,
    map_location: Any = 'cpu',
):
    """Load pretrained weights into a backbone, all of them or none.

    Args:
        model: a :class:`~mmrecnext.models.RecNeXt`.
        checkpoint: path or URL.
        prefix: see :func:`backbone_weights`.
        map_location: as of ``torch.load``.

    Raises:
        CheckpointError: where a weight is missing, left over or of another shape;
            the model is then as it was.
    """
    from mmengine.runner.checkpoint import CheckpointLoader  # here: it is slow

    loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location, 'silent')
    weights = backbone_weights(loaded, prefix)
    unbuilt = tuple(f'stages.{i}.' for i in range(len(model.stages), NUM_STAGES))
    weights = {k: v for k, v in weights.items() if not k.startswith(unbuilt)}

    own = model.state_dict()
    problems = [
        f'{what}: {_some(keys)}'
        for what, keys in (
            ('missing', own.keys() - weights.keys()),
            ('left over', weights.keys() - own.keys()),
            ('of another shape', _reshaped(own, weights)),
        )
        if keys
    ]
    if problems:
        name = next(
            (n for n, arch in ARCHS.items() if arch == model.arch), 'this model'
        )
        match = _matching_arch(model, weights)
        hint = f' These are weights of {match}, this is {name}.' if match else ''
        raise CheckpointError(
            f'{checkpoint} does not fit {name}; {"; ".join(problems)}.{hint}'
        )
    model.load_state_dict(weights)
    print_log(
        f'Loaded {len(weights)}/{len(own)} weights of the backbone from {checkpoint}',
        logger='current',
    )


@contextmanager
def explained_misfit(filename: str) -> Iterator[None]:
    """Turn MMEngine's complaint about a strictly loaded checkpoint into a short one.

    Raises:
        CheckpointError: where the weights in ``filename`` did not fit the model.
    """
    try:
        yield
    except CheckpointError:
        raise
    except RuntimeError as error:
        _, *details = (line.strip() for line in str(error).splitlines())
        details = ' '.join(filter(None, details))
        raise CheckpointError(
            f'{filename} does not fit the model of this config; '
            f'{textwrap.shorten(details, 300, placeholder=" ...")}'
        ) from error


def _some(keys: Any) -> str:
    keys = list(keys)
    more = len(keys) - SHOWN_KEYS
    return ', '.join(sorted(map(str, keys))[:SHOWN_KEYS]) + (
        f' and {more} more' if more > 0 else ''
    )


def _reshaped(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    return [
        f'{key} {list(weights[key].shape)} instead of {list(own[key].shape)}'
        for key in own.keys() & weights.keys()
        if own[key].shape != weights[key].shape
    ]


def _matching_arch(model: nn.Module, weights: Mapping[str, Tensor]) -> str | None:
    """Name the published model whose weights these are."""
    shapes = {key: weight.shape for key, weight in weights.items()}
    for name in ARCHS:
        with torch.device('meta'):
            candidate = type(model)(name, out_indices=(len(model.stages) - 1,))
        if {k: v.shape for k, v in candidate.state_dict().items()} == shapes:
            return name
    return None
