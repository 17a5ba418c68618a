"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = re.compile(r'\..+\.\d+\.tmp(\.\w+)?')
"""Names that files have while they are written."""


@contextmanager
def atomic_write(path: str | os.PathLike[str], *companions: str) -> Iterator[Path]:
    """Yield where to write a file that then takes the place of ``path``, at once.

    Whatever ends the writing, a full disk or a kill, ``path`` is the old file or the
    new one. A link is followed; a device, such as ``/dev/stdout``, is written as it is.

    Args:
        path: the file to write, or the folder that is one; what holds it must be there.
        companions: suffixes of files that are written with it, of its name otherwise.
            ``path`` is there only beside those that are its own: for a moment, not at
            all; and so is a folder.

    Yields:
        A path in the same folder, with the same suffix.

    Raises:
        OSError: where the file cannot be written, of its name; it is then as it was.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    beside = path.with_name(f'.{path.stem}.{os.getpid()}.tmp{path.suffix}')
    places = {
        beside.with_suffix(suffix): path.with_suffix(suffix) for suffix in companions
    } | {beside: path}
    try:
        yield beside
        for new, old in places.items():
            if old.is_file():
                shutil.copymode(old, new)
            for part in (*new.rglob('*'), new):
                _flush_to_disk(part)
        if companions or path.is_dir():
            _remove(path)
        for new, old in places.items():
            os.replace(new, old)
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        elif (name := Path(str(error.filename))) in places:
            error.filename = str(places[name])
        raise
    finally:
        for new in places:
            _remove(new)
    if os.name == 'posix':
        _flush_to_disk(path.parent)


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file as of :func:`atomic_write`."""
    with atomic_write(path) as place:
        place.write_bytes(content)


def remove_unfinished(folder: str | os.PathLike[str]) -> None:
    """Remove what :func:`atomic_write` left in a folder when it was killed."""
    for path in Path(folder).iterdir():
        if UNFINISHED.fullmatch(path.name):
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    """Have the system keep a file, or the names in a folder, beyond a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
