"""Recursive convolutions in the place of depthwise ones, in networks of others."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from mmdet.models.backbones import CSPNeXt
from torch import nn

from mmrecnext import RecNeXt, replace_depthwise
from mmrecnext.errors import OptionError
from mmrecnext.models import RecConv


def images(side=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, side, side, generator=generator)


def convnext():
    """A ConvNeXt whose blocks count: they begin as good as switched off."""
    torch.manual_seed(0)
    model = timm.create_model('convnext_atto').eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith('gamma'):
                p.fill_(1.0)
    return model


def cspnext():
    torch.manual_seed(0)
    model = CSPNeXt(widen_factor=0.125, deepen_factor=0.167, out_indices=(4,))
    for module in model.modules():  # else little comes out
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(0.05)
    model.eval()  # which returns nothing
    return model


def repvit():
    torch.manual_seed(0)
    return timm.create_model('repvit_m0_9', num_classes=10).eval()


def mobilenet():
    torch.manual_seed(0)
    return timm.create_model('mobilenetv3_small_050', num_classes=10).eval()


def recursive(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, RecConv)}


def output(model, side=64):
    with torch.no_grad():
        y = model(images(side))
    return y if isinstance(y, torch.Tensor) else y[-1]


@pytest.mark.parametrize(
    ('build', 'count', 'options'),
    [
        (convnext, 12, {}),
        (convnext, 12, dict(kernel_size=9, mode='nearest')),
        (convnext, 12, dict(kernel_size=3, level=2, mode='transposed')),
        (convnext, 12, dict(mode='unpool')),
        (cspnext, 4, dict(min_kernel=5)),
        (repvit, 23, dict(min_kernel=3)),
        (mobilenet, 7, dict(min_kernel=3)),
        (mobilenet, 6, dict(min_kernel=5, kernel_size=7)),
    ],
)
def test_the_network_computes_what_it_did(build, count, options, capsys):
    model = build()
    before = output(model)
    replaced = replace_depthwise(model, **options)
    assert str(replaced) in capsys.readouterr().out
    assert len(replaced.layers) == len(recursive(model)) == count
    assert [*recursive(model)] == [layer.name for layer in replaced.layers]
    torch.testing.assert_close(output(model), before, atol=1e-5, rtol=0)

    with torch.no_grad():  # and would not, were these kernels not zeros
        for layer in recursive(model).values():
            layer.convs[-2].weight.fill_(0.1)
    assert (output(model) - before).abs().max() > 1e-3


def test_kernels_and_levels():
    model = convnext()
    old = {
        name: module.weight
        for name, module in model.named_modules()
        if getattr(module, 'kernel_size', 0) == (7, 7)
    }
    replaced = replace_depthwise(model, verbose=False)
    for layer in replaced.layers:
        new = model.get_submodule(layer.name)
        assert layer.stride * 2**layer.level == 64
        assert layer.field == 5 * 2**layer.level
        assert new.level == layer.level
        assert new.convs[-1].weight is old[layer.name]
        sides = {conv.kernel_size for conv in (new.down, *new.convs[:-1])}
        assert sides == {(5, 5)}

    model = convnext()
    replace_depthwise(model, kernel_size=9, verbose=False)
    for name, new in recursive(model).items():
        assert torch.equal(new.convs[-1].weight, F.pad(old[name], [1] * 4))


def test_gradients_reach_the_new_kernels():
    """The zeros in the first step; what is behind them from the second on."""
    model = convnext()
    replace_depthwise(model, verbose=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    at_once, then = [], []
    for reached in (at_once, then):
        optimizer.zero_grad()
        model(images(128)).square().mean().backward()
        for layer in recursive(model).values():
            for name, p in layer.named_parameters():
                assert p.grad.isfinite().all()
                if p.grad.abs().sum() > 0:
                    reached.append(name)
        optimizer.step()
    assert len(then) == sum(
        len([*layer.parameters()]) for layer in recursive(model).values()
    )
    assert len(at_once) == 12 * 3  # zeros, the old kernel, its bias
    assert not {'down.weight'} & {*at_once}


def test_from_random_kernels():
    model = convnext()
    replaced = replace_depthwise(model, keep_kernels=False, verbose=False)
    for layer in recursive(model).values():
        assert {conv.kernel_size for conv in layer.convs} == {(5, 5)}
        assert layer.convs[-1].bias is not None and layer.convs[0].bias is None
        assert all(conv.weight.abs().sum() > 0 for conv in layer.convs)
    assert replaced.params[1] == sum(p.numel() for p in model.parameters())
    assert output(model).isfinite().all()


class Net(nn.Module):
    """One convolution in two places, and others that stay as they are."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 4, 7, padding=3, groups=4)
        self.again = self.first
        self.halving = nn.Conv2d(4, 4, 7, 2, 3, groups=4)
        self.shrinking = nn.Conv2d(4, 4, 7, groups=4)
        self.dilated = nn.Conv2d(4, 4, 7, padding=6, dilation=2, groups=4)
        self.norm = nn.BatchNorm2d(4)
        self.same = nn.Conv2d(4, 4, 9, padding='same', groups=4, bias=False)
        self.uncalled = nn.Conv2d(4, 4, 7, padding=3, groups=4)

    def forward(self, x):
        x = self.halving(self.again(self.first(x)))
        return self.same(self.norm(self.dilated(self.shrinking(x))))


def test_what_is_replaced_and_counted(capsys):
    model = Net().to(torch.float64)
    model.first.weight.requires_grad_(False)
    model.same.eval()
    state, example = copy.deepcopy(model.state_dict()), torch.rand(3, 4, 32, 32)
    replaced = replace_depthwise(model, 11, level=1, example=example.double())
    assert [layer.name for layer in replaced.layers] == ['first', 'again', 'same']
    assert [layer.stride for layer in replaced.layers] == [1, 1, 3]
    assert model.first is model.again
    assert not model.first.convs[-1].weight.requires_grad
    assert model.first.down.weight.requires_grad
    assert model.first.down.weight.dtype == torch.float64
    assert model.training and model.first.training and not model.same.training
    for name in ('running_mean', 'num_batches_tracked'):  # nothing was computed
        torch.testing.assert_close(
            model.state_dict()[f'norm.{name}'], state[f'norm.{name}']
        )

    # Kernels of 7, 7, 7, 7 and 9 on the maps that they give, then the new ones.
    def cost(side, kernel):
        return 4 * side**2 * kernel**2

    others = cost(16, 7) + 2 * cost(10, 7)
    enlarging = 4 * 4 * (2 * 32**2 + 10**2)
    after = 2 * (cost(32, 11) + 2 * cost(16, 11)) + cost(10, 11) + 2 * cost(5, 11)
    assert replaced.macs == (
        2 * cost(32, 7) + others + cost(10, 9),
        others + after + enlarging,
    )
    added = 4 * (11**2 - 7**2) + 4 * (11**2 - 9**2) + 2 * 2 * 4 * 11**2
    assert replaced.params[1] - replaced.params[0] == added
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ['1', '4', '2', '7', '1', '7', '->', '22']
    assert lines[-1].startswith('multiply-adds at 32 x 32: ')


def test_in_half_precision_and_with_bands():
    model = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 4, 7, 1, 3, groups=4))
    replaced = replace_depthwise(model.bfloat16(), verbose=False)
    assert model[1].down.weight.dtype == torch.bfloat16
    assert replaced.layers[0].level == 5 and replaced.image_size == (224, 224)


class Reading(nn.Sequential):
    def forward(self, x):
        assert self[0].weight.dtype == x.dtype
        return super().forward(x)


@pytest.mark.parametrize(
    ('model', 'options', 'message'),
    [
        (nn.Conv2d(3, 4, 7), {}, 'no depthwise convolution of stride 1 with an odd'),
        (RecNeXt('m0'), dict(min_kernel=3), 'RecNeXt has no depthwise convolution'),
        (
            nn.Sequential(nn.Conv2d(3, 3, 5, padding=2, groups=3)),
            {},
            'min_kernel=7 or more; those there are of 5x5',
        ),
        (Net(), dict(min_kernel=5), 'cannot be run on images .1, 3, 224, 224'),
        (Net(), dict(min_kernel=1), 'min_kernel is an integer of 2 or more, got 1'),
        (Net(), dict(level=0), 'level is an integer of 1 or more, or None, got 0'),
        (Net(), dict(example=3), 'example is images'),
        (Net(), dict(keep_kernels='no'), 'keep_kernels is True or False'),
        (
            nn.Sequential(nn.Conv2d(3, 3, 7, padding=3, groups=3)),
            dict(kernel_size=4),
            'odd and positive, got 4',
        ),
        (
            Reading(nn.Conv2d(3, 3, 7, padding=3, groups=3)),
            {},
            "cannot be run .* no attribute 'weight'",
        ),
    ],
)
def test_errors_leave_the_model_as_it_was(model, options, message):
    before = [*model.state_dict()]
    with pytest.raises(OptionError, match=message):
        replace_depthwise(model, **options)
    assert [*model.state_dict()] == before
    assert not any(module._forward_pre_hooks for module in model.modules())
