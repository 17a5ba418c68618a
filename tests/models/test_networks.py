"""Mask R-CNN and Semantic FPN train and evaluate on each of the models."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope

from mmrecnext import ARCHS
from mmrecnext.engine.build import fit_cpu
from mmrecnext.engine.configs import load_config, nodes
from mmrecnext.engine.prepare import move_data_root
from mmrecnext.engine.runner import Runner

CONFIGS = {
    'mmdet': 'mask_rcnn_recnext_m0_shapes.py',
    'mmseg': 'sem_fpn_recnext_m0_shapes.py',
}
SIZE = (96, 96)


@pytest.fixture(scope='module', params=CONFIGS)
def task(request, shapes):
    """Light heads of one framework, with a batch to train on and one to evaluate."""
    pytest.importorskip(request.param)
    with DefaultScope.overwrite_default_scope(request.param):
        cfg = load_config(CONFIGS[request.param])
        move_data_root(cfg, str(shapes))
        fit_cpu(cfg)
        for node in nodes(cfg):
            if node.get('type') == 'Resize':
                node.scale = SIZE
        loaders = [
            Runner.build_dataloader({**loader, 'batch_size': 2}, seed=0)
            for loader in (cfg.train_dataloader, cfg.val_dataloader)
        ]
        evaluator = Evaluator(cfg.val_evaluator)
        evaluator.dataset_meta = loaders[1].dataset.metainfo
        train, val = map(next, map(iter, loaders))
        yield SimpleNamespace(cfg=cfg, train=train, val=val, evaluator=evaluator)


def fit_heads(model, arch):
    """Give neck and heads the channels and strides of a backbone."""
    strides = list(ARCHS[arch].strides)
    model.backbone.arch = arch
    model.neck.in_channels = list(ARCHS[arch].dims)
    if 'rpn_head' in model:
        model.rpn_head.anchor_generator.strides = strides
        model.roi_head.bbox_roi_extractor.featmap_strides = strides
        model.roi_head.mask_roi_extractor.featmap_strides = strides
        model.test_cfg.rcnn.score_thr = 0.0
    else:
        model.decode_head.feature_strides = strides
    return model


@pytest.mark.slow
@pytest.mark.parametrize('arch', ARCHS)
def test_trains_and_evaluates(task, arch):
    torch.manual_seed(0)
    model = MODELS.build(fit_heads(task.cfg.model.copy(), arch))
    model.init_weights()
    weights = {k: v for k, v in model.backbone.named_parameters() if v.dim() > 1}
    before = {key: value.clone() for key, value in weights.items()}
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    losses = model.train().train_step(task.train, optimizer)
    assert all(loss.isfinite() for loss in losses.values()), losses
    assert not [key for key, value in weights.items() if value.equal(before[key])]

    with torch.no_grad():
        predictions = model.eval().val_step(task.val)
    task.evaluator.process(data_samples=predictions, data_batch=task.val)
    metrics = task.evaluator.evaluate(len(predictions))
    for name in dict(mmdet=('coco/bbox_mAP', 'coco/segm_mAP'), mmseg=('mIoU',))[
        task.cfg.default_scope
    ]:
        assert 0 <= metrics[name] <= 100
