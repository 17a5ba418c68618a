"""Written files in use: read, and run in the place of what they were written from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor, nn

from mmrecnext.engine.data import leaf_datasets
from mmrecnext.engine.data.names import classes_of
from mmrecnext.engine.predictor import registered
from mmrecnext.engine.segmentation import label_map
from mmrecnext.errors import ExportError, brief
from mmrecnext.export.formats import FORMATS, find_format
from mmrecnext.export.images import made_up
from mmrecnext.export.masks import paste_masks
from mmrecnext.export.proof import Results, Run
from mmrecnext.export.write import PICTURES, PREFIX
from mmrecnext.pretrained import MEAN, STD
from mmrecnext.registry import MODELS

TASKS = {
    'detection': ('mmdet', 'CocoDataset', 'PackDetInputs'),
    'segmentation': ('mmseg', 'BaseSegDataset', 'PackSegInputs'),
}
"""Framework, dataset and last transform that pictures of a task go through."""

META_KEYS = ('img_path', 'ori_shape', 'img_shape', 'scale_factor')


def is_exported(name: str) -> bool:
    """Tell whether a name is one of a written file, by its suffix."""
    return Path(name).suffix in {row.suffix for row in FORMATS.values()}


@dataclass(frozen=True)
class ExportedFile:
    """A written file.

    Args:
        path: where it is.
        about: what it tells of itself, by name.
        run: turns pictures ``[N, 3, H, W]`` of the type that it takes into outputs, by
            name.
    """

    path: Path
    about: Mapping[str, Any]
    run: Run

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that it takes; None for any."""
        size = self.about['size']
        return None if size == 'free' else tuple(size)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers of its pictures."""
        return PICTURES[self.about['pictures']]

    def __call__(self, image: Tensor) -> Results:
        """Run a picture ``[3, H, W]``; a smaller one than it takes is made up.

        Raises:
            ExportError: for a larger picture.
        """
        image = image.to(self.dtype)
        if self.size and self.size != image.shape[1:]:
            image = made_up(image, self.size, self.about['preparation'])
        return self.run(image[None].contiguous())


def open_exported(path: str | Path) -> ExportedFile:
    """Open a written file.

    Args:
        path: its name, which tells its format.

    Raises:
        OptionError: where a package is missing that runs it.
        ExportError: for one that ``export`` has not written, or that is broken.
        FileNotFoundError: where there is none.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'there is no file {path}')
    name = next(row.name for row in FORMATS.values() if row.suffix == path.suffix)
    row = find_format(name)
    try:
        told = row.told(path)
        about = {
            key.removeprefix(PREFIX): _value(text)
            for key, text in told.items()
            if key.startswith(PREFIX)
        }
        run = row.read(path) if 'task' in about else None
    except Exception as error:  # of other libraries, by whatever they raise
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ExportError(f'{path} cannot be read: {reason[0]}') from error
    if run is None:
        raise ExportError(f'{path} tells no task: tools/export.py has not written it')
    return ExportedFile(path, about, run)


def _value(text: str) -> Any:
    """Read what ``metadata`` has written: JSON, or a text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@MODELS.register_module()
class Exported(BaseModel):
    """A written detector or segmentor, as a runner or a predictor takes a model.

    It predicts pictures one by one, and what it finds goes back to the size that they
    had before the pipeline.

    Args:
        file: name of the file.

    Raises:
        ExportError: for a file of another task.
    """

    def __init__(self, file: str):
        super().__init__()
        self.file = open_exported(file)
        scope, *_ = _parts(file, self.file.about)
        self.scope = scope
        self.predict = _instances if scope == 'mmdet' else _segments

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse what needs the network itself: losses and features."""
        raise ExportError(f'{self.file.path} predicts, and does nothing else')

    def test_step(self, data: Any) -> list[BaseDataElement]:
        """Predict a batch of a data loader, and add what is found to its samples."""
        samples: list[BaseDataElement] = data['data_samples']
        for image, sample in zip(data['inputs'], samples, strict=True):
            found = self.file(image)
            for name, value in self.predict(found, sample, self.file.about).items():
                setattr(sample, name, value)
        return samples

    val_step = test_step


def _segments(
    found: Results, sample: Any, about: Mapping[str, Any]
) -> dict[str, PixelData]:
    """Return the label map of a picture, at the size that it had.

    It follows from logits, as MMSegmentation enlarges them, if the file has these; if
    not, labels are those of the nearest pixels.
    """
    height, width = sample.img_shape[:2]
    size = tuple(sample.ori_shape[:2])
    cut = {name: value[..., :height, :width] for name, value in found.items()}
    if 'logits' in cut:
        labels = label_map(
            cut['logits'][0], size, about['align_corners'], about.get('threshold')
        )
    else:
        nearest = F.interpolate(cut['labels'][:, None].float(), size, mode='nearest')
        labels = nearest[0, 0].long()
    return dict(pred_sem_seg=PixelData(data=labels[None]))


def _instances(
    found: Results, sample: Any, about: Mapping[str, Any]
) -> dict[str, InstanceData]:
    """Return what was found in a picture, at the size that it had.

    Masks in boxes are pasted there, as MMDetection does it; pasted ones become those of
    the nearest pixels.
    """
    kept = found['labels'][0] >= 0
    dets = found['dets'][0][kept]
    scale = dets.new_tensor(sample.get('scale_factor', (1.0, 1.0)))
    boxes = dets[:, :4] / scale.repeat(2)
    instances = InstanceData(
        bboxes=boxes, scores=dets[:, 4], labels=found['labels'][0][kept]
    )
    if 'masks' in found:
        masks, size = found['masks'][0][kept], tuple(sample.ori_shape[:2])
        if about['masks'] == 'box':
            threshold = about['test_cfg']['rcnn']['mask_thr_binary']
            instances.masks = paste_masks(masks, boxes, size, threshold)
        else:
            height, width = sample.img_shape[:2]
            masks = masks[None, :, :height, :width].to(torch.uint8)
            instances.masks = F.interpolate(masks, size, mode='nearest')[0] > 0
    return dict(pred_instances=instances)


class ExportedClassifier(nn.Module):
    """A written classifier, for pictures as timm prepares them.

    Args:
        file: name of the file.

    Raises:
        ExportError: for a file of another task.
    """

    def __init__(self, file: str):
        super().__init__()
        self.file = open_exported(file)
        if self.file.about['task'] != 'classification':
            raise ExportError(f'{file} is no classifier')
        self.num_classes = len(self.file.about['classes'])

    def forward(self, images: Tensor) -> Tensor:
        """Turn normalised pictures ``[N, 3, H, W]`` into ``[N, classes]``."""
        mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
        pictures = ((images * std + mean) * 255).round()  # as they were read
        return torch.cat([self.file(image)['logits'] for image in pictures])


def config_of(file: str) -> Config:
    """Return a config whose model is a written file, and whose data are as it tells.

    Raises:
        ExportError: for a file of another task, or none.
    """
    about = open_exported(file).about
    scope, dataset, pack = _parts(file, about)
    palette = [tuple(colour) for colour in about['palette']]
    metainfo = dict(classes=about['classes'], palette=palette)
    pipeline = [
        dict(type='LoadImageFromFile'),
        *map(_with_tuples, about['resize']),
        dict(type=pack, meta_keys=META_KEYS),
    ]
    return Config(
        dict(
            default_scope=scope,
            model=dict(type='mmrecnext.Exported', file=str(file)),
            test_dataloader=dict(
                dataset=dict(type=dataset, metainfo=metainfo, pipeline=pipeline)
            ),
        )
    )


def put_in_place(file: str, cfg: Config) -> None:
    """Have a written file predict in the place of the model of a config.

    Args:
        file: its name.
        cfg: changed.

    Raises:
        ExportError: for a file of another task, or of other classes than the data.
    """
    about = open_exported(file).about
    scope, *_ = _parts(file, about)
    if scope != cfg.default_scope:
        raise ExportError(
            f'{file} is of {about["task"]}, the config of {cfg.default_scope}'
        )
    dataset = next(leaf_datasets(cfg.test_dataloader.dataset))
    with DefaultScope.overwrite_default_scope(scope):
        kind = registered(dataset['type'], DATASETS)
    known = classes_of(dataset, kind) if kind else ()
    own = about['classes']
    if known and list(known) != own:
        raise ExportError(
            f'{file} is of {len(own)} classes ({brief(own)}), the data of the config '
            f'of {len(known)} ({brief(known)})'
        )
    cfg.model = dict(type='mmrecnext.Exported', file=str(file))
    cfg.pop('data_preprocessor', None)  # the file does what this would


def _with_tuples(value: Any) -> Any:
    """Turn the lists of JSON into the tuples that transforms ask for."""
    if isinstance(value, Mapping):
        return {key: _with_tuples(part) for key, part in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _parts(file: str, about: Mapping[str, Any]) -> tuple[str, str, str]:
    if about['task'] not in TASKS:
        raise ExportError(
            f'{file} is of {about["task"]}: only files of {" or ".join(TASKS)} predict '
            'pictures here'
        )
    return TASKS[about['task']]
