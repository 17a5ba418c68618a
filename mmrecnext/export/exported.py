"""Written files in use: read, and run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmrecnext.errors import ExportError
from mmrecnext.export.formats import Format, find_format, format_of
from mmrecnext.export.images import made_up
from mmrecnext.export.proof import Results, Run
from mmrecnext.export.write import PICTURES, PREFIX
from mmrecnext.pretrained import MEAN, STD


@dataclass(frozen=True)
class ExportedFile:
    """A written file.

    Args:
        path: where it is.
        row: its format.
        about: what it tells of itself, by name.
    """

    path: Path
    row: Format
    about: Mapping[str, Any]

    @cached_property
    def run(self) -> Run:
        """What turns pictures ``[N, 3, H, W]`` of its type into outputs, by name.

        Raises:
            ExportError: where the file is broken, or is not run here.
        """
        with _readable(self.path):
            return self.row.read(self.path)

    def load(self) -> ExportedFile:
        """Have it ready to run, and what :attr:`run` raises raised at once."""
        _ = self.run
        return self

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that it takes; None for any."""
        size = self.about['size']
        return None if size == 'free' else tuple(size)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers of its pictures."""
        return PICTURES[self.about['pictures']]

    def __call__(self, image: Tensor) -> Results:
        """Run a picture ``[3, H, W]``; a smaller one than it takes is made up.

        Raises:
            ExportError: for a larger picture.
        """
        image = image.to(self.dtype)
        if self.size and self.size != image.shape[1:]:
            image = made_up(image, self.size, self.about['preparation'])
        return self.run(image[None].contiguous())


def open_exported(path: str | Path) -> ExportedFile:
    """Read what a written file tells; it is loaded when it runs.

    Args:
        path: its name, which tells its format.

    Raises:
        OptionError: where a package is missing that runs it.
        ExportError: for one that ``export`` has not written, or that is broken.
        FileNotFoundError: where there is none.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'there is no file {path}')
    row = find_format(format_of(path))
    with _readable(path):
        told = row.told(path)
    about = {
        key.removeprefix(PREFIX): _value(text)
        for key, text in told.items()
        if key.startswith(PREFIX)
    }
    if 'task' not in about:
        raise ExportError(f'{path} tells no task: tools/export.py has not written it')
    return ExportedFile(path, row, about)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say in a line what is wrong with a file, whatever libraries raise."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ExportError(f'{path} cannot be read: {reason[0]}') from error


def _value(text: str) -> Any:
    """Read what ``metadata`` has written: JSON, or a text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


class ExportedClassifier(nn.Module):
    """A written classifier, for pictures as timm prepares them.

    Args:
        file: name of the file.

    Raises:
        ExportError: for a file of another task.
    """

    def __init__(self, file: str):
        super().__init__()
        self.file = open_exported(file).load()
        if self.file.about['task'] != 'classification':
            raise ExportError(f'{file} is no classifier')
        self.num_classes = len(self.file.about['classes'])

    def forward(self, images: Tensor) -> Tensor:
        """Turn normalised pictures ``[N, 3, H, W]`` into ``[N, classes]``."""
        mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
        pictures = ((images * std + mean) * 255).round()  # as they were read
        return torch.cat([self.file(image)['logits'] for image in pictures])
