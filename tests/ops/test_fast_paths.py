"""Layers that somebody has attached to are called, as often as PyTorch would."""

import copy
import runpy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from mmrecnext.models import RecNeXt
from mmrecnext.ops import fast_paths
from mmrecnext.ops.recompute import recompute
from tests.helpers import SMALL

FORMS = ('train', 'with_cp', 'eval', 'no_grad', 'deployed')


def build(base, form):
    torch.manual_seed(0)
    model = RecNeXt(SMALL[base], with_cp=form == 'with_cp').double()
    model.train(form in ('train', 'with_cp'))
    if form == 'deployed':
        model.switch_to_deploy()
    return model


def run(model, form):
    """Return the maps, and the gradients where there are some."""
    torch.manual_seed(1)
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64, requires_grad=True)
    with torch.set_grad_enabled(form not in ('no_grad', 'deployed')):
        maps = model(image)
        if torch.is_grad_enabled():
            sum(x.square().sum() for x in maps).backward()
    return [*maps, *(p.grad for p in model.parameters() if p.grad is not None)]


def assert_close(own, reference):
    scale = max(x.std() for x in reference)
    for x, y in zip(own, reference, strict=True):
        assert (x - y).abs().max() <= 1e-9 * max(y.std(), 1e-3 * scale)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('base', ['m0', 'a0', 't_share_channel'])
def test_every_layer_calls_its_hooks_once(base, form):
    """All kinds, on all layers, and their outputs stay as the hooks saw them."""
    model = build(base, form)
    plain = copy.deepcopy(model)
    calls, outputs, backward = [], [], []
    layers = [m for m in model.modules() if not isinstance(m, nn.ModuleList)]
    for layer in layers:
        layer.register_forward_pre_hook(lambda layer, _: calls.append(layer))
        layer.register_forward_hook(lambda layer, _, y: calls.append(layer))
        if not list(layer.children()):
            layer.register_forward_hook(
                lambda layer, _, y: outputs.append((y, y.detach().clone()))
            )
            layer.register_full_backward_hook(lambda layer, *_: backward.append(layer))
    with fast_paths.off():
        reference = run(plain, form)
    assert_close(run(model, form), reference)
    shared = [m for m in layers if 'down' in dict(m.named_children())]
    often = [m.down for m in shared if isinstance(m.down, nn.Conv2d)]
    for layer in layers:
        count = sum(x is layer for x in calls) // 2
        assert count == 1 or (layer in often and count > 1), layer
    assert all(torch.equal(y, kept) for y, kept in outputs)
    if form in ('train', 'with_cp', 'eval'):
        assert {*backward} == {m for m in layers if not list(m.children())}


def test_hooks_of_all_modules():
    model = build('m0', 'no_grad')
    called = set()
    handle = nn.modules.module.register_module_forward_hook(
        lambda layer, *_: called.add(layer)
    )
    try:
        run(model, 'no_grad')
    finally:
        handle.remove()
    assert called == {m for m in model.modules() if not isinstance(m, nn.ModuleList)}


def test_gradient_hooks_of_parameters_act_once():
    model = build('m0', 'train')
    plain = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.register_hook(lambda grad: 3 * grad)
    own, reference = run(model, 'train'), run(plain, 'train')
    maps = len(model.out_indices)
    assert_close(own, [*reference[:maps], *(3 * grad for grad in reference[maps:])])


TECHNIQUES = {
    'pruning': lambda conv: prune.l1_unstructured(conv, 'weight', 0.5),
    'weight norm': weight_norm,
    'weight norm by parametrization': parametrizations.weight_norm,
    'spectral norm': spectral_norm,
    'spectral norm by parametrization': parametrizations.spectral_norm,
}


@pytest.mark.filterwarnings('ignore:.*weight_norm.*:FutureWarning')
@pytest.mark.parametrize('technique', TECHNIQUES)
@pytest.mark.parametrize('form', ['train', 'with_cp', 'no_grad'])
def test_weights_made_by_other_weights(technique, form):
    results = []
    for plain in (False, True):
        model = build('m0', form)
        for layer in [*model.modules()]:
            if isinstance(layer, nn.Conv2d):
                TECHNIQUES[technique](layer)
        model.with_cp = model.with_cp and not plain
        with fast_paths.off() if plain else nullcontext():
            results.append((run(model, form), [*model.buffers()]))
    (own, own_buffers), (reference, buffers) = results
    assert_close(own, reference)
    for x, y in zip(own_buffers, buffers, strict=True):
        assert torch.allclose(x, y, rtol=1e-12, atol=1e-14)


def test_layers_of_others_run_by_themselves():
    """They may draw random numbers, or learn, as this library cannot know."""

    class Noise(nn.Dropout):
        pass

    for layer in (nn.Dropout(0.5), Noise(0.5)):
        x = torch.ones(1, 2, 3, 3, requires_grad=True)
        (y,) = recompute(lambda x, layer=layer: (layer(x),), [layer], None, x)
        y.sum().backward()
        assert torch.equal(x.grad, y)


def test_replaced_activations_are_used_in_inference():
    model = build('m0', 'no_grad')
    for layer in (model.stem.stem, model.stages[0].blocks[0].channel_mixer):
        layer[1] = nn.ReLU()
    with fast_paths.off():
        reference = run(model, 'no_grad')
    assert_close(run(model, 'no_grad'), reference)


@pytest.mark.parametrize(('value', 'on'), [('0', False), ('1', True)])
def test_are_off_by_the_environment(value, on, monkeypatch):
    monkeypatch.setenv(fast_paths.SWITCH, value)
    assert runpy.run_path(fast_paths.__file__)['are_on']() == on
