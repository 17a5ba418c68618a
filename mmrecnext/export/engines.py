"""What runs written files, to be compared: one row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from mmrecnext.errors import OptionError
from mmrecnext.export.formats import FORMATS
from mmrecnext.export.proof import Run


@dataclass(frozen=True)
class Engine:
    """Something that runs files.

    Args:
        name: what it is called on the command line; its package, too.
        format: whose way to read a file is its own, a name in ``FORMATS``.
        suffixes: of the files that it reads.
        dtypes: that it computes in, by their names of this library, and what the
            reader takes for each.
    """

    name: str
    format: str
    suffixes: tuple[str, ...]
    dtypes: Mapping[str, Mapping[str, str]] = field(
        default_factory=lambda: {'fp32': {}}
    )

    @property
    def is_installed(self) -> bool:
        """Whether its package can be imported."""
        return find_spec(self.name) is not None

    def read(self, file: str | Path, dtype: str = 'fp32') -> Run:
        """Return what runs a file.

        Args:
            file: its name.
            dtype: to compute in, one of ``dtypes``.
        """
        return FORMATS[self.format].read(Path(file), **self.dtypes[dtype])


ENGINES = {
    row.name: row
    for row in (
        Engine('onnxruntime', format='onnx', suffixes=('.onnx',)),
        Engine(
            'openvino',
            format='openvino',
            suffixes=('.onnx', '.xml'),
            dtypes={
                'fp32': {'precision': 'f32'},
                'bf16': {'precision': 'bf16'},
                'fp16': {'precision': 'f16'},
            },
        ),
    )
}
"""All engines, by name."""


def engines_for(file: str, asked: Sequence[str] | None = None) -> list[str]:
    """Return the engines that read a file, by its suffix.

    Args:
        file: its name.
        asked: those to choose from; by default all that are installed.

    Raises:
        OptionError: where there is none, or one that is asked for is not installed.
    """
    suffix = Path(file).suffix
    readers = [row for row in ENGINES.values() if suffix in row.suffixes]
    if not readers:
        known = dict.fromkeys(x for row in ENGINES.values() for x in row.suffixes)
        raise OptionError(f'{file}: files that are timed end in {", ".join(known)}')
    chosen = [row for row in readers if asked is None or row.name in asked]
    if not chosen:
        names = ' or '.join(row.name for row in readers)
        others = ' or '.join(asked or ())
        raise OptionError(f'{file} is run by {names}, not by {others}')
    missing = [row.name for row in chosen if not row.is_installed]
    if len(missing) == len(chosen) or (missing and asked):
        raise OptionError(f'{file} is run by {", ".join(missing)}: pip install it')
    return [row.name for row in chosen if row.is_installed]
