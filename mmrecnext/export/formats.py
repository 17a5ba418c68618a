"""The formats of exported files, one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor
from torch.export import ExportedProgram

from mmrecnext.errors import OptionError, did_you_mean
from mmrecnext.export import onnx_file


@dataclass(frozen=True)
class Format:
    """A way to write a network.

    Args:
        name: what it is called on the command line.
        suffix: what names of its files end in.
        packages: that it needs, as they are imported and installed.
        write: writes a graph, given the names of its outputs.
        read: returns what runs a file, from pictures to outputs by name.
        annotate: writes into a file what it tells of itself, by name.
        told: returns what was written so.
    """

    name: str
    suffix: str
    packages: tuple[str, ...]
    write: Callable[[ExportedProgram, Sequence[str], Path], None]
    read: Callable[[Path], Callable[[Tensor], Mapping[str, Tensor]]]
    annotate: Callable[[Path, Mapping[str, str]], None]
    told: Callable[[Path], Mapping[str, str]]


FORMATS = {
    row.name: row
    for row in (
        Format(
            name='onnx',
            suffix='.onnx',
            packages=('onnx', 'onnxscript', 'onnxruntime'),
            write=onnx_file.write,
            read=onnx_file.read,
            annotate=onnx_file.annotate,
            told=onnx_file.told,
        ),
    )
}
"""All formats, by name."""


def find_format(name: str) -> Format:
    """Return a format whose packages are installed.

    Raises:
        OptionError: for an unknown name, or a package that is missing.
    """
    if name not in FORMATS:
        raise OptionError(
            f'unknown format {name!r}: the formats are {", ".join(FORMATS)}. '
            f'{did_you_mean(name, FORMATS).capitalize()}'.strip()
        )
    row = FORMATS[name]
    missing = [package for package in row.packages if find_spec(package) is None]
    if missing:
        raise OptionError(
            f'the format {name} needs packages that are not installed: '
            f'pip install {" ".join(missing)}'
        )
    return row
