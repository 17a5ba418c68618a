"""Learning rates of the published recipes, against those in their logs."""

import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.hooks import ParamSchedulerHook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from mmrecnext.engine.configs import load_config
from tests.helpers import DATA, ROOT

PUBLISHED = json.loads((DATA / 'published.json').read_text())
ITERS_PER_EPOCH = PUBLISHED['mask_rcnn']['iters_per_epoch']


@functools.cache
def rates(name: str) -> np.ndarray:
    """Learning rate of each iteration, by MMEngine's own schedulers and hook.

    It is read where MMEngine's logs take it, before the iteration, and the schedulers
    step behind it.
    """
    cfg = load_config(str(ROOT / 'configs' / name))
    optimizer = build_optim_wrapper(nn.Linear(1, 1), cfg.optim_wrapper)
    defaults = dict(optimizer=optimizer, epoch_length=ITERS_PER_EPOCH)
    schedulers = [
        PARAM_SCHEDULERS.build(scheduler, default_args=defaults)
        for scheduler in cfg.param_scheduler
    ]
    runner, hook = SimpleNamespace(param_schedulers=schedulers), ParamSchedulerHook()
    epochs, iters = cfg.train_cfg.get('max_epochs'), cfg.train_cfg.get('max_iters')
    found = []
    optimizer.optimizer.step()  # without gradients; schedulers warn if they come first
    for i in range(iters or epochs * ITERS_PER_EPOCH):
        found += optimizer.get_lr()['lr']
        hook.after_train_iter(runner, i)
        if epochs and (i + 1) % ITERS_PER_EPOCH == 0:
            hook.after_train_epoch(runner)
    return np.array(found)


@pytest.mark.parametrize(
    ('recipe', 'name'),
    [
        ('mask_rcnn', 'mask_rcnn_recnext_m3_coco.py'),
        ('sem_fpn', 'sem_fpn_recnext_m3_ade20k.py'),
    ],
)
def test_learning_rates_equal_the_logged_ones(recipe, name):
    logged = PUBLISHED[recipe]['lr']
    assert len(logged) >= 40
    found = rates(name)
    wrong = [
        (iteration, rate, found[iteration - 1])
        for iteration, rate in logged
        if round(found[iteration - 1], 5) != rate
    ]
    assert not wrong


def test_warm_up_begins_and_ends_where_the_recipe_says():
    found = rates('mask_rcnn_recnext_m3_coco.py')
    assert found[0] == pytest.approx(2e-4 * 1e-6)
    assert found[498] < found[499] == pytest.approx(2e-4)
    np.testing.assert_allclose(np.diff(found[:500], n=2), 0, atol=1e-12)


def test_schedule_of_the_peers():
    found = rates('sem_fpn_40k/sem_fpn_recnext_m3_ade20k_40k.py')
    done = (
        np.arange(40000) / 39999
    )  # MMEngine ends at the last iteration, not behind it
    np.testing.assert_allclose(found, 1.99e-4 * (1 - done) ** 0.9 + 1e-6, rtol=1e-6)
