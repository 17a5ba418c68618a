"""Any options, images of any kind, and several threads on one model."""

import pytest
import torch

from mmrecnext import RecNeXt
from mmrecnext.ops import fast_paths
from tests.helpers import TINY
from tests.reliability.options import (
    channels_last,
    check_backbone,
    infer_at_once,
    models_at_once,
    try_options,
)

IMAGE = dict(batch=1, size=(40, 70), layout=channels_last, dtype=torch.float64)
IMAGE['model_last'] = False


def test_any_options_and_images():
    verdicts = try_options(40)
    assert verdicts['refused'] and verdicts['computed, and deployed alike']


@pytest.mark.parametrize(
    ('name', 'model'), [*models_at_once()], ids=lambda x: str(x)[:9]
)
def test_four_threads_at_once(name, model):
    model.switch_to_deploy()
    assert not infer_at_once(model)


@pytest.mark.parametrize(
    'spoil',
    [
        lambda model, x, maps: x.zero_(),
        lambda model, x, maps: maps[0].fill_(float('inf')),
        lambda model, x, maps: maps[1].set_(maps[0]),
        lambda model, x, maps: maps[1].mul_(1 + 1e-6 * model.deployed),
        lambda model, x, maps: maps[1].mul_(1 + 1e-6 * fast_paths.are_on()),
    ],
    ids=['overwritten', 'not finite', 'of another shape', 'deployed', 'fast'],
)
def test_faults_are_seen(spoil, monkeypatch):
    extract = RecNeXt.extract

    def spoilt(self, x):
        maps = extract(self, x)
        spoil(self, x, maps)
        return maps

    options = dict(arch=TINY)
    assert check_backbone(RecNeXt, options, IMAGE) == 'computed, and deployed alike'
    monkeypatch.setattr(RecNeXt, 'extract', spoilt)
    with pytest.raises(AssertionError):
        check_backbone(RecNeXt, options, IMAGE)


def test_threads_that_disturb_each_other_are_seen():
    held = []

    def model(x):
        held.append(x)
        total = sum(x.double().sum() for _ in range(2000))
        return (held.pop(0).sum() + total,)

    assert infer_at_once(model)
