"""A training step of a config, on the first pictures of its data."""

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, DefaultScope

from mmrecnext.engine.build import build_network, fit_cpu, whole_model

PICTURES = 2


def train_a_step(cfg: Config):
    """Train with the data, losses and optimizer of a config.

    Losses are finite; every parameter of the backbone has a gradient, and changes.
    """
    torch.manual_seed(0)
    fit_cpu(cfg)
    model = build_network(whole_model(cfg), cfg.default_scope).train()
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model.init_weights()
        data = DATASETS.build(cfg.train_dataloader.dataset)
        batch = pseudo_collate([data[i] for i in range(PICTURES)])
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    parameters = dict(model.backbone.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}

    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    loss, _ = model.parse_losses(losses)
    assert loss.isfinite(), losses
    optimizer.backward(loss)
    for name, parameter in parameters.items():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name
    optimizer.step()
    for name, parameter in parameters.items():
        assert not torch.equal(parameter, before[name]), name
