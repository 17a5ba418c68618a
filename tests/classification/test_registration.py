"""What timm asks of every model that it lists, of all RecNeXts."""

import math

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from mmrecnext import ARCHS
from mmrecnext.classification import RecNeXtClassifier
from mmrecnext.errors import OptionError
from tests.helpers import SMALL

SIZES = [(64, 64), (33, 97)]
every_kind = pytest.mark.parametrize('kind', SMALL)


@pytest.fixture(scope='module', params=ARCHS)
def model(request):
    """A classifier for inference; tests leave it as it is."""
    torch.manual_seed(0)
    return timm.create_model(f'recnext_{request.param}', num_classes=7).eval()


def small(kind, **options):
    torch.manual_seed(0)
    return RecNeXtClassifier(SMALL[kind], num_classes=7, **options)


def images(*shape, **options):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, **options)


@torch.no_grad()
def test_forward(model):
    for size in SIZES:
        logits = model(images(1, 3, *size))
        assert logits.shape == (1, 7)
        assert logits.isfinite().all()


@torch.no_grad()
def test_maps(model):
    """Of all stages, of some, and of the one that the head is given."""
    image = images(1, 3, 33, 97)
    last, maps = model.forward_intermediates(image)
    assert torch.equal(last, maps[-1])
    for x, info in zip(maps, model.feature_info, strict=True):
        size = [math.ceil(side / info['reduction']) for side in (33, 97)]
        assert x.shape == (1, info['num_chs'], *size)
        assert isinstance(model.get_submodule(info['module']), nn.Module)
    logits = model.forward_head(last)
    assert torch.equal(logits, model(image))
    pooled = model.forward_head(last, pre_logits=True)
    assert pooled.shape == (1, model.head_hidden_size)
    assert model.head_hidden_size == model.num_features
    assert torch.equal(model.get_classifier()(pooled), logits)


def test_backward(model):
    model.train()
    try:
        logits = model(images(2, 3, 64, 64))
        logits.square().mean().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    finally:
        model.zero_grad()
        model.eval()


def test_description(model):
    """The size that timm expects of the last map, and the layers that it adapts."""
    cfg = model.default_cfg
    assert (model.in_chans, cfg['input_size']) == (3, (3, 224, 224))
    first = model.get_submodule(cfg['first_conv'])
    assert (type(first), first.in_channels) == (nn.Conv2d, 3)
    assert next(m for m in model.modules() if isinstance(m, nn.Conv2d)) is first
    for name in cfg['classifier']:
        layer = model.get_submodule(name)
        assert (type(layer), layer.out_features) == (nn.Linear, 7)
    with torch.device('meta'):
        twin = timm.create_model(cfg['architecture'], num_classes=0, global_pool='')
        x = twin.eval()(torch.empty(1, *cfg['input_size']))
    assert x.shape == (1, model.num_features, *cfg['pool_size'])


@pytest.mark.parametrize('coarse', [False, True])
def test_each_parameter_is_in_one_group(model, coarse):
    groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=False)
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    order = [name for name, _ in model.named_parameters()]
    places = [order.index(name) for name in names]
    assert places == sorted(places)  # from the stem to the head
    stages = sum(any(True for _ in stage.parameters()) for stage in model.stages)
    blocks = sum(len(stage.blocks) for stage in model.stages)
    assert len(groups) == 2 + (stages if coarse else blocks)  # with stem and head


def test_optimizer_settings(model):
    sizes = {id(p): p.dim() for p in model.parameters()}
    no_decay, decay = param_groups_weight_decay(model, weight_decay=0.05)
    for group, is_right in ((no_decay, lambda d: d <= 1), (decay, lambda d: d > 1)):
        assert all(is_right(sizes.pop(id(p))) for p in group['params'])
    assert not sizes
    layers = param_groups_layer_decay(model, layer_decay=0.5)
    scales = {id(p): g['lr_scale'] for g in layers for p in g['params']}
    assert scales.keys() == {id(p) for p in model.parameters()}
    assert scales[id(model.head.head.linear.weight)] == 1
    assert scales[id(model.stem.stem[0].conv.weight)] == min(scales.values())


@pytest.fixture(scope='module')
def whole():
    return small('m0').eval()


class TestForwardIntermediates:
    @torch.no_grad()
    def test_options(self, whole):
        image = images(1, 3, 40, 72)
        _, maps = whole.forward_intermediates(image)
        for indices, taken in (
            (None, [0, 1, 2, 3]),
            (2, [2, 3]),
            ([0, 2], [0, 2]),
            ((-1,), [3]),
            ([3, 0], [3, 0]),
        ):
            found = whole.forward_intermediates(
                image, indices, norm=True, stop_early=True, intermediates_only=True
            )
            assert all(
                torch.equal(x, maps[i]) for x, i in zip(found, taken, strict=True)
            )
        with pytest.raises(OptionError, match="output_fmt is 'NCHW', got 'NLC'"):
            whole.forward_intermediates(image, output_fmt='NLC')
        with pytest.raises(AssertionError, match='feature index 4 is out of range'):
            whole.forward_intermediates(image, indices=[4])

    @torch.no_grad()
    @pytest.mark.parametrize('prune_head', [False, True])
    @pytest.mark.parametrize('indices', [1, [0, 1], (-2,)], ids=str)
    def test_prune(self, whole, indices, prune_head):
        image = images(1, 3, 40, 72)
        expected = whole.forward_intermediates(image, indices, intermediates_only=True)
        logits = whole(image)
        pruned = small('m0').eval()
        taken = pruned.prune_intermediate_layers(indices, prune_head=prune_head)
        assert len(pruned.stages) == max(taken) + 1
        found = pruned.forward_intermediates(image, taken, intermediates_only=True)
        assert all(map(torch.equal, found, expected))
        if len(pruned.stages) == 4 and not prune_head:
            assert torch.equal(pruned(image), logits)
        else:
            assert torch.equal(pruned(image), found[-1])


@every_kind
def test_gradient_checkpointing_changes_nothing(kind):
    def gradients(enable):
        model = small(kind).double().train()
        model.set_grad_checkpointing(enable)
        model(images(2, 3, 64, 64, dtype=torch.float64)).square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters()}, model

    (plain, before), (recomputed, after) = gradients(False), gradients(True)
    for name, gradient in plain.items():
        scale = gradient.abs().max() + 1e-9
        assert (recomputed[name] - gradient).abs().max() <= 1e-10 * scale, name
    for one, other in zip(before.buffers(), after.buffers(), strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=0)


@every_kind
def test_heads(kind):
    image = images(2, 3, 64, 64)
    model = small(kind).train()
    model.reset_classifier(5)
    assert model(image).shape == (2, 5)
    model.reset_classifier(5, distillation=True)
    assert [x.shape for x in model(image)] == [(2, 5)] * 2
    assert model.eval()(image).shape == (2, 5)
    model.reset_classifier(0)
    pooled = model(image)
    assert torch.equal(pooled, model.forward_features(image).mean((2, 3)))
    model.reset_classifier(0, '')
    assert torch.equal(model(image), model.forward_features(image))


@every_kind
@torch.no_grad()
def test_other_channels_and_half_precision(kind):
    model = small(kind, in_chans=2).eval()
    image = images(1, 2, 64, 64)
    logits = model(image)
    model.bfloat16()
    half = model(image.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - logits).abs().max() <= 0.1 * logits.abs().max() + 0.02
