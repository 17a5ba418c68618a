"""Swaps in MMRotate, and what is told of boxes at angles."""

import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData

from mmrecnext.engine.predictions import RotatedInstances
from mmrecnext.swap import swap_backbone

BOX = [10.0, 20.0, 30.0, 40.0, 0.12345]
CORNERS = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.001]


@pytest.mark.parametrize(
    ('box', 'told'), [(BOX, [10, 20, 30, 40, 0.1235]), (CORNERS, [*CORNERS[:7], 8])]
)
def test_boxes_are_told_by_centre_size_and_angle_or_by_corners(box, told):
    found = InstanceData(
        bboxes=torch.tensor([box]),
        scores=torch.tensor([0.5]),
        labels=torch.tensor([0]),
    )
    sample = BaseDataElement(pred_instances=found)
    kind = RotatedInstances(dict(classes=('ship',)))
    (detection,) = kind.describe(sample)['detections']
    assert detection == {'class': 'ship', 'score': 0.5, 'box': told}


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        'rotated_retinanet/rotated-retinanet-rbox-le90_r50_fpn_1x_dota',
        'oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota',
        'r3det/r3det-oc_r50_fpn_1x_dota',
        'oriented_reppoints/oriented-reppoints-qbox_r50_fpn_1x_dota',
        'sasm_reppoints/sasm-reppoints-qbox_r50_fpn_1x_dota',
    ],
)
def test_models_train_and_predict(name):
    pytest.importorskip('mmrotate')
    from tests.zoo.configs import side_of
    from tests.zoo.trial import attempt

    tiny = dict(base='m0', depths=(1, 1, 1, 1))
    cfg = swap_backbone(f'mmrotate::{name}.py', tiny, pretrained=False)
    assert cfg.model.neck.in_channels[-1] == 320
    trial = attempt(cfg, max(64, side_of(cfg)))
    assert trial.passed, trial
