"""What PyTorch's files have in common: zip archives with texts of any name in them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

OUTPUTS = 'mmrecnext.outputs'
"""The text that names the outputs, which PyTorch's files only number."""


def named(outputs: Sequence[str]) -> dict[str, str]:
    """Return the text that names outputs."""
    return {OUTPUTS: json.dumps(outputs)}


def told(file: Path) -> dict[str, str]:
    """Return the texts in a file, by name."""
    with zipfile.ZipFile(file) as archive:
        return {
            Path(name).name: archive.read(name).decode()
            for name in archive.namelist()
            if Path(name).parent.name.startswith('extra')
        }


def runner(
    module: Callable[[Tensor], Any], file: Path
) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return what runs a network that was read from a file, outputs by name."""
    outputs = json.loads(told(file)[OUTPUTS])

    def run(images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return dict(zip(outputs, module(images), strict=True))

    return run
