"""Find a checkpoint: a file, a URL, a published name, a repository on the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier
from mmengine.logging import print_log

from mmrecnext.checkpoint.files import read_file
from mmrecnext.errors import CheckpointError, OptionError
from mmrecnext.pretrained import HUB_OWNER, HUB_PREFIXES, Pretrained, get_pretrained

HUB_FILES = ('model.safetensors', 'pytorch_model.bin')
"""Names that timm gives to the weights in a repository, the one to prefer first."""


def register_loaders():
    """Have MMEngine read checkpoints through this module, wherever it loads one."""
    from mmengine.runner.checkpoint import CheckpointLoader  # here: it is slow

    CheckpointLoader.register_scheme('', loader=load_from_local, force=True)
    CheckpointLoader.register_scheme(
        ('http://', 'https://'), loader=load_from_http, force=True
    )
    CheckpointLoader.register_scheme(HUB_PREFIXES, loader=load_from_hub, force=True)


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Read a checkpoint file, or fetch the published weights of that name.

    Args:
        filename: path, or a name such as ``recnext_m3.dist_300e_in1k``, see
            :func:`~mmrecnext.pretrained.get_pretrained`. With the owner before it,
            ``suous/``, it is sought on the hub, else among the releases. A file of that
            name goes first.
        map_location: see :func:`~mmrecnext.checkpoint.files.read_file`.

    Raises:
        CheckpointError: for a file that is missing, broken or would run code, or
            weights that cannot be fetched.
    """
    path = Path(filename).expanduser()
    if path.is_file():
        return read_file(path, map_location)
    published = _published(filename)
    if filename.startswith(f'{HUB_OWNER}/'):
        return load_from_hub(published.hub_id, map_location)
    return load_from_http(published.url, map_location)


def check_source(filename: str):
    """Check that a checkpoint is a file or of a published name, fetching nothing.

    URLs and repositories on the hub pass.

    Raises:
        CheckpointError: for a file that is missing or an unknown name.
    """
    remote = '://' in filename or filename.startswith(HUB_PREFIXES)
    if not remote and not Path(filename).expanduser().is_file():
        _published(filename)


def _published(name: str) -> Pretrained:
    try:
        return get_pretrained(name)
    except OptionError as error:
        raise CheckpointError(f'there is no checkpoint {name}, and {error}') from error


def load_from_http(
    filename: str, map_location: Any = None, model_dir: str | None = None
) -> Any:
    """Download a checkpoint, once on each machine, and read it.

    Args:
        filename: URL.
        map_location: see :func:`~mmrecnext.checkpoint.files.read_file`.
        model_dir: folder of downloads, by default that of ``torch.hub``.

    Raises:
        CheckpointError: where the download or the file fails.
    """
    path = download_path(filename, model_dir)
    first_of_node = os.environ.get('LOCAL_RANK', '0') == '0'
    if not path.is_file() and first_of_node:
        path.parent.mkdir(parents=True, exist_ok=True)
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


def download_path(url: str, folder: str | None = None) -> Path:
    """Return where the file of a URL is kept."""
    folder = folder or os.path.join(torch.hub.get_dir(), 'checkpoints')
    return Path(folder) / Path(urlparse(url).path).name


def load_from_hub(filename: str, map_location: Any = None) -> Any:
    """Download the weights of a repository on the Hugging Face hub, and read them.

    Args:
        filename: ``owner/name``, perhaps with ``hf-hub:`` before it and with
            ``@revision`` behind. Of published weights, the file of the release will do
            if it has been downloaded.
        map_location: see :func:`~mmrecnext.checkpoint.files.read_file`.

    Raises:
        CheckpointError: where ``huggingface_hub`` is not installed, or the download or
            the file fails.
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
            return read_file(released, map_location)

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
            return read_file(path, map_location)
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
