import copy

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from mmrecnext.ops import depthwise
from mmrecnext.ops.depthwise import DepthwiseConv2d

OWN = '_DepthwiseBackward'
CASES = [
    (kernel, stride, times)
    for kernel in (1, 3, 5, 7)
    for stride in (1, 2)
    for times in (1, 2)
]


@pytest.fixture(params=[16, 10_000], ids=['bands', 'whole'])
def taken_apart(monkeypatch, request):
    """The smallest map in parts: of the kernel, and of rows or not."""
    monkeypatch.setattr(depthwise, 'LEAST_NUMEL', 0)
    monkeypatch.setattr(depthwise, 'MOST_PIXELS', request.param)


def layer(kernel, stride, times, channels=2, **options):
    return DepthwiseConv2d(
        channels,
        times * channels,
        kernel,
        stride,
        kernel // 2,
        groups=channels,
        **options,
    )


@pytest.mark.parametrize(('kernel', 'stride', 'times'), CASES)
def test_gradients_in_double(kernel, stride, times, taken_apart):
    torch.manual_seed(0)
    conv = layer(kernel, stride, times, dtype=torch.float64)
    x = torch.randn(2, 2, 7, 10, dtype=torch.float64, requires_grad=True)
    only_scales = kernel == stride == times == 1
    assert conv(x).grad_fn.name() == ('AddBackward0' if only_scales else OWN)
    assert gradcheck(lambda x, *_: conv(x), (x, conv.weight, conv.bias), fast_mode=True)


@pytest.mark.parametrize('shape', [(2, 16, 91, 75), (64, 16, 2, 3)], ids=str)
@pytest.mark.parametrize(('kernel', 'stride', 'times'), CASES)
def test_as_exact_as_pytorch(kernel, stride, times, shape):
    torch.manual_seed(0)
    conv = layer(kernel, stride, times, channels=16)
    plain = nn.Conv2d(16, 16 * times, kernel, stride, kernel // 2, groups=16)
    exact = copy.deepcopy(plain).double()
    x = torch.randn(shape).to(memory_format=torch.channels_last)
    cotangent = torch.randn_like(plain(x))
    results = []
    for module in (conv, plain, exact):
        module.load_state_dict(conv.state_dict())
        source = x.to(module.weight.dtype).clone().requires_grad_()
        y = module(source)
        y.backward(cotangent.to(y.dtype))
        results.append([y, source.grad, module.weight.grad, module.bias.grad])
    for own, other, reference in zip(*results, strict=True):
        error = (other - reference).abs().max()
        bound = max(1e-5 * reference.std(), 2 * error)
        assert (own - reference).abs().max() <= bound


def test_mixed_precision(taken_apart):
    torch.manual_seed(0)
    conv = layer(5, 2, 2, channels=16)
    x = torch.randn(2, 16, 21, 30, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    expected = torch.autograd.grad(
        nn.functional.conv2d(x, conv.weight, conv.bias, 2, 2, groups=16).sum(),
        (x, conv.weight),
    )
    for p, grad in zip((x, conv.weight), expected, strict=True):
        assert p.grad.dtype == torch.float32
        assert (p.grad - grad).abs().max() <= 0.02 * grad.abs().max()


@pytest.mark.parametrize(
    'conv',
    [
        layer(5, 1, 1).eval(),
        DepthwiseConv2d(4, 4, 5, padding=2, groups=2),
        DepthwiseConv2d(4, 4, 5, padding=4, dilation=2, groups=4),
        DepthwiseConv2d(4, 4, 5, padding='same', groups=4),
        DepthwiseConv2d(4, 4, 5, padding=2, padding_mode='reflect', groups=4),
    ],
    ids=str,
)
def test_all_else_is_left_to_pytorch(conv):
    y = conv(torch.randn(1, conv.in_channels, 9, 9))
    assert 'Depthwise' not in y.grad_fn.name()
    assert y.shape == (1, conv.out_channels, 9, 9)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('times', [1, 2])
def test_gradients_of_gradients(times, layout):
    conv = layer(3, 2, times).double()
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    x = x.contiguous(memory_format=layout).requires_grad_()
    assert OWN in type(conv(x).grad_fn).__name__

    def run(x, *parameters):
        names = dict(zip(dict(conv.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(conv, names, x)

    assert gradgradcheck(run, (x, *conv.parameters()))
