"""A trained detector or segmentor that predicts pictures, as a test of it would."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
    DATASETS,
    TRANSFORMS,
    VISUALIZERS,
    Registry,
    init_default_scope,
)
from mmengine.structures import BaseDataElement
from pycocotools import mask as coco_mask

from mmrecnext.checkpoint import load_network
from mmrecnext.engine.build import build_network
from mmrecnext.engine.data import tested_dataset
from mmrecnext.engine.frameworks import framework_of
from mmrecnext.engine.precision import infer_in
from mmrecnext.engine.segmentation import bound_memory
from mmrecnext.errors import ConfigError
from mmrecnext.files import atomic_write, write_file
from mmrecnext.models.fusion import switch_to_deploy

T = TypeVar('T')

PREPARES = 'whose pipeline prepares the pictures'
"""What a dataset is for."""


class Predictor:
    """A trained model of either framework, with the pipeline of its test data.

    Args:
        cfg: its config; ``test_dataloader.dataset.pipeline`` prepares the pictures, as
            it does in a test, but for what loads annotations.
        checkpoint: its weights: path, URL or name; None of a model that has them.
        device: where to run.
        score_thr: least score of a detection that is described or drawn.
        deploy: whether to bring it into its inference form.
        dtype: ``fp32``, or of mixed precision ``bf16``, or on a GPU ``fp16``.

    Attributes:
        model (nn.Module): the model.
        classes (Sequence[str]): names of the classes, in the order of the labels.

    Raises:
        ConfigError: for a config without test data, or class names, or for fp16 on a
            CPU.
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
    ):
        init_default_scope(cfg.default_scope)
        dataset = tested_dataset(cfg, PREPARES)
        self.load, self.prepare = split_pipeline(dataset.get('pipeline') or ())
        if 'backbone' in cfg.model:
            cfg.model.backbone.init_cfg = None  # the checkpoint holds it
        model = build_network(cfg.model, cfg.default_scope)
        saved = load_network(model, checkpoint) if checkpoint else {}
        self.model: Any = model.to(device).eval()
        count = getattr(getattr(model, 'decode_head', None), 'num_classes', None)
        self.meta = describe_classes(saved.get('meta') or {}, dataset, count)
        self.classes = self.meta['classes']
        self.score_thr = score_thr
        if deploy:
            switch_to_deploy(self.model)
        if dtype != 'fp32':
            infer_in(self.model, dtype)
        bound_memory(self.model)
        options = cfg.get('visualizer') or dict(
            type=framework_of(cfg).visualizer, name='predictor'
        )
        options = {k: v for k, v in options.items() if k != 'vis_backends'}
        self.visualizer = VISUALIZERS.build(options)
        self.visualizer.dataset_meta = self.meta

    def __call__(self, file: str | Path) -> tuple[np.ndarray, BaseDataElement]:
        """Predict a picture.

        Args:
            file: the picture, read as the pipeline does.

        Returns:
            The picture as the pipeline has read it, ``[H, W]`` or ``[H, W, C]`` of any
            number type, and the sample of the framework, on the CPU.

        Raises:
            ConfigError: for a file that cannot be read.
        """
        reason = ''
        try:
            results = self.load(dict(img_path=str(file), img_id=0))
        except (OSError, AssertionError, cv2.error, AttributeError) as error:
            results, reason = None, f' ({str(error).strip().splitlines()[0]})'
        if not results or results.get('img') is None:
            raise ConfigError(f'{file} is not an image that can be read{reason}')
        picture = results['img']
        batch = pseudo_collate([self.prepare(results)])
        with torch.no_grad():
            return picture, self.model.test_step(batch)[0].cpu()

    def frames(self, video: Path) -> Iterator[tuple[np.ndarray, BaseDataElement]]:
        """Predict each frame of a video; see :meth:`__call__`."""
        with tempfile.TemporaryDirectory() as folder:
            # A file without loss, for the pipeline to read it as it reads pictures.
            file = Path(folder, 'frame.bmp')
            for frame in mmcv.VideoReader(str(video)):
                cv2.imwrite(str(file), frame)
                yield self(file)

    def film(self, video: Path, out_file: Path) -> list[dict[str, Any]]:
        """Draw the predictions of a video into another, MPEG-4, whole or not at all.

        Returns:
            What was found, as ``describe`` says it, and the number of the frame,
            counted from 0, of each.

        Raises:
            ConfigError: where the one cannot be read or the other be written.
        """
        reader = mmcv.VideoReader(str(video))
        if not len(reader):
            raise ConfigError(f'{video} is not a video that OpenCV can read')
        found = []
        size = reader.resolution
        fourcc = cv2.VideoWriter.fourcc(*'mp4v')
        with atomic_write(out_file) as place:
            writer = cv2.VideoWriter(str(place), fourcc, reader.fps or 25, size)
            if not writer.isOpened():
                raise ConfigError(f'cannot write {out_file}')
            for index, (picture, sample) in enumerate(self.frames(video)):
                writer.write(cv2.resize(self.draw(picture, sample), size))
                found.append({'frame': index, **self.describe(sample)})
            writer.release()
        return found

    def draw(self, picture: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """Draw a prediction.

        Args:
            picture: as :meth:`__call__` returns it.
            sample: likewise.

        Returns:
            ``[H, W, 3]``, uint8, BGR.
        """
        options: dict[str, Any] = {'draw_gt': False, 'show': False}
        if 'pred_instances' in sample:
            options['pred_score_thr'] = self.score_thr
        rgb = np.ascontiguousarray(displayable(picture)[..., ::-1])
        self.visualizer.add_datasample('picture', rgb, sample, **options)
        drawn: np.ndarray = self.visualizer.get_image()
        return drawn[..., ::-1]

    def describe(self, sample: BaseDataElement) -> dict[str, Any]:
        """Say what was found, ready for JSON.

        Returns:
            ``detections``: class, score, box (x1, y1, x2, y2 in pixels) and mask (RLE)
            of each; or ``segments`` of a panoptic map, class and share of the pixels of
            each; or ``shares``, of the pixels, of each class that occurs.
        """
        if 'pred_panoptic_seg' in sample:
            return {'segments': self._describe_panoptic(sample.pred_panoptic_seg)}
        if 'pred_instances' in sample:
            return {'detections': self._describe_instances(sample.pred_instances)}
        labels = label_map_of(sample)
        names, counts = np.unique(labels, return_counts=True)
        shares = (counts / labels.size).tolist()
        return {
            'shares': {
                self._name(label): round(share, 4)
                for label, share in zip(names, shares, strict=True)
            }
        }

    def _describe_instances(self, instances: Any) -> list[dict[str, Any]]:
        instances = instances[instances.scores >= self.score_thr]
        detections = []
        for i in range(len(instances)):
            detection = {
                'class': self._name(instances.labels[i]),
                'score': round(instances.scores[i].item(), 4),
                'box': [round(x, 2) for x in instances.bboxes[i].tolist()],
            }
            if 'masks' in instances:
                mask = np.asfortranarray(instances.masks[i].numpy().astype(np.uint8))
                rle = coco_mask.encode(mask)
                detection['mask'] = {**rle, 'counts': rle['counts'].decode()}
            detections.append(detection)
        return detections

    def _describe_panoptic(self, panoptic: Any) -> list[dict[str, Any]]:
        from mmdet.evaluation.functional import INSTANCE_OFFSET

        ids, counts = np.unique(panoptic.sem_seg.numpy(), return_counts=True)
        shares = (counts / counts.sum()).tolist()
        return [
            {'class': self._name(label), 'share': round(share, 4)}
            for label, share in zip(ids % INSTANCE_OFFSET, shares, strict=True)
            if label < len(self.classes)  # what is beyond is no class
        ]

    def _name(self, label: int) -> str:
        if label >= len(self.classes):
            raise ConfigError(
                f'the model tells the class {int(label)}, counted from 0, but there '
                f'are names of {len(self.classes)} classes: `num_classes` of its heads '
                'and `metainfo.classes` of the data must agree'
            )
        name: str = self.classes[label]
        return name


def registered(name: str, registry: Registry) -> type | None:
    """Return what a name stands for in the framework of the config."""
    with registry.switch_scope_and_registry(None) as own:
        found: type | None = own.get(name)
    return found


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


def describe_classes(
    meta: Mapping[str, Any], dataset: Mapping[str, Any], count: int | None = None
) -> dict[str, Any]:
    """Return names and colours of the classes.

    Args:
        meta: of a checkpoint, whose names go first: the model was trained with them.
        dataset: of the config: its ``metainfo``, else what its type has by itself.
        count: of the classes that the model tells, where it is known. Names of another
            number of classes in the checkpoint are not those of this model.

    Raises:
        ConfigError: where there are no names.
    """
    own = getattr(registered(dataset['type'], DATASETS), 'METAINFO', None) or {}
    config = dataset.get('metainfo')
    config = {**own, **(config if isinstance(config, Mapping) else {})}
    saved = meta.get('dataset_meta') or meta
    saved = {str(k).lower(): v for k, v in saved.items()}
    if len(saved.get('classes') or ()) != count == len(config.get('classes') or ()):
        saved = {}
    classes = saved.get('classes') or config.get('classes')
    if not classes:
        raise ConfigError(
            'neither the checkpoint nor the config has names of classes: set '
            '`metainfo=dict(classes=...)` in `test_dataloader.dataset`'
        )
    classes = (classes,) if isinstance(classes, str) else tuple(classes)
    fits = len(config.get('palette') or ()) == len(classes)
    palette = saved.get('palette') or (config['palette'] if fits else None)
    if palette is None or isinstance(palette, str):
        # MMSegmentation does not draw without.
        colours = np.random.RandomState(0).randint(0, 256, (len(classes), 3))
        palette = colours.tolist()
    return {**config, **saved, 'classes': classes, 'palette': palette}


def label_map_of(sample: BaseDataElement) -> np.ndarray:
    """Return the label map of a segmentor's sample, ``[H, W]``, int64."""
    labels: np.ndarray = sample.pred_sem_seg.data[0].numpy()
    return labels.astype(np.int64)


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
