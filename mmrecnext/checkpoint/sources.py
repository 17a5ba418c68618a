"""Find a checkpoint: a file, a URL, a published name, a repository on the hub.

What a RecNeXt is loaded from, and what the tools load, goes through the reader of this
package, which runs nothing (:func:`read_checkpoint`). What other code loads by MMEngine
stays MMEngine's, errors included: see :func:`register_loaders`.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader

from mmrecnext.checkpoint.files import read_file
from mmrecnext.compat import without_mmcls_prefix
from mmrecnext.errors import CheckpointError, OptionError, brief, did_you_mean
from mmrecnext.pretrained import (
    HUB_OWNER,
    HUB_PREFIXES,
    RELEASES,
    Pretrained,
    get_pretrained,
)

HUB_FILES = ('model.safetensors', 'pytorch_model.bin')
"""Names that timm gives to the weights in a repository, the one to prefer first."""

OWN_READER = 'mmrecnext:'
"""Before the name of a checkpoint, has MMEngine read it by :func:`read_checkpoint`."""

URLS = ('http://', 'https://')
BUCKETS = ('s3://', 'petrel://')
ALIASES = ('torchvision', 'modelzoo', 'open-mmlab', 'openmmlab', 'mmcls')
"""Schemes of MMEngine whose names are looked up in its tables."""

CHECKPOINTS = ('.pth', '.pt', '.bin', '.safetensors', '.ckpt')
"""What names of checkpoints end in."""

MANY = 8
"""Of many files, those that a message names."""

HASHED = re.compile(r'[-_][0-9a-f]{8,}\.\w+$')
"""The end of a name that tells the content of the file, as of PyTorch's models."""


def register_loaders() -> None:
    """Have MMEngine read checkpoints without running code, and know published names.

    With :data:`OWN_READER` before the name, or one of the hub, MMEngine reads by
    :func:`read_checkpoint`. Else it reads as it does: by ``torch.load`` with its
    default, which the user may override by PyTorch's environment variables. Two things
    are added. What PyTorch refuses, although it is only data, is read as data: so
    MMEngine reads its own checkpoints. And downloads go by that default too, while
    MMEngine's own way would run any code in them.
    """
    for prefixes, loader in (
        (OWN_READER, load_from_mmrecnext),
        (HUB_PREFIXES, load_from_hub),
        (('', *URLS, *(f'{alias}://' for alias in ALIASES)), load_from_mmengine),
    ):
        CheckpointLoader.register_scheme(prefixes, loader=loader, force=True)


def read_checkpoint(filename: str | os.PathLike[str], map_location: Any = None) -> Any:
    """Find a checkpoint, and read it without running code.

    The text of a config, which mmcv 1 saved, is left out: MMEngine would execute it on
    resuming.

    Args:
        filename: path, URL, what the schemes of MMEngine take, or a name such as
            ``recnext_m3.dist_300e_in1k``, see
            :func:`~mmrecnext.pretrained.get_pretrained`. With the owner before it,
            ``suous/``, it is sought on the hub, else among the releases. A file of that
            name goes first.
        map_location: see :func:`~mmrecnext.checkpoint.files.read_file`.

    Raises:
        CheckpointError: for a file that is missing, broken or names code, or weights
            that cannot be fetched.
    """
    filename = os.fspath(filename)
    try:
        checkpoint = _read_safely(filename, map_location)
    except _Missing as error:
        raise CheckpointError(describe_missing(filename, error.__cause__)) from error
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


def _read_safely(filename: str, map_location: Any) -> Any:
    if any(bucket in filename for bucket in BUCKETS):
        from mmengine.fileio import get_local_path  # here: it is slow

        try:
            with get_local_path(filename, backend_args={'backend': 'petrel'}) as path:
                return read_file(path, map_location)
        except ImportError as error:
            raise CheckpointError(f'{filename} cannot be read: {error}') from error
    return _load(filename, map_location, read_file, download)


def load_from_mmrecnext(filename: str, map_location: Any = None) -> Any:
    """Read what a name with :data:`OWN_READER` before it stands for."""
    return read_checkpoint(filename.removeprefix(OWN_READER), map_location)


def load_from_mmengine(filename: str, map_location: Any = None) -> Any:
    """Read a checkpoint as MMEngine does, see :func:`register_loaders`.

    Raises:
        FileNotFoundError: for a file that is missing, and no published name.
        pickle.UnpicklingError: PyTorch's, for one that would run code.
    """
    return _load(filename, map_location, _read_as_torch, _download)


def _read_as_torch(path: Path, map_location: Any) -> Any:
    try:
        return torch.load(path, map_location=map_location)
    except pickle.UnpicklingError:
        with suppress(CheckpointError):
            return read_file(path, map_location)
        raise


class _Missing(FileNotFoundError):
    """There is no such file, nor are weights published by that name."""


def _load(
    filename: str,
    map_location: Any,
    read: Callable[[Path, Any], Any],
    fetch: Callable[[str], Path],
) -> Any:
    checkpoint = read(_locate(_unaliased(filename), fetch), map_location)
    if filename.startswith('mmcls://'):
        return without_mmcls_prefix(checkpoint)
    return checkpoint


def hash_of(filename: str) -> str | None:
    """Return the SHA-256 of the file that :func:`read_checkpoint` reads, in hex.

    None for one of a bucket, of which no file stays here.

    Raises:
        CheckpointError: where it cannot be fetched.
        FileNotFoundError: where there is none.
    """
    if any(bucket in filename for bucket in BUCKETS):
        return None
    digest = hashlib.sha256()
    with open(_locate(_unaliased(filename), download), 'rb') as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def _unaliased(filename: str) -> str:
    """Return what a name stands for in the tables of MMEngine, if it is of them."""
    scheme, is_alias, name = filename.partition('://')
    return _look_up(scheme, name) if is_alias and scheme in ALIASES else filename


def _look_up(scheme: str, name: str) -> str:
    """Return the URL, or the path, that MMEngine has for a name.

    Raises:
        CheckpointError: for an unknown name.
    """
    from mmengine.runner import checkpoint as mmengine  # here: it is slow

    table: dict[str, str] = {
        'mmcls': mmengine.get_mmcls_models,
        'torchvision': mmengine.get_torchvision_models,
        'modelzoo': mmengine.get_torchvision_models,
    }.get(scheme, mmengine.get_external_models)()
    if scheme in ('open-mmlab', 'openmmlab'):
        name = mmengine.get_deprecated_model_names().get(name, name)
    if name not in table:
        hint = did_you_mean(name, table) or f'it has {brief(sorted(table))}'
        raise CheckpointError(f'{scheme}:// has no checkpoint {name}; {hint}')
    if table[name].startswith(URLS):
        return table[name]
    home: str = mmengine._get_mmengine_home()
    return os.path.join(home, table[name])


def _locate(filename: str, fetch: Callable[[str], Path]) -> Path:
    """Return where the file of a checkpoint is, fetched if need be."""
    if filename.startswith(URLS):
        return fetch(filename)
    if filename.startswith(HUB_PREFIXES):
        return fetch_from_hub(filename)
    if path := existing_file(filename):
        return path
    try:
        published = get_pretrained(filename)
    except OptionError as error:
        raise _Missing(f'{filename} can not be found.') from error
    if filename.startswith(f'{HUB_OWNER}/'):
        return fetch_from_hub(published.hub_id)
    return fetch(published.url)


def existing_file(name: str) -> Path | None:
    """Return the file of a name; None for one that no file can have, too."""
    try:
        path = Path(name).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # a name too long; the home of nobody
        return None


def check_source(filename: str) -> None:
    """Check that a checkpoint is a file or of a published name, fetching nothing.

    URLs and repositories on the hub pass.

    Raises:
        CheckpointError: for a file that is missing or an unknown name.
    """
    remote = '://' in filename or filename.startswith(HUB_PREFIXES)
    if not remote and not existing_file(filename):
        try:
            get_pretrained(filename)
        except OptionError as error:
            raise CheckpointError(describe_missing(filename, error)) from error


def describe_missing(name: str, unpublished: BaseException | None) -> str:
    """Say what there is in place of a checkpoint that is no file.

    Args:
        name: of no file.
        unpublished: what was raised when it was sought among the published ones.
    """
    folder, last = os.path.split(name)
    is_path = last.endswith(CHECKPOINTS) or folder not in ('', HUB_OWNER)
    if os.path.isdir(name):
        folder, reason = name, f'{name} is a folder; name a file'
    elif is_path:
        reason = f'there is no checkpoint {name}'
    else:
        return f'there is no checkpoint {name}, and {unpublished}'
    found = []
    with suppress(OSError, ValueError):
        found = sorted(n for n in os.listdir(folder or '.') if n.endswith(CHECKPOINTS))
    if len(found) > MANY:
        found[MANY:] = ['...']
    there = f'{folder or "this folder"} has {", ".join(found) or "no checkpoint"}'
    return f'{reason}; {there}'


def download(url: str, folder: str | None = None) -> Path:
    """Download a file, once on each machine, and return where it is.

    Args:
        url: of the file.
        folder: of downloads, by default that of ``torch.hub``.

    Raises:
        CheckpointError: where it cannot be had.
    """
    try:
        return _download(url, folder)
    except (URLError, OSError) as error:
        reason = getattr(error, 'reason', error)
        raise CheckpointError(
            f'cannot download {url} ({reason}). Fetch it elsewhere and put it '
            f'at {download_path(url, folder)}; to train from scratch, set '
            '`init_cfg=None`'
        ) from error


def _download(url: str, folder: str | None = None) -> Path:
    path = download_path(url, folder)
    first_of_node = os.environ.get('LOCAL_RANK', '0') == '0'
    if not path.is_file() and first_of_node:
        path.parent.mkdir(parents=True, exist_ok=True)
        print_log(f'Downloading {url} to {path}', logger='current')
        torch.hub.download_url_to_file(url, str(path))
    barrier()
    return path


def download_path(url: str, folder: str | None = None) -> Path:
    """Return where the file of a URL is kept: one file for each URL.

    By its name alone, as ``torch.hub`` keeps it, where that is of a release, or tells
    the content by a hash.
    """
    folder = folder or os.path.join(torch.hub.get_dir(), 'checkpoints')
    name = Path(urlparse(url).path).name
    if not url.startswith(RELEASES) and not HASHED.search(name):
        name = f'{hashlib.sha256(url.encode()).hexdigest()[:8]}_{name}'
    return Path(folder) / name


def load_from_hub(filename: str, map_location: Any = None) -> Any:
    """Read the weights of a repository on the hub, see :func:`fetch_from_hub`."""
    return read_file(fetch_from_hub(filename), map_location)


def fetch_from_hub(filename: str) -> Path:
    """Download the weights of a repository on the Hugging Face hub.

    Args:
        filename: ``owner/name``, perhaps with ``hf-hub:`` before it and with
            ``@revision`` behind. Of published weights, the file of the release will do
            if it has been downloaded.

    Returns:
        Where the file is.

    Raises:
        CheckpointError: where ``huggingface_hub`` is not installed, or the download
            fails.
    """
    for prefix in HUB_PREFIXES:
        filename = filename.removeprefix(prefix)
    repository, _, revision = filename.partition('@')
    published = None
    if repository.startswith(f'{HUB_OWNER}/'):
        try:
            published = get_pretrained(repository)
        except OptionError as error:
            raise CheckpointError(str(error)) from error
        released = download_path(published.url)
        if released.is_file() and not revision:
            return released

    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f'the hub takes the package huggingface_hub: pip install huggingface_hub. '
            f'{_detour(published)}'
        ) from error
    reason: Exception | None = None
    offline = False
    for name in HUB_FILES:
        try:
            path = hf_hub_download(
                repository, name, revision=revision or None, local_files_only=offline
            )
        except EntryNotFoundError as error:
            reason = reason or error
            # Out of reach once, tried for long, the hub will be so for the next file.
            offline = isinstance(error, LocalEntryNotFoundError)
        except Exception as error:  # of the HTTP library, which differs by version
            reason = error
            break
        else:
            return Path(path)
    raise CheckpointError(
        f'cannot fetch {repository} from the hub ({_first_line(reason)}). '
        f'{_detour(published)}'
    ) from reason


def _detour(published: Pretrained | None) -> str:
    if published is None:
        return (
            f'Fetch its file {" or ".join(HUB_FILES)} elsewhere and give the path of it'
        )
    return (
        f'Or fetch {published.url} elsewhere and put it at '
        f'{download_path(published.url)}'
    )


def _first_line(error: Exception | None) -> str:
    return str(error).strip().partition('\n')[0] or type(error).__name__
