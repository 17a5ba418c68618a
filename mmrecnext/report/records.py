"""What a report keeps of each picture of a test, in a file that another can read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmrecnext.errors import ConfigError
from mmrecnext.files import write_file

FILE = 'report.json.gz'
"""What a report can be made of anew, in its folder."""

VERSION = 1


@dataclass
class Object:
    """An object in a picture, there or found.

    Args:
        label: its class, by number.
        box: x1, y1, x2, y2, in pixels of the picture.
        score: of one that was found.
        mask: in COCO's compressed run lengths, if there are masks.
        ignored: whether it counts as neither found nor missed, such as a crowd.
    """

    label: int
    box: list[float]
    score: float = 1.0
    mask: dict[str, Any] | None = None
    ignored: bool = False


@dataclass
class Picture:
    """What is in a picture, and what was found there.

    Args:
        path: of the file.
        size: height and width, in pixels.
        truth: its objects, of data for detection.
        found: those that were found.
        confusion: of data for segmentation: how many pixels of a class were taken for
            which, as ``{class: {predicted: pixels}}``.
        labels: the label map that was predicted, a PNG in base64.
        true_labels: the one of the truth, likewise.
    """

    path: str
    size: tuple[int, int]
    truth: list[Object] = field(default_factory=list)
    found: list[Object] = field(default_factory=list)
    confusion: dict[int, dict[int, int]] = field(default_factory=dict)
    labels: str = ''
    true_labels: str = ''


@dataclass
class Evaluation:
    """An evaluation that was run.

    Args:
        title: name of the config.
        predicts: ``instances`` or ``label map``.
        classes: names of the classes.
        figures: what the metrics of the config gave.
        facts: what was run, and on what, as lines of a table.
        score_thr: least score of a detection that counts as found in a picture.
        pictures: all of the test.
    """

    title: str
    predicts: str
    classes: list[str]
    figures: dict[str, float]
    facts: dict[str, str]
    score_thr: float
    pictures: list[Picture]

    def save(self, folder: Path) -> None:
        """Write it into a folder.

        Raises:
            OSError: where it cannot be written.
        """
        content = {'version': VERSION, **asdict(self)}
        text = json.dumps(content, separators=(',', ':'))
        write_file(folder / FILE, gzip.compress(text.encode(), mtime=0))

    @classmethod
    def load(cls, folder: Path) -> Evaluation:
        """Read the one of another report.

        Raises:
            ConfigError: where the folder has none that can be read.
        """
        file = folder / FILE
        if not file.is_file():
            raise ConfigError(f'{folder} is no folder of a report: it has no {FILE}')
        try:
            content = json.loads(gzip.decompress(file.read_bytes()))
            if (version := content.pop('version')) != VERSION:
                raise ConfigError(
                    f'{file} is of version {version} of reports, which are now of '
                    f'{VERSION}: write it anew'
                )
            content['pictures'] = [_picture(**p) for p in content['pictures']]
            return cls(**content)
        except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f'{file} cannot be read: {error}') from error


def _picture(
    truth: Sequence[Any], found: Sequence[Any], confusion: dict, **rest: Any
) -> Picture:
    return Picture(
        truth=[Object(**x) for x in truth],
        found=[Object(**x) for x in found],
        # JSON has numbers as keys only in the form of text.
        confusion={
            int(k): {int(p): n for p, n in row.items()} for k, row in confusion.items()
        },
        **rest,
    )
