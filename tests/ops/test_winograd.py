import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmrecnext.ops import fast_paths, winograd
from mmrecnext.ops.winograd import (
    Conv3x3,
    _Conv3x3,
    aten,
    conv3x3,
    is_3x3,
    transform,
    weight_gradient,
)
from tests.helpers import compiled_and_graphs


def largest(found, expected):
    """The largest difference, as a share of the root mean square."""
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.square().mean().sqrt())


def layer(channels=128, out_channels=128, **options):
    torch.manual_seed(0)
    return nn.Conv2d(channels, out_channels, 3, **{'padding': 1, **options})


class TestConv3x3:
    @pytest.mark.parametrize('padding', [(1, 1), (0, 0), (0, 2), (3, 1)], ids=str)
    @pytest.mark.parametrize('size', [(8, 12), (9, 7), (3, 5), (21, 26)], ids=str)
    @pytest.mark.parametrize('bytes_', [1, 40_000, 2**23])
    def test_equals_the_direct_one(self, size, padding, bytes_, monkeypatch):
        monkeypatch.setattr(winograd, 'BAND_BYTES', bytes_)
        torch.manual_seed(0)
        x = torch.randn(3, 5, *size, dtype=torch.double)
        weight = torch.randn(4, 5, 3, 3, dtype=torch.double)
        bias = torch.randn(4, dtype=torch.double)
        expected = F.conv2d(x, weight, bias, padding=padding)
        found = conv3x3(x, transform(weight), bias, padding)
        assert largest(found, expected) < 1e-13
        grad = torch.randn_like(expected)
        options = [4], [1, 1], padding, [1, 1], False, [0, 0], 1, [False, True, False]
        _, expected, _ = aten.convolution_backward(grad, x, weight, *options)
        assert largest(weight_gradient(grad, x, padding), expected) < 1e-13

    def test_needs_no_bias_and_no_order_of_memory(self):
        x = torch.randn(4, 11, 10, 2, dtype=torch.double)
        weight = torch.randn(6, 4, 3, 3, dtype=torch.double)
        for view in (x.permute(3, 0, 1, 2), x[:1, :1, :1].expand(2, 4, 9, 2)):
            found = conv3x3(view, transform(weight), None)
            assert largest(found, F.conv2d(view, weight, padding=1)) < 1e-13
            assert found.is_contiguous(memory_format=torch.channels_last)

    def test_rounds_about_twice_as_much_as_a_running_sum(self):
        """Direct convolutions round by processor: the yardstick is a running sum."""
        conv = layer(256, 64)
        x = torch.randn(1, 256, 12, 20)
        with torch.no_grad():
            exact = F.conv2d(
                x.double(), conv.weight.double(), conv.bias.double(), padding=1
            )
            running = torch.zeros(64, 240)
            columns = F.unfold(x, 3, padding=1)[0]
            for weight, pixels in zip(conv.weight.flatten(1).T, columns, strict=True):
                running += weight[:, None] * pixels
            running = running.view_as(exact) + conv.bias[:, None, None]
            found = conv3x3(x, transform(conv.weight), conv.bias)
        for size in (lambda error: error.square().mean().sqrt(), torch.amax):
            assert size((found - exact).abs()) < 2.5 * size((running - exact).abs())

    def test_has_gradients_of_gradients(self):
        def conv(x, weight, bias):
            return _Conv3x3.apply(x, weight, bias, (1, 0))

        torch.manual_seed(0)
        shapes = (2, 2, 5, 6), (3, 2, 3, 3), (3,)
        inputs = [
            torch.randn(shape, dtype=torch.double, requires_grad=True)
            for shape in shapes
        ]
        assert torch.autograd.gradcheck(conv, inputs)
        assert torch.autograd.gradgradcheck(conv, inputs)


@pytest.mark.parametrize('padding', [(1, 1), (0, 2), (3, 1)], ids=str)
@pytest.mark.parametrize('wanted', [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_layer_in_training(padding, wanted):
    conv = layer(bias=True, padding=padding)
    x, results = torch.randn(2, 128, 17, 22), []
    for each in (conv, Conv3x3(conv)):
        inputs = [x.clone(), each.weight, each.bias]
        for i, tensor in enumerate(inputs):
            tensor.requires_grad_(i in wanted)
        found = each(inputs[0])
        assert ('_Conv3x3' in found.grad_fn.name()) == (each is not conv)
        found = found.relu_()  # as behind most
        loss = (found * torch.linspace(-1, 1, found.numel()).view(found.shape)).sum()
        grads = torch.autograd.grad(loss, [inputs[i] for i in wanted])
        results.append([found, *grads])
    for found, expected in zip(*results[::-1], strict=True):
        assert largest(found, expected) < 2e-4


class TestLayer:
    @pytest.fixture(autouse=True)
    def _without_gradients(self):
        with torch.no_grad():
            yield

    @pytest.fixture
    def fast(self, monkeypatch):
        """What the fast path was asked to convolve."""
        asked = []

        def record(x, *args):
            asked.append(x.shape)
            return conv3x3(x, *args)

        monkeypatch.setattr(winograd, 'conv3x3', record)
        return asked

    @pytest.mark.parametrize('bias', [True, False])
    def test_stands_for_a_convolution(self, bias, fast):
        conv = layer(bias=bias)
        own = Conv3x3(conv)
        x = torch.randn(2, 128, 17, 22)
        assert own.weight is conv.weight and own.state_dict().keys() == (
            conv.state_dict().keys()
        )
        assert largest(own(x), conv(x)) < 1e-4
        assert fast == [x.shape]

    def test_follows_its_weight(self, fast):
        conv = layer()
        own, x = Conv3x3(conv), torch.randn(1, 128, 20, 20)
        own(x)
        conv.weight.mul_(2)
        assert largest(own(x), conv(x)) < 1e-4
        other = layer(bias=True)
        nn.init.normal_(other.weight)
        own.load_state_dict(other.state_dict())
        assert largest(own(x), other(x)) < 1e-4
        own.weight = nn.Parameter(own.weight + 1)
        other.weight.add_(1)
        assert largest(own(x), other(x)) < 1e-4
        assert largest(copy.deepcopy(own)(x), other(x)) < 1e-4
        assert len(fast) == 5

    def test_takes_weights_of_inference(self, fast):
        with torch.inference_mode():
            conv = layer()
            own, x = Conv3x3(conv), torch.randn(1, 128, 20, 20)
            assert largest(own(x), conv(x)) < 1e-4
        assert fast

    @pytest.mark.parametrize(
        'shape', [(1, 128, 12, 12), (50, 128, 1, 1), (0, 128, 9, 9)]
    )
    def test_leaves_small_maps(self, shape, fast):
        assert Conv3x3(layer())(torch.randn(shape)).shape == shape
        assert not fast

    @pytest.mark.parametrize('context', ['autocast', 'off', 'traced', 'double'])
    def test_leaves_all_else(self, context, fast):
        own, x = Conv3x3(layer()), torch.randn(1, 128, 20, 20)
        if context == 'autocast':
            with torch.autocast('cpu', torch.bfloat16):
                assert own(x).dtype == torch.bfloat16
        elif context == 'off':
            with fast_paths.off():
                own(x)
        elif context == 'traced':
            traced = torch.jit.trace(own, x)
            assert largest(traced(x[..., :16]), own(x[..., :16])) < 1e-4
            fast.clear()  # of the layer itself, just now
            kinds = {node.kind() for node in traced.inlined_graph.nodes()}
            assert 'aten::_convolution' in kinds and 'aten::bmm' not in kinds
        else:
            own.double()(x.double())
        assert not fast

    @pytest.mark.slow
    def test_stays_in_graphs_of_all_sizes(self, fast):
        model = nn.Sequential(Conv3x3(layer()), nn.ReLU(), Conv3x3(layer(bias=False)))
        whole, graphs = compiled_and_graphs(model)
        for size in [(20, 24), (17, 22), (6, 5)]:
            x = torch.randn(2, 128, *size).to(memory_format=torch.channels_last)
            assert largest(whole(x), model(x)) < 1e-5
        assert len(fast) == 2 * 2 * 2 and len(graphs) == 1
        model[0].weight.mul_(2)
        x = torch.randn(2, 128, 20, 24)
        assert largest(whole(x), model(x)) < 1e-5
        with torch.enable_grad():
            assert whole(x.requires_grad_()).requires_grad

    @pytest.mark.slow
    def test_the_operator_tells_what_it_returns(self):
        for size in ((20, 24), (6, 5)):
            x, conv = torch.randn(1, 128, *size), layer(padding=(0, 2))
            args = x, conv.weight.detach(), conv.bias.detach(), [0, 2]
            torch.library.opcheck(winograd._convolve, args)

    def test_knows_pixels_by_default(self):
        with torch.device('meta'):
            conv = layer()
            assert Conv3x3(conv)(torch.empty(1, 128, 40, 40)).device.type == 'meta'


@pytest.mark.parametrize(
    'options',
    [
        dict(stride=2),
        dict(dilation=2),
        dict(groups=2),
        dict(padding='same'),
        dict(padding_mode='reflect'),
        dict(channels=64),
        dict(out_channels=127),
    ],
    ids=str,
)
def test_other_layers_are_left(options):
    assert is_3x3(layer())
    assert not is_3x3(layer(**options))


def test_other_kernels_are_left():
    assert not is_3x3(nn.Conv2d(128, 128, 1))
    assert not is_3x3(nn.ConvTranspose2d(128, 128, 3))
