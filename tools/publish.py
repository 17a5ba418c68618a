#!/usr/bin/env python
"""Turn a checkpoint of a classifier into the forms in which it is released.

These are OUT-HASH.pth ({'model': weights}), OUT-HASH.safetensors, and, for inference,
OUT_fused-HASH.pt (TorchScript), where HASH begins the SHA-256 of the file.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

from mmrecnext_autoload.arguments import (
    add_ema_argument,
    add_model_argument,
    begin,
    command_line,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(
        __doc__,
        'python tools/publish.py recnext_m3 last.pth.tar released/recnext_m3 --ema',
    )
    add_model_argument(parser, 'model')
    parser.add_argument('checkpoint', help='its weights, as training saved them')
    parser.add_argument(
        'out', help='how the files begin, such as released/recnext_m3_distill_300e'
    )
    add_ema_argument(parser)
    return parser.parse_args()


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

from mmrecnext.checkpoint.convert import content_of
from mmrecnext.checkpoint.fit import is_fused
from mmrecnext.classification import load_classifier
from mmrecnext.cli import run
from mmrecnext.engine.terminal import counted
from mmrecnext.errors import CheckpointError
from mmrecnext.files import write_file
from mmrecnext.models.classifier import Classifier

HASH_LENGTH = 8
RELEASED = {'.pth': 'published', '.safetensors': 'safetensors', '_fused.pt': 'fused'}
"""Forms by how their files end; the last one leaves the model fused."""


def main(args: argparse.Namespace):
    """Write the three files and name them."""
    model = load_classifier(args.model, args.checkpoint, args.ema)
    with counted('writing', len(RELEASED), 'files') as advance:
        for file in publish(model, Path(args.out)):
            print(file)
            advance()


def publish(model: Classifier, out: Path) -> Iterator[Path]:
    """Write the released forms of a classifier, which is fused in the end.

    Args:
        model: in inference mode.
        out: what the names of the files begin with.

    Yields:
        The path of each file.

    Raises:
        CheckpointError: for a model that is fused already.
    """
    if is_fused(model.state_dict()):
        raise CheckpointError(
            'the weights are fused already: publish the checkpoint of training'
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    for end, form in RELEASED.items():
        content = content_of(model, form)
        digest = hashlib.sha256(content).hexdigest()[:HASH_LENGTH]
        name = Path(out.name + end)
        file = out.with_name(f'{name.stem}-{digest}{name.suffix}')
        write_file(file, content)
        yield file


if __name__ == '__main__':
    run(main, args)
