"""What tests of several frameworks ask of a config that has been swapped."""

import torch
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope

from tests.zoo.trial import batch_for, build_model, predict


def check_trained(cfg, side=64, predicts=True):
    """Train a step, in which every weight of the backbone has a part, and predict."""
    torch.manual_seed(0)
    MessageHub.get_current_instance().update_info('epoch', 0)
    model = build_model(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model.init_weights()
        for p in model.head.parameters():
            if not p.any():  # as those of transformers begin, and nothing passes back
                torch.nn.init.normal_(p, std=0.01)
        model.train()
        data = model.data_preprocessor(batch_for(cfg, side, training=True), True)
        total, _ = model.parse_losses(model(**data, mode='loss'))
        assert total.isfinite()
        total.backward()
        for name, p in model.backbone.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all(), name
            assert p.grad.any(), name
        if predicts:
            assert predict(model, batch_for(cfg, side, training=False)) == 2
