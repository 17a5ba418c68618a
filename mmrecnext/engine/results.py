"""What a test leaves behind for each picture: label maps, and pictures drawn in."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import mmcv
import numpy as np
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmrecnext.engine.predictor import displayable

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
"""Of pictures that OpenCV writes."""


def output_names(paths: Iterable[str]) -> dict[str, Path]:
    """Name a file for each picture, below the folder that holds all of them.

    Args:
        paths: of the pictures; they may lie in several folders.

    Returns:
        Of each, a relative path without its suffix; with it where two would be one.
    """
    paths = [*dict.fromkeys(map(str, paths))]
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in paths])
    names = {p: Path(os.path.relpath(p, folder)) for p in paths}
    stems = [name.with_suffix('') for name in names.values()]
    if len(set(stems)) < len(stems):
        return names
    return dict(zip(names, stems, strict=True))


class OutputHook(Hook):
    """Writes something of each picture of a test.

    Args:
        folder: where to; those of pictures in several folders go to several below it.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder)

    def before_test(self, runner: Runner):
        """Name the files."""
        dataset = runner.test_dataloader.dataset
        self.names = output_names(
            dataset.get_data_info(i)['img_path'] for i in range(len(dataset))
        )

    def after_test_iter(self, runner: Runner, batch_idx, data_batch=None, outputs=()):
        """Write the files of a batch."""
        for sample in outputs:
            self.write(runner, sample, self.folder / self.names[sample.img_path])

    def write(self, runner: Runner, sample, file: Path):
        """Write what is to be written of a picture, in ``file`` and a suffix."""
        raise NotImplementedError


class LabelMapHook(OutputHook):
    """Writes the label map of each picture, as the data set counts its classes.

    With ``reduce_zero_label`` that is from 1. A grey PNG of 8 bits, or of 16 where
    these are too few.
    """

    def write(self, runner: Runner, sample, file: Path):
        """Write a label map."""
        first = int(bool(sample.metainfo.get('reduce_zero_label')))
        labels = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.int64) + first
        classes = runner.test_dataloader.dataset.metainfo.get('classes') or ()
        depth = np.uint8 if len(classes) + first <= 256 else np.uint16
        mmcv.imwrite(labels.astype(depth), str(file) + '.png')


class DrawHook(OutputHook):
    """Draws truth and prediction into each picture.

    Args:
        folder: where to.
        settings: further ones of the visualizer's ``add_datasample``.
    """

    def __init__(self, folder: str, **settings):
        super().__init__(folder)
        self.settings = settings

    def write(self, runner: Runner, sample, file: Path):
        """Draw a picture."""
        suffix = Path(sample.img_path).suffix
        suffix = suffix if suffix.lower() in SUFFIXES else '.png'
        picture = read_picture(sample.img_path, sample.ori_shape)
        out_file = str(file).removesuffix(suffix) + suffix
        runner.visualizer.add_datasample(
            file.name, picture, sample, out_file=out_file, **self.settings
        )


def read_picture(path: str, size: tuple[int, int]) -> np.ndarray:
    """Read a picture for people to look at.

    Args:
        path: of any number of bands and bits.
        size: height and width of what the model saw.

    Returns:
        ``[H, W, 3]``, uint8, RGB; turned as EXIF says if the model's was.
    """
    content = get(path)
    whole = mmcv.imfrombytes(content, 'unchanged')
    if whole.dtype != np.uint8 or whole.shape[2:] > (4,):  # EXIF turns none of these
        return np.ascontiguousarray(displayable(whole)[..., ::-1])
    picture = mmcv.imfrombytes(content, channel_order='rgb')
    if picture.shape[:2] != tuple(size[:2]):
        flag = 'color_ignore_orientation'
        picture = np.ascontiguousarray(mmcv.imfrombytes(content, flag)[..., ::-1])
    return picture
