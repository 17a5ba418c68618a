"""A trained model of a framework that predicts pictures, as a test of it would."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import mmcv
import numpy as np
import torch
from mmcv.transforms import Compose
from mmcv.transforms import LoadAnnotations as MMCVLoadAnnotations
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import (
    TRANSFORMS,
    VISUALIZERS,
    DefaultScope,
    init_default_scope,
)
from mmengine.structures import BaseDataElement
from numpy.typing import ArrayLike

from mmrecnext.checkpoint import load_network
from mmrecnext.engine.build import build_network, whole_model
from mmrecnext.engine.data import tested_dataset
from mmrecnext.engine.data.files import is_no_file
from mmrecnext.engine.frameworks import framework_of
from mmrecnext.engine.pasting import paste_in_boxes
from mmrecnext.engine.precision import infer_in
from mmrecnext.engine.predictions import kind_of, label_map_of, registered
from mmrecnext.engine.segmentation import bound_memory
from mmrecnext.errors import ConfigError
from mmrecnext.files import atomic_write, write_file
from mmrecnext.models.fusion import switch_to_deploy

T = TypeVar('T')

PREPARES = 'whose pipeline prepares the pictures'
"""What a dataset is for."""

MOST_BOXES = 32
"""Of a picture that are predicted at once."""


class Predictor:
    """A trained model of a framework, with the pipeline of its test data.

    Args:
        cfg: its config; ``test_dataloader.dataset.pipeline`` prepares the pictures, as
            it does in a test, but for what loads annotations.
        checkpoint: its weights: path, URL or name; None of a model that has them.
        device: where to run.
        score_thr: least score of a detection that is described or drawn.
        deploy: whether to bring it into its inference form.
        dtype: ``fp32``, or of mixed precision ``bf16``, or on a GPU ``fp16``.
        boxes_of: of a top-down pose estimator, what returns the boxes of people in a
            picture, as :meth:`__call__` takes them; see :mod:`mmrecnext.engine.boxes`.

    Attributes:
        model (nn.Module): the model.
        classes (Sequence[str]): names of the classes, in the order of the labels.

    Raises:
        ConfigError: for a config without test data, or class names, or for fp16 on a
            CPU; or for a model that takes more than a picture, or no boxes.
        CheckpointError: for weights that do not fit.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str | None,
        device: str = 'cpu',
        score_thr: float = 0.3,
        deploy: bool = False,
        dtype: str = 'fp32',
        boxes_of: Callable[[str | Path], ArrayLike] | None = None,
    ):
        kind = kind_of(cfg.default_scope)
        if kind.beside:
            raise ConfigError(
                f'{framework_of(cfg).name} takes a picture and {kind.beside}: '
                'tools/test.py has both, and draws with --show-dir'
            )
        self.scope = cfg.default_scope
        init_default_scope(self.scope)
        dataset = tested_dataset(cfg, PREPARES)
        self.load, self.prepare = split_pipeline(dataset.get('pipeline') or ())
        if 'backbone' in cfg.model:
            cfg.model.backbone.init_cfg = None  # the checkpoint holds it
        model = build_network(whole_model(cfg), self.scope)
        saved = load_network(model, checkpoint) if checkpoint else {}
        self.model: Any = model.to(device).eval()
        self.meta = kind.read_meta(saved.get('meta') or {}, dataset, model)
        self.kind = kind(self.meta)
        self.boxes_of = boxes_of
        if boxes_of is not None:
            self._check_taken()
        self.classes = self.meta['classes']
        self.score_thr = score_thr
        if deploy:
            switch_to_deploy(self.model)
        if dtype != 'fp32':
            infer_in(self.model, dtype)
        bound_memory(self.model)
        paste_in_boxes(self.model)
        options = cfg.get('visualizer') or dict(type=framework_of(cfg).visualizer)
        options = {k: v for k, v in options.items() if k != 'vis_backends'}
        options.setdefault('name', 'predictor')
        self.visualizer = VISUALIZERS.build(options)
        self.visualizer.dataset_meta = self.meta

    def __call__(
        self, file: str | Path, boxes: ArrayLike | None = None
    ) -> tuple[np.ndarray, BaseDataElement]:
        """Predict a picture.

        Args:
            file: the picture, read as the pipeline does.
            boxes: of a top-down pose estimator, ``[N, 4]``, x1, y1, x2, y2 in pixels of
                each person, or ``[N, 5]``, with a score; in none, nothing is found.
                Without, those of ``boxes_of``, or else the whole picture.

        Returns:
            The picture as the pipeline has read it, ``[H, W]`` or ``[H, W, C]`` of any
            number type, and the sample of the framework, on the CPU.

        Raises:
            ConfigError: for a file that cannot be read, or not be prepared; for boxes
                that are none, or are not taken.
        """
        if boxes is not None:
            self._check_taken()
        elif self.boxes_of is not None:
            boxes = self.boxes_of(file)
        # Another predictor may have been built since, of another framework.
        with torch.no_grad(), DefaultScope.overwrite_default_scope(self.scope):
            picture, inputs = self._read(file, boxes)
            samples = [
                sample.cpu()
                for i in range(0, len(inputs), MOST_BOXES)
                for sample in self.model.test_step(
                    pseudo_collate(inputs[i : i + MOST_BOXES])
                )
            ]
        return picture, self.kind.merge(samples)

    def read(self, file: str | Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Read a picture, and make of all of it what the model takes.

        See :meth:`__call__`.
        """
        picture, (inputs,) = self._read(file, None)
        return picture, inputs

    def _check_taken(self) -> None:
        if not self.kind.takes_boxes(self.model):
            raise ConfigError(
                'boxes of people are for top-down pose estimators of MMPose; '
                f'{type(self.model).__name__} sees the whole picture'
            )

    def _read(
        self, file: str | Path, boxes: ArrayLike | None
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Return what the model takes for each box; see :meth:`__call__`."""
        if is_no_file(str(file)):
            raise ConfigError(f'{file} is not a file')
        reason = ''
        try:
            results = self.load(dict(img_path=str(file), img_id=0))
        except (OSError, AssertionError, cv2.error, AttributeError) as error:
            results, reason = None, f' ({str(error).strip().splitlines()[0]})'
        if not results or results.get('img') is None:
            raise ConfigError(f'{file} is not an image that can be read{reason}')
        picture = results['img']
        places = [None] if boxes is None else checked_boxes(boxes, file, picture)
        try:
            return picture, [self._prepare(results, place) for place in places]
        except Exception as error:  # of any transform
            told = f'{type(error).__name__}: {error}'.strip().splitlines()[0]
            raise ConfigError(
                f'{file}, of {" x ".join(map(str, picture.shape[:2]))} pixels (height '
                'x width), cannot be prepared as the pipeline of '
                f'`test_dataloader.dataset` says ({told})'
            ) from error

    def _prepare(
        self, results: Mapping[str, Any], box: np.ndarray | None
    ) -> dict[str, Any]:
        own = dict(results)
        self.kind.add_inputs(own, box)
        inputs: dict[str, Any] = self.prepare(own)
        return inputs

    def frames(self, video: Path) -> Iterator[tuple[np.ndarray, BaseDataElement]]:
        """Predict each frame of a video; see :meth:`__call__`."""
        with tempfile.TemporaryDirectory() as folder:
            # A file without loss, for the pipeline to read it as it reads pictures.
            file = Path(folder, 'frame.bmp')
            for frame in mmcv.VideoReader(str(video)):
                file.write_bytes(cv2.imencode(file.suffix, frame)[1].tobytes())
                yield self(file)

    def film(
        self, video: Path, out_file: Path, each: Callable[[], object] = lambda: None
    ) -> list[dict[str, Any]]:
        """Draw the predictions of a video into another, MPEG-4, whole or not at all.

        Args:
            video: to predict.
            out_file: to write.
            each: is called after each frame.

        Returns:
            What was found, as ``describe`` says it, and the number of the frame,
            counted from 0, of each.

        Raises:
            ConfigError: where the one cannot be read or the other be written.
        """
        reader = mmcv.VideoReader(str(video))
        if reader.read() is None:  # the number of frames is not always told
            raise ConfigError(f'{video} is not a video that OpenCV can read')
        found: list[dict[str, Any]] = []
        size = reader.resolution
        fourcc = cv2.VideoWriter.fourcc(*'mp4v')
        with atomic_write(out_file) as place:
            writer = cv2.VideoWriter(str(place), fourcc, reader.fps or 25, size)
            if not writer.isOpened():
                raise ConfigError(f'cannot write {out_file}')
            for index, (picture, sample) in enumerate(self.frames(video)):
                writer.write(cv2.resize(self.draw(picture, sample), size))
                found.append({'frame': index, **self.describe(sample)})
                each()
            writer.release()  # which tells nothing of a disk that is full
            if mmcv.VideoReader(str(place)).frame_cnt != len(found):
                raise OSError(errno.EIO, 'not all of the video can be written')
        return found

    def draw(self, picture: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """Draw a prediction.

        Args:
            picture: as :meth:`__call__` returns it.
            sample: likewise.

        Returns:
            ``[H, W, 3]``, uint8, BGR.
        """
        rgb = np.ascontiguousarray(displayable(picture)[..., ::-1])
        options = dict(draw_gt=False, show=False)
        with DefaultScope.overwrite_default_scope(self.scope):
            self.kind.draw(
                self.visualizer, 'picture', rgb, sample, self.score_thr, **options
            )
        drawn: np.ndarray = self.visualizer.get_image()
        return drawn[..., ::-1]

    def describe(self, sample: BaseDataElement) -> dict[str, Any]:
        """Say what was found, ready for JSON.

        Returns:
            What ``describe`` of the kind of predictions does, by one word:
            ``detections`` or ``segments``, ``shares``, ``poses`` or ``classes``.
        """
        return self.kind.describe(sample, self.score_thr)


def checked_boxes(
    boxes: ArrayLike, file: str | Path, picture: np.ndarray
) -> np.ndarray:
    """Return the boxes of a picture with scores, ``[N, 5]``.

    Args:
        boxes: ``[N, 4]`` or ``[N, 5]``, see :class:`Predictor`.
        file: the picture's.
        picture: ``[H, W]`` or ``[H, W, C]``.

    Raises:
        ConfigError: naming the first that is none, or lies outside.
    """
    try:
        numbers = np.asarray(boxes, np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(1)
    if numbers.size == 0:
        return np.empty((0, 5))
    if numbers.ndim != 2 or numbers.shape[1] not in (4, 5):
        raise ConfigError(
            f'{file}: boxes are rows of x1, y1, x2, y2 and maybe a score, got '
            f'{boxes!r:.80}'
        )
    height, width = picture.shape[:2]
    for x1, y1, x2, y2, *score in numbers:
        inside = min(x2, width) > max(x1, 0) and min(y2, height) > max(y1, 0)
        if not (inside and np.isfinite([x1, y1, x2, y2, *score]).all()):
            raise ConfigError(
                f'{file}: a box from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g}) has nothing '
                f'of the picture, which is {width} pixels wide and {height} high'
            )
    scored: np.ndarray = np.c_[numbers, np.ones((len(numbers), 5 - numbers.shape[1]))]
    return scored


def frames_of(video: Path) -> int:
    """Return how many frames a video says that it has, 0 of one that tells none."""
    return max(0, int(mmcv.VideoReader(str(video)).frame_cnt))


def split_pipeline(pipeline: Sequence[Any]) -> tuple[Compose, Compose]:
    """Build the transforms of a test: those that read the picture, and the rest.

    What loads annotations is left out: there need not be any.

    Raises:
        ConfigError: where none of them reads a picture.
    """
    steps = []
    for step in pipeline:
        kind = step['type'] if isinstance(step, Mapping) else type(step)
        kind = registered(kind, TRANSFORMS) if isinstance(kind, str) else kind
        if not (isinstance(kind, type) and issubclass(kind, MMCVLoadAnnotations)):
            steps.append(TRANSFORMS.build(step) if isinstance(step, Mapping) else step)
    reads = [i for i, step in enumerate(steps) if 'Load' in type(step).__name__]
    if not reads:
        raise ConfigError(
            'the pipeline of `test_dataloader.dataset` begins with no transform that '
            'reads a picture, such as LoadImageFromFile'
        )
    first = reads[0] + 1
    return Compose(steps[:first]), Compose(steps[first:])


def write_image(file: Path, image: np.ndarray) -> None:
    """Write an image, ``[H, W]`` or BGR ``[H, W, 3]``: whole, or not at all.

    Raises:
        ConfigError: where OpenCV does not write it in such a file.
    """
    written, content = cv2.imencode(file.suffix, image)
    if not written:
        raise ConfigError(f'cannot write {file}')
    write_file(file, content.tobytes())


def write_label_map(file: Path, sample: BaseDataElement) -> None:
    """Write a label map as a grey PNG, of 16 bits where 8 do not hold its numbers."""
    labels = label_map_of(sample)
    file.parent.mkdir(exist_ok=True)
    write_image(file, labels.astype(np.uint8 if labels.max() < 256 else np.uint16))


def middles(items: Sequence[T], count: int) -> list[T]:
    """Choose items spread over a sequence, by their place alone.

    Args:
        items: the sequence, to be cut into ``count`` parts as equal as can be.
        count: of those to choose.

    Returns:
        The item in the middle of each part, in order; all of no more than ``count``.
    """
    count = min(count, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def tile(pictures: Sequence[np.ndarray], gap: int = 6) -> np.ndarray:
    """Put pictures side by side, on white, three columns to two rows or nearly so.

    Args:
        pictures: each ``[H, W, 3]``, uint8, of any size.
        gap: pixels between them.

    Returns:
        ``[H, W, 3]``, uint8.
    """
    columns = int(np.ceil(np.sqrt(len(pictures) * 1.5)))
    height = max(p.shape[0] for p in pictures) + gap
    width = max(p.shape[1] for p in pictures) + gap
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * height - gap, columns * width - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * height, i % columns * width
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet


def displayable(picture: np.ndarray) -> np.ndarray:
    """Return what a person can look at, of a picture of any bands and numbers.

    Args:
        picture: ``[H, W]`` or ``[H, W, C]``; the first three of more bands are taken,
            the first of two.

    Returns:
        ``[H, W, 3]``, uint8; numbers beyond 8 bits are scaled, the largest to 255.
    """
    bands = picture[..., None] if picture.ndim == 2 else picture
    bands = bands[..., :3] if bands.shape[2] >= 3 else bands[..., :1].repeat(3, 2)
    if bands.dtype != np.uint8:
        bands = np.nan_to_num(bands.astype(np.float32))
        top = bands.max(initial=0)
        scale = 255 / top if top > 255 or 0 < top <= 1 else 1
        bands = (bands * scale).clip(0, 255).astype(np.uint8)
    return bands
