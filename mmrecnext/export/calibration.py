"""Pictures that a network is measured with before its numbers become integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as transforms

from mmrecnext.engine.data import tested_dataset
from mmrecnext.engine.pictures import SUFFIXES, in_colours
from mmrecnext.engine.predictor import PREPARES, middles, split_pipeline
from mmrecnext.errors import ConfigError, OptionError, brief
from mmrecnext.pretrained import INPUT_SIDE, SHORT_SIDE

FEWEST, MOST = 100, 300
"""Numbers of pictures: ranges of fewer are a matter of luck, and more tell no more."""

Reader = Callable[[Path], Tensor]


class Calibration(Sequence[Tensor]):
    """Pictures of a folder, ``[3, H, W]`` each, read when they are asked for.

    Args:
        folder: whose files to take, ``MOST`` at most, spread over their names.
        read: reads one of them as a test would.

    Raises:
        OptionError: where there is no such folder, or too few pictures in it.
        ConfigError: for files that cannot be read.
    """

    def __init__(self, folder: str | Path, read: Reader):
        self.read = read
        self.files = _files(Path(folder))
        reasons = {file.name: _problem(file, read) for file in self.files}
        failed = {name: reason for name, reason in reasons.items() if reason}
        if failed:
            raise ConfigError(
                f'{folder}: {len(failed)} of {len(reasons)} pictures cannot be read: '
                f'{brief(failed)} ({next(iter(failed.values()))})'
            )

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        """Read one, or several."""
        if isinstance(index, slice):
            return [self.read(file) for file in self.files[index]]
        return self.read(self.files[index])


def pipeline_reader(cfg: Config) -> Reader:
    """Return what reads pictures as the test of a config does.

    Raises:
        ConfigError: for a config without test data.
    """
    dataset = tested_dataset(cfg, PREPARES)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        load, prepare = split_pipeline(dataset.get('pipeline') or ())

    def read(file: Path) -> Tensor:
        image: Tensor = prepare(load(dict(img_path=str(file), img_id=0)))['inputs']
        return image

    return read


def crop_reader(
    size: tuple[int, int] | None, side: int = INPUT_SIDE, short_side: int = SHORT_SIDE
) -> Reader:
    """Return what reads the middle of pictures, as classifiers are tested.

    Args:
        size: height and width that are left; None for what the model is made for.
        side: of the squares that it is made for, in pixels.
        short_side: of the pictures that these are cut out of, in pixels.
    """
    height, width = size or (side, side)
    short = round(max(height, width) * short_side / side)
    bicubic = transforms.InterpolationMode.BICUBIC

    def read(file: Path) -> Tensor:
        with Image.open(file) as opened:
            image = transforms.resize(in_colours(opened), [short], bicubic)
        return transforms.pil_to_tensor(transforms.center_crop(image, [height, width]))

    return read


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise OptionError(f'there is no folder {folder} to calibrate with')
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if len(files) < FEWEST:
        raise OptionError(
            f'{folder} holds {len(files)} pictures ({" ".join(SUFFIXES)}): it takes '
            f'{FEWEST} or more to calibrate'
        )
    return middles(files, MOST)


def _problem(file: Path, read: Reader) -> str:
    """Return why a picture cannot be read, or nothing."""
    try:
        read(file)
    except Exception as error:  # whatever the libraries raise that decode pictures
        return [*str(error).strip().splitlines(), type(error).__name__][0]
    return ''
