"""What configs change for T, S and B, which begin at stride 8."""

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmrecnext.engine.build import build_network, fit_cpu
from mmrecnext.engine.configs import load_config
from tests.helpers import ROOT

pytestmark = pytest.mark.slow


def model_of(name):
    cfg = load_config(str(ROOT / 'configs' / name))
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    fit_cpu(cfg)
    return build_network(cfg.model, cfg.default_scope)


def segmentation(*shape):
    """Two images of a shape, labelled at random."""
    torch.manual_seed(0)
    images = [torch.randint(0, 256, (3, *shape), dtype=torch.uint8) for _ in range(2)]
    labels = [
        SegDataSample(
            gt_sem_seg=PixelData(data=torch.randint(0, 150, (1, *shape))),
            metainfo=dict(img_shape=shape, ori_shape=shape),
        )
        for _ in images
    ]
    return dict(inputs=images, data_samples=labels)


def train_step(model, data):
    """Return the gradients of a step, by parameter."""
    model.train()
    data = model.data_preprocessor(data, training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    assert loss.isfinite()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    'name', ['mask_rcnn_recnext_t_coco.py', 'retinanet/retinanet_recnext_t_coco.py']
)
def test_detectors_train_and_predict(name):
    model = model_of(name)
    shapes = [[3, 64, 96], [3, 64, 96]]
    gradients = train_step(model, demo_mm_inputs(2, shapes, with_mask=True))
    assert all(x is not None for x in gradients.values())
    assert all(x.any() for k, x in gradients.items() if k.startswith('neck.'))

    model.eval()
    with torch.no_grad():
        result, _ = model.test_step(demo_mm_inputs(2, shapes, with_mask=True))
    assert result.batch_input_shape == (64, 128)  # padded to the coarsest stride
    assert 'pred_instances' in result


def test_segmentor_trains_and_predicts():
    model = model_of('sem_fpn_recnext_t_ade20k.py')
    gradients = train_step(model, segmentation(64, 128))
    assert all(x is not None for x in gradients.values())

    model.eval()
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    with torch.no_grad():
        result, _ = model.test_step(segmentation(96, 160))
    assert seen[0][-2:] == (
        128,
        192,
    )  # padded to the coarsest stride, and cropped again
    assert result.pred_sem_seg.shape == (96, 160)
