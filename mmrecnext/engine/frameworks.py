"""The OpenMMLab frameworks that are known, one row each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from mmengine.config import Config


@dataclass(frozen=True)
class Framework:
    """What tells one framework from another.

    Args:
        scope: its package, which is the ``default_scope`` of its configs.
        distribution: what pip installs it by.
        visualizer: type that draws its predictions.
        heads: parts of a model that predict from maps of the neck or the backbone.
        predicts: ``instances``, which have scores, or a ``label map``.
        annotations: ``coco``, files whose categories are numbered in their order, or
            the key of ``data_prefix`` that names a folder of label maps.
        tta_module: module of ``mmrecnext.engine.tta`` that merges its predictions.
        tta_model: the framework's type that merges, whose place ours takes.
        image_size: height and width, in pixels, that its operations are counted for.
    """

    scope: str
    distribution: str
    visualizer: str
    heads: tuple[str, ...]
    predicts: str
    annotations: str
    tta_module: str
    tta_model: str
    image_size: tuple[int, int]

    @property
    def is_installed(self) -> bool:
        """Whether its package can be imported."""
        return find_spec(self.scope) is not None


NO_FRAMEWORK = 'mmengine'
"""Scope of configs whose models are of no framework, such as classifiers."""

FRAMEWORKS = {
    framework.scope: framework
    for framework in (
        Framework(
            scope='mmdet',
            distribution='mmdet',
            visualizer='DetLocalVisualizer',
            heads=('rpn_head', 'bbox_head', 'roi_head'),
            predicts='instances',
            annotations='coco',
            tta_module='detection',
            tta_model='DetTTAModel',
            image_size=(800, 1280),
        ),
        Framework(
            scope='mmseg',
            distribution='mmsegmentation',
            visualizer='SegLocalVisualizer',
            heads=('decode_head', 'auxiliary_head'),
            predicts='label map',
            annotations='seg_map_path',
            tta_module='segmentation',
            tta_model='SegTTAModel',
            image_size=(512, 512),
        ),
    )
}


def framework_of(cfg: Config) -> Framework:
    """Return the framework of a config that has been checked by ``load_config``."""
    return FRAMEWORKS[cfg.default_scope]
