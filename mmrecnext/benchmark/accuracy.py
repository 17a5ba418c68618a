"""Published accuracies of what is measured, to plot its time against.

All are with distillation where there is such, ImageNet after 300 epochs at 224 pixels.
Mask R-CNN is that of the 1x schedule on COCO.

Sources: RecNeXt (https://github.com/suous/RecNeXt), its tables and logs; RepViT, CVPR
2024, tables 2 and 5; ResNet-50: torchvision's first weights, and table 5 of RepViT.
"""

from __future__ import annotations

from mmrecnext.benchmark.cases import kind_of, short_name
from mmrecnext.pretrained import FIGURES

TOP1_OF_PEERS = {
    'repvit_m0_9': 78.7,
    'repvit_m1_0': 80.0,
    'repvit_m1_1': 80.7,
    'repvit_m1_5': 82.3,
    'repvit_m2_3': 83.3,
    'resnet50': 76.1,
}
BOX_AP = {
    'm3': 41.7,
    'm4': 43.2,
    'm5': 44.1,
    'a3': 42.1,
    'a4': 43.2,
    'a5': 44.0,
    'repvit_m1_1': 39.8,
    'repvit_m1_5': 41.6,
    'repvit_m2_3': 44.6,
    'resnet50': 38.2,
}


def top1(model: str) -> float | None:
    """Return the ImageNet top-1 of a model in percent, if it is known here."""
    if kind_of(model) == 'recnext':
        return FIGURES[short_name(model)].top1_dist
    return TOP1_OF_PEERS.get(model)


def box_ap(model: str) -> float | None:
    """Return the box AP of Mask R-CNN with a model, if it is known here."""
    return BOX_AP.get(short_name(model))


ACCURACIES = {'ImageNet top-1 (%)': top1, 'COCO box AP, Mask R-CNN 1x': box_ap}
