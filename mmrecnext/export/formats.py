"""The formats of exported files, one row each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from mmrecnext.errors import OptionError, did_you_mean
from mmrecnext.export import (
    coreml_file,
    executorch_file,
    onnx_file,
    openvino_file,
    pt2_file,
    torchscript_file,
)
from mmrecnext.export.enlarging import WholeFactors
from mmrecnext.export.proof import Run
from mmrecnext.export.recording import ChannelsFirst, Recording
from mmrecnext.export.reductions import SINGLE, Reduction, halved
from mmrecnext_autoload import choices


@dataclass(frozen=True)
class Format:
    """A way to write a network.

    Args:
        name: what it is called on the command line.
        packages: that it needs, as they are imported and installed.
        write: writes what was recorded.
        read: returns what runs a file, from pictures to outputs by name.
        annotate: writes into a file what it tells of itself, by name.
        told: returns what was written so.
        companions: suffixes of other files that are written with it.
        reductions: by the type of the weights.
        is_folder: whether a file is a folder.
        is_single: whether files take one picture at a time, all of one size.
        graph_dtype: of pictures in the graph, where it is not that of the file.
        elsewhere: why files are not run here, where they are not.
        way: returns what changes how operators are recorded, told whether transposed
            convolutions are to take the place of interpolation.
    """

    name: str
    packages: tuple[str, ...]
    write: Callable[[Recording, Path], None]
    read: Callable[..., Run]
    annotate: Callable[[Path, Mapping[str, str]], None]
    told: Callable[[Path], Mapping[str, str]]
    companions: tuple[str, ...] = ()
    reductions: Mapping[str, Reduction] = field(default_factory=dict)
    is_folder: bool = False
    is_single: bool = False
    graph_dtype: torch.dtype | None = None
    elsewhere: str = ''
    way: Callable[[bool], AbstractContextManager[Any]] | None = None

    @property
    def suffix(self) -> str:
        """What names of its files end in."""
        return choices.FORMATS[self.name]

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The types that weights may have."""
        return (SINGLE, *self.reductions)


COREML: dict[str, Any] = dict(
    read=coreml_file.read,
    annotate=coreml_file.annotate,
    told=coreml_file.told,
    is_single=True,
    graph_dtype=torch.float32,
    elsewhere=coreml_file.ELSEWHERE,
    way=WholeFactors,
)
"""What the two formats of Core ML have in common."""

FORMATS = {
    row.name: row
    for row in (
        Format(
            name='onnx',
            packages=('onnx', 'onnxscript', 'onnxruntime'),
            write=onnx_file.write,
            read=onnx_file.read,
            annotate=onnx_file.annotate,
            told=onnx_file.told,
            reductions={'fp16': Reduction(onnx_file.halve, halved)},
        ),
        Format(
            name='openvino',
            companions=('.bin',),
            packages=('onnx', 'onnxscript', 'openvino'),
            write=openvino_file.write,
            read=openvino_file.read,
            annotate=openvino_file.annotate,
            told=openvino_file.told,
            reductions={
                'fp16': Reduction(openvino_file.halve, halved),
                'int8': Reduction(
                    openvino_file.quantise, packages=('nncf',), is_calibrated=True
                ),
            },
        ),
        Format(
            name='pt2',
            packages=(),
            write=pt2_file.write,
            read=pt2_file.read,
            annotate=pt2_file.annotate,
            told=pt2_file.told,
        ),
        Format(
            name='torchscript',
            packages=(),
            write=torchscript_file.write,
            read=torchscript_file.read,
            annotate=torchscript_file.annotate,
            told=torchscript_file.told,
        ),
        Format(
            name='executorch',
            companions=(executorch_file.BESIDE,),
            packages=('executorch',),
            write=executorch_file.write,
            read=executorch_file.read,
            annotate=executorch_file.annotate,
            told=executorch_file.told,
            is_single=True,
            way=lambda _: ChannelsFirst(),
        ),
        Format(
            name='coreml',
            packages=('coremltools',),
            write=coreml_file.write,
            is_folder=True,
            reductions={'fp16': Reduction(coreml_file.write_half)},
            **COREML,
        ),
        Format(
            name='coreml-nn',
            packages=('coremltools',),
            write=coreml_file.write_layers,
            **COREML,
        ),
    )
}
"""All formats, by name."""


def format_of(file: str | os.PathLike[str]) -> str:
    """Return the format of a file, by what its name ends in.

    Raises:
        OptionError: where that is of none.
    """
    suffix = Path(file).suffix
    for name, known in choices.FORMATS.items():
        if known == suffix:
            return name
    told = ', '.join(f'{known} ({name})' for name, known in choices.FORMATS.items())
    raise OptionError(f'{file}: names of exported files end in {told}')


def find_format(name: str, dtype: str = SINGLE) -> Format:
    """Return a format whose packages are installed.

    Args:
        name: of the format.
        dtype: of the weights.

    Raises:
        OptionError: for an unknown name, a type that the format has not, or a package
            that is missing.
    """
    if name not in FORMATS:
        raise OptionError(
            f'unknown format {name!r}: the formats are {", ".join(FORMATS)}. '
            f'{did_you_mean(name, FORMATS).capitalize()}'.strip()
        )
    row = FORMATS[name]
    if dtype not in row.dtypes:
        known = [f'{each} {" ".join(FORMATS[each].dtypes)}' for each in FORMATS]
        raise OptionError(
            f'{name} files have no weights of {dtype}: {"; ".join(known)}'
        )
    needed = row.packages
    if dtype in row.reductions:
        needed += row.reductions[dtype].packages
    missing = [package for package in needed if find_spec(package) is None]
    if missing:
        raise OptionError(
            f'the format {name} needs packages that are not installed: '
            f'pip install {" ".join(missing)}'
        )
    return row
