"""A training step of a config, on the first pictures of its data."""

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, FUNCTIONS, DefaultScope

from mmrecnext.engine.build import build_network, fit_cpu, whole_model

PICTURES = 2


def train_a_step(cfg: Config, batch: dict | None = None):
    """Train with the losses and optimizer of a config, on its data if on no other.

    Losses are finite; every parameter of the backbone has a gradient, and changes.
    """
    torch.manual_seed(0)
    fit_cpu(cfg)
    model = build_network(whole_model(cfg), cfg.default_scope).train()
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model.init_weights()
        batch = batch or first_batch(cfg)
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


def first_batch(cfg: Config) -> dict:
    """Return the first samples of the training data."""
    data = DATASETS.build(cfg.train_dataloader.dataset)
    collate = cfg.train_dataloader.get('collate_fn', dict(type='pseudo_collate'))
    return FUNCTIONS.get(collate['type'])([data[i] for i in range(PICTURES)])
