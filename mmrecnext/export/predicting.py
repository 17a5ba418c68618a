"""Written detectors and segmentors in the place of what they were written from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmrecnext.engine.data import leaf_datasets
from mmrecnext.engine.data.names import classes_of
from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.engine.predictions import registered
from mmrecnext.errors import ExportError, brief
from mmrecnext.export.exported import open_exported
from mmrecnext.export.proof import Results
from mmrecnext.ops.labels import Enlargement, label_map
from mmrecnext.ops.masks import paste_masks
from mmrecnext.registry import MODELS

TASKS = {
    'detection': ('mmdet', 'CocoDataset', 'PackDetInputs'),
    'segmentation': ('mmseg', 'BaseSegDataset', 'PackSegInputs'),
}
"""Framework, dataset and last transform that pictures of a task go through."""

META_KEYS = ('img_path', 'ori_shape', 'img_shape', 'scale_factor')


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
        self.file = open_exported(file).load()
        scope, *_ = _parts(file, self.file.about)
        segments = FRAMEWORKS[scope].predicts == 'label map'
        self.predict = _segments if segments else _instances

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
        enlarge = Enlargement(size, about['align_corners'])
        labels = label_map(cut['logits'], enlarge, about.get('threshold'))
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
