"""The OpenMMLab frameworks that are known, one row each.

What a row names by a word is found there: ``predicts`` in ``PREDICTIONS`` of
``mmrecnext/engine/predictions.py``, ``fitter`` in ``FITTERS`` of
``mmrecnext/swap/fitting.py``, ``tta_module`` below ``mmrecnext/engine/tta/``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mmrecnext.stacks import advice, distribution_of, here

if TYPE_CHECKING:  # without it, any Python can read the table
    from mmengine.config import Config


@dataclass(frozen=True)
class Framework:
    """What tells one framework from another.

    Args:
        scope: its package, which is the ``default_scope`` of its configs.
        name: what its authors call it.
        job: what it does, as ``python -m mmrecnext`` says.
        extra: the extra of mmrecnext that installs what it needs.
        requirements: all of that, as arguments of ``pip install``, itself first.
        fitter: how its necks and heads are fitted to another backbone.
        heads: parts of a model that predict from maps of the neck or the backbone.
        predicts: what its samples hold, which is described and drawn.
        visualizer: type that draws its predictions.
        image_size: height and width, in pixels, that its operations are counted for.
        mmcv: versions of MMCV that it takes.
        annotations: ``coco``, files whose categories are numbered in their order; or
            the key of ``data_prefix`` that names a folder of label maps; or None, where
            none are looked into.
        to_rgb: option of its preprocessors that turns BGR into RGB.
        tta_module: what merges its predictions in test-time augmentation; None where
            nothing does.
        tta_model: the framework's type that merges, whose place ours takes.
    """

    scope: str
    name: str
    job: str
    extra: str
    requirements: tuple[str, ...]
    fitter: str
    heads: tuple[str, ...]
    predicts: str
    visualizer: str
    image_size: tuple[int, int]
    mmcv: str = '>=2.0.0,<2.2.0'
    annotations: str | None = None
    to_rgb: str = 'bgr_to_rgb'
    tta_module: str | None = None
    tta_model: str = ''

    @property
    def is_installed(self) -> bool:
        """Whether its package can be imported."""
        return find_spec(self.scope) is not None

    @property
    def distribution(self) -> str:
        """What pip calls its package, in the stack that is there."""
        return distribution_of(here(self.requirements[0]))

    @property
    def advice(self) -> str:
        """The command that installs its package, or why none does."""
        return advice(self.requirements[0])


NO_FRAMEWORK = 'mmengine'
"""Scope of configs whose models are of no framework, such as our classifiers."""

FRAMEWORKS = {
    framework.scope: framework
    for framework in (
        Framework(
            scope='mmdet',
            name='MMDetection',
            job='detection',
            extra='det',
            requirements=('mmdet>=3.1.0,<3.4.0',),
            fitter='detection',
            heads=('rpn_head', 'bbox_head', 'roi_head'),
            predicts='instances',
            visualizer='DetLocalVisualizer',
            image_size=(800, 1280),
            annotations='coco',
            tta_module='detection',
            tta_model='DetTTAModel',
        ),
        Framework(
            scope='mmseg',
            name='MMSegmentation',
            job='segmentation',
            extra='seg',
            requirements=('mmsegmentation>=1.1.0,<1.3.0', 'ftfy', 'regex'),
            fitter='segmentation',
            heads=('decode_head', 'auxiliary_head'),
            predicts='label map',
            visualizer='SegLocalVisualizer',
            image_size=(512, 512),
            annotations='seg_map_path',
            tta_module='segmentation',
            tta_model='SegTTAModel',
        ),
        Framework(
            scope='mmpose',
            name='MMPose',
            job='pose estimation',
            extra='pose',
            requirements=(
                '--no-deps mmpose>=1.3.0,<1.4.0',  # chumpy is never imported
                '--no-binary xtcocotools xtcocotools>=1.14',  # for NumPy 2
                'json_tricks',
                'munkres',
                'mmdet>=3.1.0,<3.4.0',
            ),
            fitter='pose',
            heads=('head',),
            predicts='keypoints',
            visualizer='PoseLocalVisualizer',
            image_size=(256, 192),
        ),
        Framework(
            scope='mmpretrain',
            name='MMPretrain',
            job='classification by MMPretrain',
            extra='cls',
            requirements=(
                'mmpretrain>=1.2.0,<1.3.0',
                'importlib-metadata<9',  # later ones take a package more
            ),
            fitter='classification',
            heads=('head',),
            predicts='class',
            visualizer='UniversalVisualizer',
            image_size=(224, 224),
            to_rgb='to_rgb',
        ),
        Framework(
            scope='mmyolo',
            name='MMYOLO',
            job='detection by MMYOLO',
            extra='yolo',
            requirements=(
                'mmyolo>=0.6.0,<0.7.0',
                'mmdet>=3.1.0,<3.4.0',
                'albumentations',  # of nearly all training pipelines
            ),
            mmcv='>=2.0.0,<2.1.0',
            fitter='yolo',
            heads=('bbox_head',),
            predicts='instances',
            visualizer='mmdet.DetLocalVisualizer',
            image_size=(640, 640),
            annotations='coco',
            tta_module='detection',
            tta_model='DetTTAModel',
        ),
        Framework(
            scope='mmdet3d',
            name='MMDetection3D',
            job='detection in 3D',
            extra='det3d',
            requirements=(
                '--no-deps mmdet3d>=1.4.0,<1.5.0',  # open3d is for point clouds
                '--no-deps nuscenes-devkit>=1.2',  # it asks for NumPy 1 and runs on 2
                'lyft-dataset-sdk>=0.0.8',
                'numba',
                'scikit-image',
                'trimesh',
                'mmdet>=3.1.0,<3.4.0',
            ),
            fitter='3d detection',
            heads=('bbox_head',),
            predicts='boxes in space',
            visualizer='Det3DLocalVisualizer',
            image_size=(900, 1600),
        ),
        Framework(
            scope='mmrotate',
            name='MMRotate',
            job='detection of rotated objects',
            extra='rotate',
            requirements=(
                'onedl-mmrotate>=1.2.1,<1.3',
                'onedl-mmdetection>=3.5.1,<3.6',  # MMDetection lacks a metric of it
            ),
            fitter='detection',
            heads=('rpn_head', 'bbox_head', 'roi_head'),
            predicts='rotated instances',
            visualizer='RotLocalVisualizer',
            image_size=(1024, 1024),
        ),
    )
}


def framework_of(cfg: Config) -> Framework:
    """Return the framework of a config that has been checked by ``load_config``."""
    return FRAMEWORKS[cfg.default_scope]


def names_of(scopes: Iterable[str] = FRAMEWORKS) -> str:
    """Return scopes for a sentence."""
    *most, last = scopes
    return f'{", ".join(most)} and {last}' if most else last
