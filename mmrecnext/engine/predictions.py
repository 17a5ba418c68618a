"""What the samples of a framework hold: how it is named, described and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.registry import DATASETS, Registry
from mmengine.structures import BaseDataElement, InstanceData
from mmengine.visualization import Visualizer
from pycocotools import mask as coco_mask

from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.errors import ConfigError

ROTATED = 5
"""Numbers of a rotated box."""

MOST_CLASSES = 5
"""Classes of a picture that are told, the likeliest ones."""


class Predictions:
    """What a kind of model predicts, and all that depends on that.

    Args:
        meta: what :meth:`read_meta` returned.

    Attributes:
        files (tuple): suffixes of the files, pickles aside, that predictions of a test
            are saved in; an empty one is a folder.
        saved (str): what ``--out`` takes, for a sentence.
        scored (bool): whether those below a score are left out of pictures.
        beside (str): what a model takes beside a picture, where a picture alone does
            not do.
    """

    files: tuple[str, ...] = ()
    saved = 'predictions are saved in a file *.pkl'
    scored = False
    beside = ''

    def __init__(self, meta: Mapping[str, Any]):
        self.meta = meta

    @staticmethod
    def read_meta(
        saved: Mapping[str, Any], dataset: Mapping[str, Any], model: Any
    ) -> dict[str, Any]:
        """Return names and colours of what is predicted.

        Args:
            saved: ``meta`` of a checkpoint.
            dataset: config of the dataset that is tested.
            model: the model.

        Raises:
            ConfigError: where there are no names.
        """
        count = getattr(getattr(model, 'decode_head', None), 'num_classes', None)
        return describe_classes(saved, dataset, count)

    @staticmethod
    def takes_boxes(model: Any) -> bool:
        """Tell whether a model predicts what is in a box, not in the whole picture."""
        return False

    def add_inputs(self, results: dict[str, Any], box: np.ndarray | None) -> None:
        """Add what a pipeline takes beside the picture that it has read, in place.

        Args:
            results: of the transform that has read the picture.
            box: ``[5]``, x1, y1, x2, y2 in pixels and a score, of a model that takes
                boxes; None is the whole picture.
        """

    def merge(self, samples: Sequence[Any]) -> Any:
        """Return what was predicted in the boxes of a picture as one sample.

        Args:
            samples: of the framework, one a box; one of a model that takes no boxes.
        """
        (sample,) = samples
        return sample

    def describe(
        self, sample: BaseDataElement, score_thr: float = 0.0
    ) -> dict[str, Any]:
        """Say what was found, ready for JSON.

        Args:
            sample: of the framework, on the CPU.
            score_thr: least score of what is told.
        """
        raise NotImplementedError

    def draw(
        self,
        visualizer: Visualizer,
        name: str,
        picture: np.ndarray,
        sample: BaseDataElement,
        score_thr: float,
        **options: Any,
    ) -> None:
        """Draw a sample.

        Args:
            visualizer: of the framework.
            name: of the picture.
            picture: ``[H, W, 3]``, uint8, RGB.
            sample: of the framework, on the CPU.
            score_thr: least score of what is drawn.
            **options: ``draw_gt``, ``show`` and ``out_file`` of the visualizer.
        """
        if self.scored and 'pred_instances' in sample:
            options['pred_score_thr'] = score_thr
        visualizer.add_datasample(name, picture, sample, **options)

    def name(self, label: int) -> str:
        """Return the name of a class.

        Raises:
            ConfigError: where there is none.
        """
        classes = self.meta['classes']
        if label >= len(classes):
            raise ConfigError(
                f'the model tells the class {int(label)}, counted from 0, but there '
                f'are names of {len(classes)} classes: `num_classes` of its heads '
                'and `metainfo.classes` of the data must agree'
            )
        name: str = classes[label]
        return name

    def _describe_label_map(self, sample: BaseDataElement) -> dict[str, float]:
        labels = label_map_of(sample)
        names, counts = np.unique(labels, return_counts=True)
        shares = (counts / labels.size).tolist()
        return {
            self.name(label): round(share, 4)
            for label, share in zip(names, shares, strict=True)
        }


class Instances(Predictions):
    """Boxes with scores, and masks; or a panoptic map."""

    files: tuple[str, ...] = ('.json',)
    saved = 'detections are saved in a file *.pkl, or *.json as of COCO'
    scored = True

    def describe(
        self, sample: BaseDataElement, score_thr: float = 0.0
    ) -> dict[str, Any]:
        """Say what was found, ready for JSON.

        Returns:
            ``detections``: class, score, box (x1, y1, x2, y2 in pixels) and mask (RLE)
            of each; or ``segments`` of a panoptic map, class and share of the pixels of
            each; or what :class:`LabelMap` returns.
        """
        if 'pred_panoptic_seg' in sample:
            return {'segments': self._describe_panoptic(sample.pred_panoptic_seg)}
        if 'pred_instances' not in sample:
            return {'shares': self._describe_label_map(sample)}
        instances = sample.pred_instances
        instances = instances[instances.scores >= score_thr]
        detections = []
        for i in range(len(instances)):
            detection = {
                'class': self.name(instances.labels[i]),
                'score': round(instances.scores[i].item(), 4),
                'box': self._describe_box(instances.bboxes[i]),
            }
            if 'masks' in instances:
                detection['mask'] = run_lengths(instances.masks[i].numpy())
            detections.append(detection)
        return {'detections': detections}

    def _describe_box(self, box: Any) -> list[float]:
        return [round(x, 2) for x in box.tolist()]

    def _describe_panoptic(self, panoptic: Any) -> list[dict[str, Any]]:
        from mmdet.evaluation.functional import INSTANCE_OFFSET

        ids, counts = np.unique(panoptic.sem_seg.numpy(), return_counts=True)
        shares = (counts / counts.sum()).tolist()
        return [
            {'class': self.name(label), 'share': round(share, 4)}
            for label, share in zip(ids % INSTANCE_OFFSET, shares, strict=True)
            if label < len(self.meta['classes'])  # what is beyond is no class
        ]


class RotatedInstances(Instances):
    """Boxes that lie at an angle, with scores.

    A box is its centre x and y, its width and height in pixels, and by how many radians
    its width is turned clockwise from the x axis; or x and y of its four corners.
    """

    files = ()
    saved = 'detections are saved in a file *.pkl'

    def _describe_box(self, box: Any) -> list[float]:
        numbers = getattr(box, 'tensor', box).flatten()
        if len(numbers) != ROTATED:
            return super()._describe_box(numbers)
        *pixels, angle = numbers.tolist()
        return [*(round(x, 2) for x in pixels), round(angle, 4)]


class LabelMap(Predictions):
    """The class of each pixel."""

    files = ('',)
    saved = 'segments are saved as label maps in a folder, or in a file *.pkl'

    def draw(
        self,
        visualizer: Visualizer,
        name: str,
        picture: np.ndarray,
        sample: BaseDataElement,
        score_thr: float,
        **options: Any,
    ) -> None:
        """Draw a sample; see :meth:`Predictions.draw`."""
        # NumPy takes a tensor of one pixel for the number of a row.
        super().draw(visualizer, name, picture, sample.numpy(), score_thr, **options)

    def describe(
        self, sample: BaseDataElement, score_thr: float = 0.0
    ) -> dict[str, Any]:
        """Return ``shares``, of the pixels, of each class that occurs."""
        return {'shares': self._describe_label_map(sample)}


class Keypoints(Predictions):
    """The joints of each person, animal or hand.

    A model that goes from a box to the joints in it gets boxes, or the whole picture.
    """

    files = ('.json',)
    saved = 'keypoints are saved in a file *.pkl, or *.json as of COCO'
    scored = True

    @staticmethod
    def read_meta(
        saved: Mapping[str, Any], dataset: Mapping[str, Any], model: Any
    ) -> dict[str, Any]:
        """Return names, colours and links of the joints, see :class:`Predictions`."""
        from mmpose.datasets.datasets.utils import parse_pose_metainfo

        own = registered(dataset['type'], DATASETS)
        meta = saved.get('dataset_meta') or {}
        if 'keypoint_id2name' not in meta:
            raw = dataset.get('metainfo') or getattr(own, 'METAINFO', None)
            if not raw:
                raise ConfigError(
                    'neither the checkpoint nor the config has names of keypoints: set '
                    '`metainfo` in `test_dataloader.dataset`'
                )
            meta = parse_pose_metainfo(dict(raw))
        names = [meta['keypoint_id2name'][i] for i in range(meta['num_keypoints'])]
        return {**meta, 'classes': tuple(names)}

    @staticmethod
    def takes_boxes(model: Any) -> bool:
        """Tell whether a model goes from a box to the joints in it."""
        from mmpose.models import TopdownPoseEstimator

        return isinstance(model, TopdownPoseEstimator)

    def add_inputs(self, results: dict[str, Any], box: np.ndarray | None) -> None:
        """Add the box, and how the joints are numbered; see :class:`Predictions`."""
        height, width = results['img'].shape[:2]
        results.update({k: v for k, v in self.meta.items() if k not in results})
        if box is None:
            box = np.array([0, 0, width, height, 1])
        results['bbox'] = box[None, :4].astype(np.float32)
        results['bbox_score'] = box[4:].astype(np.float32)

    def merge(self, samples: Sequence[Any]) -> Any:
        """Return one sample of the joints in all boxes, of which there may be none."""
        from mmpose.structures import PoseDataSample

        sample = samples[0] if samples else PoseDataSample()
        if len(samples) > 1:
            found = InstanceData.cat([each.pred_instances for each in samples])
            sample.pred_instances = found
            sample.pop('pred_fields', None)  # of the first alone
        elif not samples:
            count = len(self.meta['classes'])
            sample.pred_instances = InstanceData(
                keypoints=np.empty((0, count, 2)), keypoint_scores=np.empty((0, count))
            )
        return sample

    def describe(
        self, sample: BaseDataElement, score_thr: float = 0.0
    ) -> dict[str, Any]:
        """Return ``poses``: of each its joints, x, y (and z) in pixels and the score.

        Joints of less than ``score_thr`` are left out. Where there is a box (x1, y1,
        x2, y2 in pixels), it and its score stand beside them.
        """
        found = sample.pred_instances
        poses: list[dict[str, Any]] = []
        for i in range(len(found)):
            pose: dict[str, Any] = {}
            if 'bboxes' in found:
                pose['box'] = [round(float(x), 2) for x in found.bboxes[i]]
            if 'bbox_scores' in found:
                pose['score'] = round(float(found.bbox_scores[i]), 4)
            joints = zip(found.keypoints[i], found.keypoint_scores[i], strict=True)
            pose['joints'] = {
                self.name(j): [*(round(float(x), 2) for x in joint), round(float(s), 4)]
                for j, (joint, s) in enumerate(joints)
                if s >= score_thr
            }
            poses.append(pose)
        return {'poses': poses}

    def draw(
        self,
        visualizer: Visualizer,
        name: str,
        picture: np.ndarray,
        sample: BaseDataElement,
        score_thr: float,
        **options: Any,
    ) -> None:
        """Draw joints and what links them; see :class:`Predictions`."""
        visualizer.set_dataset_meta(self.meta)
        # With OpenCV it takes an array for a number, which NumPy 2.4 does not.
        visualizer.backend = 'matplotlib'
        visualizer.add_datasample(name, picture, sample, kpt_thr=score_thr, **options)


class Classes(Predictions):
    """The class of a picture, or several, with the score of each there is."""

    def describe(
        self, sample: BaseDataElement, score_thr: float = 0.0
    ) -> dict[str, Any]:
        """Return ``classes``: the likeliest ones and their scores, in this order."""
        best = sample.pred_score.argsort(descending=True)[:MOST_CLASSES]
        return {
            'classes': {
                self.name(label): round(sample.pred_score[label].item(), 4)
                for label in best.tolist()
            }
        }

    def draw(
        self,
        visualizer: Visualizer,
        name: str,
        picture: np.ndarray,
        sample: BaseDataElement,
        score_thr: float,
        **options: Any,
    ) -> None:
        """Write truth and prediction onto the picture; see :class:`Predictions`."""
        visualizer.visualize_cls(picture, sample, self.meta['classes'], **options)


class BoxesInSpace(Predictions):
    """Boxes in the space before a camera, with scores; or boxes in a picture."""

    scored = True
    beside = 'the calibration of its camera'

    def draw(
        self,
        visualizer: Visualizer,
        name: str,
        picture: np.ndarray,
        sample: BaseDataElement,
        score_thr: float,
        **options: Any,
    ) -> None:
        """Draw the boxes as the camera sees them; see :class:`Predictions`."""
        visualizer.dataset_meta = dict(self.meta)
        options['pred_score_thr'] = score_thr
        visualizer.add_datasample(name, dict(img=picture), sample, **options)
        out_file = options.get('out_file')
        if out_file and not out_file.endswith(('.png', '.jpg')):
            out_file += '.png'  # as it does
        if out_file and not Path(out_file).exists():  # where there is no box
            mmcv.imwrite(picture[..., ::-1], out_file)


PREDICTIONS = {
    'boxes in space': BoxesInSpace,
    'instances': Instances,
    'rotated instances': RotatedInstances,
    'label map': LabelMap,
    'keypoints': Keypoints,
    'class': Classes,
}
"""By the word that a row of ``FRAMEWORKS`` has."""


def kind_of(scope: str) -> type[Predictions]:
    """Return what models of a framework predict."""
    return PREDICTIONS[FRAMEWORKS[scope].predicts]


def registered(name: str, registry: Registry) -> type | None:
    """Return what a name stands for in the framework of the config."""
    with registry.switch_scope_and_registry(None) as own:
        found: type | None = own.get(name)
    return found


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


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask of 0 and 1, ``[H, W]``, in COCO's run lengths, ready for JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {**rle, 'counts': rle['counts'].decode()}


def label_map_of(sample: BaseDataElement) -> np.ndarray:
    """Return the label map of a segmentor's sample, ``[H, W]``, int64."""
    labels: np.ndarray = sample.pred_sem_seg.data[0].numpy()
    return labels.astype(np.int64)
