"""Watches a test, and writes its report."""

from __future__ import annotations

import base64
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from pycocotools import mask as coco_mask

from mmrecnext.checkpoint.sources import hash_of
from mmrecnext.engine.configs import type_of
from mmrecnext.engine.data import tested_dataset
from mmrecnext.engine.frameworks import framework_of
from mmrecnext.engine.predictions import run_lengths
from mmrecnext.errors import ConfigError
from mmrecnext.report.comparison import comparison
from mmrecnext.report.drawing import Writer
from mmrecnext.report.page import Cell, Section, Table, write_page
from mmrecnext.report.records import Evaluation, Object, Picture
from mmrecnext.report.sections import figures_of, subject
from mmrecnext.version import __version__

LEAST_SCORE = 0.001
"""Detections below are not kept: they change no figure."""

SUBTITLE = ('model', 'backbone', 'data', 'date')
"""Facts that stand below the title."""

MIB = 2**20


class Recorder(BaseMetric):
    """Keeps what was predicted of each picture; gives no figures.

    In the form of a metric, so that what several processes predict is brought together.

    Args:
        dataset: of the test, which knows the truth.
    """

    def __init__(self, dataset: Any):
        super().__init__()
        self.dataset = dataset
        infos = (dataset.get_data_info(i) for i in range(len(dataset)))
        self.truth = {info['img_path']: info for info in infos}
        self.pictures: list[Picture] = []

    def process(self, data_batch: Any, data_samples: Sequence[Mapping]) -> None:
        """Keep what is predicted of a batch."""
        for sample in data_samples:
            path, size = sample['img_path'], [*map(int, sample['ori_shape'][:2])]
            picture = Picture(path, (size[0], size[1]))
            if 'pred_sem_seg' in sample:
                self._add_labels(picture, sample)
            else:
                picture.truth = true_objects(self.truth[path], picture.size)
                picture.found = found_objects(sample['pred_instances'])
            self.results.append(picture)

    def _add_labels(self, picture: Picture, sample: Mapping) -> None:
        predicted = sample['pred_sem_seg']['data'].squeeze().cpu().numpy()
        truth = sample['gt_sem_seg']['data'].squeeze().cpu().numpy()
        count = len(self.dataset.metainfo['classes'])
        picture.confusion = confusion_of(truth, predicted, count)
        picture.labels, picture.true_labels = map(as_png, (predicted, truth))

    def compute_metrics(self, results: list[Picture]) -> dict[str, float]:
        """Take the pictures of all processes; there are no figures in it."""
        self.pictures = results
        return {}


def found_objects(instances: Mapping[str, Any]) -> list[Object]:
    """Return the detections of a sample."""
    scores = instances['scores'].tolist()
    boxes, labels = instances['bboxes'].tolist(), instances['labels'].tolist()
    masks: Any = instances.get('masks')
    if masks is not None:
        masks = np.asarray(masks.cpu() if isinstance(masks, torch.Tensor) else masks)
    return [
        Object(
            label,
            [round(x, 2) for x in box],
            score,
            None if masks is None else run_lengths(masks[i]),
        )
        for i, (label, box, score) in enumerate(zip(labels, boxes, scores, strict=True))
        if score >= LEAST_SCORE
    ]


def true_objects(info: Mapping[str, Any], size: tuple[int, int]) -> list[Object]:
    """Return the objects that a dataset of MMDetection says to be in a picture."""
    return [
        Object(
            int(instance['bbox_label']),
            [float(x) for x in instance['bbox']],
            mask=true_mask(instance.get('mask'), size),
            ignored=bool(instance.get('ignore_flag')),
        )
        for instance in info.get('instances', ())
    ]


def true_mask(mask: Any, size: tuple[int, int]) -> dict[str, Any] | None:
    """Return polygons, or run lengths, in compressed run lengths."""
    if not mask:
        return None
    if isinstance(mask, list):
        mask = coco_mask.merge(coco_mask.frPyObjects(mask, *size))
    elif isinstance(mask['counts'], list):
        mask = coco_mask.frPyObjects(mask, *mask['size'])
    return readable(mask)


def readable(mask: Mapping[str, Any]) -> dict[str, Any]:
    """Return run lengths as JSON takes them."""
    counts = mask['counts']
    counts = counts.decode() if isinstance(counts, bytes) else counts
    return {'size': [int(x) for x in mask['size']], 'counts': counts}


def as_png(labels: np.ndarray) -> str:
    """Return a label map as a PNG in base64."""
    depth = np.uint8 if labels.max() < 256 else np.uint16
    _, content = cv2.imencode('.png', labels.astype(depth))
    return base64.b64encode(content.tobytes()).decode()


def confusion_of(
    truth: np.ndarray, predicted: np.ndarray, count: int
) -> dict[int, dict[int, int]]:
    """Count the pixels of each class that were taken for which.

    Args:
        truth: label map; what is no class is not counted.
        predicted: label map, of the same size.
        count: of the classes.
    """
    known = (truth >= 0) & (truth < count)
    pairs = truth[known].astype(np.int64) * count + predicted[known]
    rows: dict[int, dict[int, int]] = {}
    for pair, pixels in zip(*np.unique(pairs, return_counts=True), strict=True):
        rows.setdefault(int(pair // count), {})[int(pair % count)] = int(pixels)
    return rows


def check_report(
    cfg: Config, folder: str | None, against: str | None, missing: str | None
) -> None:
    """Refuse, before a test, what no report can be made of.

    Args:
        cfg: the config.
        folder: where to write the report, if any.
        against: folder of another report to compare with, if any.
        missing: file or folder without annotations, see ``missing_annotations``.

    Raises:
        ConfigError: naming what is in the way.
    """
    if not folder:
        raise ConfigError('--against is for --report FOLDER')
    if missing:
        raise ConfigError(f'--report: {missing} has no annotations to measure against')
    framework = framework_of(cfg)
    kinds = {'PanopticFPN', 'MaskFormer', 'Mask2Former'}
    if framework.predicts not in ('instances', 'label map'):
        raise ConfigError(
            f'--report is for detectors and segmentors, not for {framework.scope}'
        )
    head = cfg.model.get('panoptic_fusion_head') or {}
    if type_of(cfg.model) in kinds and head.get('num_stuff_classes'):
        raise ConfigError('--report is not for panoptic models: take --show-dir')
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ConfigError(f'--report {folder} is a file; name a folder')
    if against and Path(against).resolve() == Path(folder).resolve():
        raise ConfigError(f'--against {against} is the folder of this very report')
    if against:
        other = Evaluation.load(Path(against))
        if other.predicts != framework.predicts:
            raise ConfigError(
                f'--against {against} is about {other.predicts}s, and this test about '
                f'{framework.predicts}s'
            )


class ReportHook(Hook):
    """Writes a report of a test once it has been evaluated.

    Args:
        folder: where to.
        title: of the page.
        weights: checkpoint or exported file that is tested.
        against: folder of another report, to compare with.
        options: how the network ran, such as ``--deploy``.
        score_thr: least score of a detection that counts as found in a picture.
    """

    priority = 'LOW'

    def __init__(
        self,
        folder: str,
        title: str,
        weights: str,
        against: str | None = None,
        options: str = '',
        score_thr: float = 0.3,
    ):
        self.folder, self.title, self.weights = Path(folder), title, weights
        self.score_thr = score_thr
        self.against = Path(against) if against else None
        self.options = options

    def before_test(self, runner: Runner) -> None:
        """Begin to record."""
        self.recorder = Recorder(runner.test_dataloader.dataset)
        self.evaluator = Evaluator(self.recorder)  # the config's is for so many metrics
        self.seconds: list[float] = []
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Look at the clock."""
        self.start = time.perf_counter()

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=()
    ) -> None:
        """Look again; what is measured ends with predictions on the CPU or a GPU."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append((time.perf_counter() - self.start) / max(len(outputs), 1))
        self.evaluator.process(outputs, data_batch)

    def after_test_epoch(self, runner: Runner, metrics=None) -> None:
        """Write the report, in the first process."""
        self.evaluator.evaluate(len(runner.test_dataloader.dataset))
        if not is_main_process():
            return
        pictures = self.recorder.pictures
        evaluation = Evaluation(
            title=self.title,
            predicts='label map' if any(p.labels for p in pictures) else 'instances',
            classes=[*self.recorder.dataset.metainfo['classes']],
            figures={k: float(v) for k, v in (metrics or {}).items()},
            facts=self.facts(runner),
            score_thr=self.score_thr,
            pictures=pictures,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        evaluation.save(self.folder)
        self.write(evaluation, runner.visualizer)

    def write(self, evaluation: Evaluation, visualizer: Visualizer) -> None:
        """Write the page of an evaluation, ``index.html``, and what it shows."""
        own = subject(Writer(self.folder, evaluation, visualizer))
        sections = [figures_of(evaluation)]
        if self.against:
            other = Evaluation.load(self.against)
            theirs = subject(Writer(self.folder, other, visualizer))
            sections.append(comparison(own, theirs))
        sections += own.sections()
        facts = evaluation.facts
        rows = [[Cell(k), Cell(v)] for k, v in facts.items()]
        sections.append(Section('Run', tables=[Table((), rows, 'facts')]))
        subtitle = ', '.join(facts[k] for k in SUBTITLE if k in facts)
        write_page(self.folder / 'index.html', evaluation.title, subtitle, sections)

    def facts(self, runner: Runner) -> dict[str, str]:
        """Say what was run, and on what."""
        cfg = runner.cfg
        framework = framework_of(cfg)
        model = getattr(runner.model, 'module', runner.model)
        backbone = cfg.model.get('backbone') or {}
        digest = None if Path(self.weights).is_dir() else hash_of(self.weights)
        dataset = tested_dataset(cfg, 'that is reported on')
        times = sorted(self.seconds) or [0.0]
        facts = {
            'config': str(cfg.filename),
            'weights': self.weights + (f' (SHA-256 {digest[:8]})' if digest else ''),
            'model': type_of(cfg.model),
            'backbone': ' '.join(
                [type_of(backbone), *([str(a)] if (a := backbone.get('arch')) else [])]
            ),
            'parameters': f'{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M',
            'data': f'{len(self.recorder.dataset)} pictures of '
            f'{dataset.get("data_root") or dataset.get("ann_file") or "the config"}',
            'options': self.options,
            'time of a picture': f'{times[len(times) // 2] * 1e3:.0f} ms (median of '
            f'{len(times)} steps, batch of {cfg.test_dataloader.get("batch_size", 1)})',
            'peak memory': peak_memory(),
            'device': device(),
            'versions': versions(framework.scope),
            'date': time.strftime('%Y-%m-%d %H:%M'),
        }
        return {k: str(v) for k, v in facts.items() if v}


def peak_memory() -> str:
    """Say how much memory the process took at most, and the GPU."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    said = f'{resident / MIB:.0f} MiB'
    if torch.cuda.is_available():
        said += f', {torch.cuda.max_memory_allocated() / MIB:.0f} MiB of the GPU'
    return said


def device() -> str:
    """Say what was computed on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f'CPU, {torch.get_num_threads()} threads'


def versions(scope: str) -> str:
    """Say which versions were used."""
    from importlib import import_module
    from platform import python_version

    names = ('torch', 'mmengine', 'mmcv', scope)
    said = [f'{name} {import_module(name).__version__}' for name in names]
    return ', '.join([f'mmrecnext {__version__}', *said, f'Python {python_version()}'])
