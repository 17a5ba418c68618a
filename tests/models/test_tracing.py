"""Graphs and derivatives by PyTorch's own tools: for any size, as the model itself."""

import warnings

import pytest
import torch

from mmrecnext import RecNeXt
from mmrecnext.errors import OptionError
from mmrecnext.ops.attention import attend, attend_plain, positive
from mmrecnext.ops.tracing import is_traced
from tests.helpers import SMALL, randomise

every_series = pytest.mark.parametrize('base', ['m0', 'a0', 't_share_channel'])


def build(base):
    torch.manual_seed(0)
    return randomise(RecNeXt(SMALL[base]).double())


def image(*size):
    return torch.randn(1, 3, *(size or (64, 96)), dtype=torch.float64)


def assert_same(graph, model):
    """Of another size than the graph was made with."""
    x = image(65, 97)
    for own, other in zip(graph(x), model(x), strict=True):
        assert (own - other).abs().max() <= 1e-12 * other.abs().max()


@pytest.mark.parametrize('deploy', [False, True])
@every_series
def test_jit(base, deploy):
    model = build(base)
    if deploy:
        model.switch_to_deploy()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the tracer, and that it is deprecated
        assert_same(torch.jit.trace(model, image()), model)
        if not deploy:
            assert_same(torch.jit.script(model), model)


def test_scripting_in_training_is_refused():
    with pytest.raises(OptionError, match=r'eval\(\)'):
        torch.jit.script(RecNeXt(SMALL['m0']))


@every_series
def test_fx(base):
    model = build(base)
    assert_same(torch.fx.symbolic_trace(model), model)
    model.switch_to_deploy()
    assert_same(torch.fx.symbolic_trace(model), model)


@every_series
def test_features_by_fx(base):
    extraction = pytest.importorskip('torchvision.models.feature_extraction')
    model = build(base)
    nodes = {f'stages.{i}': str(i) for i in (1, 3)}
    features = extraction.create_feature_extractor(model, nodes).eval()
    x = image()
    for own, other in zip(features(x).values(), model(x)[1::2], strict=True):
        assert torch.allclose(own, other, rtol=1e-12)


@every_series
def test_functional_derivatives(base):
    """Of a model in inference: adversarial inputs, influence of samples, and so on."""
    model = build(base)
    parameters = {k: p.detach() for k, p in model.named_parameters()}
    x = image(33, 40)

    def loss(parameters, x):
        maps = torch.func.functional_call(model, parameters, x)
        return sum(y.square().mean() for y in maps)

    loss_of_model = sum(y.square().mean() for y in model(x))
    loss_of_model.backward()
    found = torch.func.grad(loss)(parameters, x)
    leaves = {k: p.clone().requires_grad_() for k, p in parameters.items()}
    loss(leaves, x).backward()
    for name, parameter in model.named_parameters():
        for own in (found[name], leaves[name].grad):
            assert torch.allclose(own, parameter.grad, rtol=1e-9, atol=1e-12), name


@every_series
def test_gradients_of_gradients(base):
    model = build(base).requires_grad_(False)
    x, y = image(33, 40), image(33, 40)

    def norm(x):
        x = x.detach().requires_grad_()
        loss = sum(y.square().mean() for y in model(x))
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        return grad.square().sum(), x

    value, leaf = norm(x)
    (own,) = torch.autograd.grad(value, leaf)
    step = 1e-6
    slope = (norm(x + step * y)[0] - norm(x - step * y)[0]) / (2 * step)
    assert torch.allclose((own * y).sum(), slope, rtol=1e-5)


def test_positive_twice():
    x = torch.linspace(-3, 3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(positive, x)


@torch.no_grad()
def test_attention_has_one_order_in_a_graph():
    """So that it asks nothing about the size of maps: here the other would be less."""

    class Attention(torch.nn.Module):
        def forward(self, qk, v):
            assert is_traced()
            return attend(qk, v, 1, v)

    sides = {2: torch.export.Dim('height', min=2, max=99)}
    sides[3] = torch.export.Dim('width', min=2, max=99)
    like = torch.randn(1, 32, 40, 50), torch.randn(1, 16, 40, 50)
    graph = torch.export.export(Attention(), like, dynamic_shapes=(sides, sides))
    qk, v = torch.randn(1, 32, 2, 3), torch.randn(1, 16, 2, 3)
    own = graph.module()(qk, v)
    assert torch.allclose(own, attend_plain(qk, v, 1, v), atol=1e-6)
