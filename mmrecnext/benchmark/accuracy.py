"""Published accuracies of what is measured, to plot its time against.

All are with distillation where there is such, ImageNet after 300 epochs at 224 pixels.
Those of detectors stand in ``configs``.

Sources: RecNeXt (https://github.com/suous/RecNeXt); RepViT, CVPR 2024; ResNet-50:
torchvision's first weights.
"""

from __future__ import annotations

from functools import cache

from mmengine.fileio import load

from mmrecnext.benchmark.cases import kind_of, short_name
from mmrecnext.engine.configs import shipped
from mmrecnext.pretrained import FIGURES

TOP1_OF_PEERS = {
    'repvit_m0_9': 78.7,
    'repvit_m1_0': 80.0,
    'repvit_m1_1': 80.7,
    'repvit_m1_5': 82.3,
    'repvit_m2_3': 83.3,
    'resnet50': 76.1,
}
NAMES_OF_PEERS = {
    'repvit_m0_9': 'RepViT-M0.9',
    'repvit_m1_0': 'RepViT-M1.0',
    'repvit_m1_1': 'RepViT-M1.1',
    'repvit_m1_5': 'RepViT-M1.5',
    'repvit_m2_3': 'RepViT-M2.3',
    'resnet50': 'ResNet-50',
}
"""What their authors call them, by their names in timm."""


def top1(model: str) -> float | None:
    """Return the ImageNet top-1 of a model in percent, if it is known here."""
    if kind_of(model) == 'recnext':
        figures = FIGURES.get(short_name(model))
        return figures.top1_dist if figures else None
    return TOP1_OF_PEERS.get(model)


def box_ap(model: str) -> float | None:
    """Return the box AP of Mask R-CNN with a model, if it is published."""
    if kind_of(model) != 'recnext':
        return read_yaml('peers.yml').get(NAMES_OF_PEERS.get(model), {}).get('box AP')
    name = f'mask_rcnn_recnext_{short_name(model)}_coco'
    for entry in read_yaml('metafile.yml')['Models']:
        if entry['Name'] == name:
            for result in entry.get('Results', ()):
                return result['Metrics'].get('box AP')
    return None


@cache
def read_yaml(name: str) -> dict:
    """Read a file of data that stands among the configs."""
    return load(shipped('configs') / name)


ACCURACIES = {'ImageNet top-1 (%)': top1, 'COCO box AP, Mask R-CNN 1x': box_ap}
