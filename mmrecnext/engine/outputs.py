"""What a test leaves behind: predictions in files, and pictures drawn in.

The functions set a config up for it; the hooks write something of each picture.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.evaluator import DumpResults as MMEngineDumpResults
from mmengine.evaluator import Evaluator
from mmengine.fileio import dump, get
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmrecnext.engine.configs import type_of
from mmrecnext.engine.frameworks import framework_of
from mmrecnext.engine.pictures import SUFFIXES
from mmrecnext.engine.predictions import Predictions, kind_of
from mmrecnext.engine.predictor import displayable, write_image
from mmrecnext.engine.unlabelled import metrics_of
from mmrecnext.errors import ConfigError
from mmrecnext.files import atomic_write, write_file

PICKLES = ('.pkl', '.pickle')


def check_out(cfg: Config, out: str | None):
    """Refuse a place that predictions of this framework cannot go to."""
    if not out:
        return
    of_file = out.endswith((*PICKLES, '.json'))
    kind = kind_of(cfg.default_scope)
    suffix = '.json' if out.endswith('.json') else ''
    if not out.endswith(PICKLES) and suffix not in kind.files:
        raise ConfigError(f'--out {out}: {kind.saved}')
    if of_file == Path(out).is_dir() and Path(out).exists():
        raise ConfigError(f'--out {out} is a {"folder" if of_file else "file"}')
    (Path(out).parent if of_file else Path(out)).mkdir(parents=True, exist_ok=True)


def save_coco_json(cfg: Config, out: str):
    """Have the metric of COCO write what its server takes."""
    metrics = [m for m in metrics_of(cfg) if type_of(m) == 'CocoMetric']
    if not metrics:
        raise ConfigError(f'--out {out}: no CocoMetric in test_evaluator writes it')
    for metric in metrics:
        metric.outfile_prefix = out.removesuffix('.json')


def write_whole(metrics: Iterable[Any]) -> list[str]:
    """Have metrics of COCO write each of their files whole, or not at all.

    Returns:
        The names of these files, once they are written.
    """
    files: list[str] = []
    for metric in metrics:
        if getattr(metric, 'outfile_prefix', None) and hasattr(metric, 'results2json'):
            metric.results2json = _written_elsewhere_first(metric.results2json, files)
    return files


def _written_elsewhere_first(write: Callable, files: list[str]) -> Callable:
    def results2json(results: Any, outfile_prefix: str) -> dict[str, str]:
        with tempfile.TemporaryDirectory() as folder:
            written = write(results, os.path.join(folder, 'found')) or {}
            for file in sorted(Path(folder).iterdir()):
                write_file(_moved(file, outfile_prefix), file.read_bytes())
                files.append(_moved(file, outfile_prefix))
        return {kind: _moved(file, outfile_prefix) for kind, file in written.items()}

    return results2json


def _moved(file: str | Path, prefix: str) -> str:
    return prefix + Path(file).name.removeprefix('found')


class DumpResults(MMEngineDumpResults):
    """MMEngine's, which writes its file whole, or not at all."""

    def compute_metrics(self, results: list) -> dict:
        """Write the predictions; there is no figure of them."""
        with atomic_write(self.out_file_path) as place:
            dump(results, str(place))
        return {}


class DumpHook(Hook):
    """Saves the predictions of a test in a pickle.

    Not as a metric of the config's evaluator, which may be for so many metrics.

    Args:
        out: the file.
    """

    def __init__(self, out: str):
        self.evaluator = Evaluator(DumpResults(out))

    def after_test_iter(self, runner: Runner, batch_idx, data_batch=None, outputs=()):
        """Keep what is predicted of a batch."""
        self.evaluator.process(outputs, data_batch)

    def after_test_epoch(self, runner: Runner, metrics=None):
        """Write the predictions of all processes."""
        self.evaluator.evaluate(len(runner.test_dataloader.dataset))


def drop_idle_metrics(cfg: Config):
    """Leave out metrics that would format label maps and have no folder for them."""
    metrics = metrics_of(cfg)
    used = [
        m
        for m in metrics
        if not (type_of(m) == 'IoUMetric' and m.get('format_only'))
        or m.get('output_dir')
    ]
    if len(used) < len(metrics):
        cfg.test_evaluator = used


def drawing_settings(cfg: Config) -> dict:
    """Return how to draw; a config without a visualizer gets its framework's."""
    framework = framework_of(cfg)
    cfg.setdefault('visualizer', dict(type=framework.visualizer, name='visualizer'))
    hook = cfg.get('default_hooks', {}).get('visualization') or {}
    threshold = hook.get('score_thr', hook.get('kpt_thr', 0.3))
    return dict(kind=kind_of(framework.scope), score_thr=threshold)


def deploy(cfg: Config):
    """Have the model brought into its inference form once its weights are loaded."""
    # Averaged weights are what a checkpoint holds; their hook would swap unlike forms.
    hooks = [h for h in cfg.get('custom_hooks') or () if type_of(h) != 'EMAHook']
    cfg.custom_hooks = [*hooks, dict(type='DeployHook')]


def lower_precision(cfg: Config, dtype: str):
    """Have the model tested in mixed precision, of a type in ``AMP_DTYPES``."""
    cfg.custom_hooks = [
        *(cfg.get('custom_hooks') or ()),
        dict(type='PrecisionHook', dtype=dtype),
    ]


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


def picture_of(sample: Mapping) -> str:
    """Return the path of the picture of a sample, which may stand by its camera."""
    cameras = sample.get('images') or {}
    found: str = next(iter(cameras.values()), sample)['img_path']
    return found


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
            picture_of(dataset.get_data_info(i)) for i in range(len(dataset))
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
        file.parent.mkdir(parents=True, exist_ok=True)
        write_image(Path(f'{file}.png'), labels.astype(depth))


class DrawHook(OutputHook):
    """Draws truth and prediction into each picture.

    Args:
        folder: where to.
        kind: of what is predicted.
        score_thr: least score of what is drawn.
    """

    def __init__(self, folder: str, kind: type[Predictions], score_thr: float):
        super().__init__(folder)
        self.kind = kind
        self.score_thr = score_thr

    def write(self, runner: Runner, sample, file: Path):
        """Draw a picture."""
        suffix = Path(sample.img_path).suffix
        suffix = suffix if suffix.lower() in SUFFIXES else '.png'
        picture = read_picture(sample.img_path, sample.ori_shape)
        draw_into(
            Path(str(file).removesuffix(suffix) + suffix),
            self.kind(runner.test_dataloader.dataset.metainfo),
            runner.visualizer,
            file.name,
            picture,
            sample,
            self.score_thr,
        )


def draw_into(file: Path, kind: Predictions, *drawn: Any) -> None:
    """Draw truth and prediction into a file: whole, or not at all.

    Args:
        file: the picture to write; MMDetection3D adds to its name.
        kind: of what is predicted.
        *drawn: what its ``draw`` takes, from the visualizer on.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        kind.draw(*drawn, out_file=os.path.join(folder, file.name))
        for path in Path(folder).iterdir():
            write_file(file.with_name(path.name), path.read_bytes())


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
