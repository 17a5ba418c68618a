import pytest
import torch
from torch import nn

from mmrecnext import ARCHS, RecNeXt
from mmrecnext.errors import OptionError
from mmrecnext.models import LinearAttn
from mmrecnext.models.blocks import RepMixer, dilate
from tests.helpers import SERIES
from tests.models.helpers import LINEAR, OPERATORS

# No recursion and no attention, which see the map as a whole: only local layers.
LOCAL = {
    'm': dict(base='m0', dims=(8, 16, 32, 64), depths=(1, 1, 2, 1), mixer={'level': 0}),
    'b': dict(
        base='b',
        dims=(16, 32, 48, 64),
        depths=(1, 1, 2, 1),
        mixer_norm=True,
        mixer=dict(type='RecConv', level=0),
    ),
}


def set_statistics(module):
    """Make batch norms shift and scale, as if trained."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
    return module.double().eval()


def pair(arch, **options):
    """A network and its dilated form, of the same weights."""
    torch.manual_seed(0)
    plain = set_statistics(RecNeXt(arch))
    dilated = RecNeXt(arch, **options).double().eval()
    dilated.load_state_dict(plain.state_dict())
    return plain, dilated


def image(height=96, width=128):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 3, height, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize('arch', ARCHS)
def test_weights_are_those_of_the_published_model(arch):
    with torch.device('meta'):
        plain = RecNeXt(arch).state_dict()
        for stride in ARCHS[arch].strides:
            dilated = RecNeXt(arch, output_stride=stride).state_dict()
            assert [*dilated] == [*plain]
            assert all(dilated[key].shape == plain[key].shape for key in plain)


@pytest.mark.parametrize('limit', range(4))
@pytest.mark.parametrize('arch', LOCAL)
@torch.no_grad()
def test_dilated_maps_hold_the_strided_ones(arch, limit):
    strides = RecNeXt(LOCAL[arch]).out_strides
    plain, dilated = pair(LOCAL[arch], output_stride=strides[limit])
    for x, y, stride in zip(
        plain(image(97, 131)), dilated(image(97, 131)), strides, strict=True
    ):
        step = max(1, stride // strides[limit])
        assert torch.allclose(y[..., ::step, ::step], x)


LAYERS = {
    'attention': lambda: LinearAttn(16, num_heads=2),
    'attention of fewer channels': lambda: LinearAttn(16, qk_ratio=1, qk_groups=1),
    'rep mixer': lambda: RepMixer(16, norm_cfg=dict(type='BN'), bias=True),
    'padding by its name': lambda: nn.Conv2d(16, 16, 5, padding='same', groups=4),
}


@pytest.mark.parametrize('dilation', [2, 4])
@pytest.mark.parametrize('layer', LAYERS)
@torch.no_grad()
def test_dilated_layers_commute_with_enlarging(layer, dilation):
    def enlarge(x):
        return x.repeat_interleave(dilation, 2).repeat_interleave(dilation, 3)

    torch.manual_seed(0)
    layer = set_statistics(LAYERS[layer]())
    x = torch.randn(2, 16, 7, 10, dtype=torch.float64)
    expected = enlarge(layer(x))
    dilate(layer, dilation)
    assert torch.allclose(layer(enlarge(x)), expected)


@pytest.mark.parametrize('operator', LINEAR)
@torch.no_grad()
def test_dilated_recursions_keep_the_size_and_reach_further(operator):
    def reach(dilation):
        torch.manual_seed(0)
        layer = OPERATORS[operator](8, 2, 5).double()
        dilate(layer, dilation)
        x = torch.zeros(1, 8, 193, 200, dtype=torch.float64)
        x[:, :, 96, 100] = 1
        y = layer(x)
        assert y.shape == x.shape
        rows, columns = y[0].abs().sum(0).nonzero().unbind(1)
        return max((96 - rows.min()).item(), (columns.max() - 100).item())

    assert 1.5 * reach(1) < reach(2) <= 2 * reach(1) + 4


@pytest.mark.parametrize('limit', [1, 2])
@pytest.mark.parametrize('series', SERIES)
def test_every_series_trains_and_deploys(series, limit):
    strides = RecNeXt(SERIES[series]).out_strides
    plain, model = pair(SERIES[series], output_stride=strides[limit])
    assert model.out_strides == tuple(min(s, strides[limit]) for s in strides)

    maps = model(image(161, 170))
    for x, y, stride in zip(
        maps, plain(image(161, 170)), model.out_strides, strict=True
    ):
        assert x.shape[2:] == (-(-161 // stride), -(-170 // stride))
        if stride < strides[limit]:
            assert torch.equal(x, y)

    model.train()(image(160, 160))[-1].square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())

    model.eval()
    with torch.no_grad():
        expected = model(image())
        model.switch_to_deploy()
        for x, y in zip(model(image()), expected, strict=True):
            assert torch.allclose(x, y)


@pytest.mark.parametrize(
    ('arch', 'choices'), [('m0', r'\(4, 8, 16, 32\)'), ('t', r'\(8, 16, 32, 64\)')]
)
@pytest.mark.parametrize('output_stride', [0, 2, 12, 128, True])
def test_impossible_strides(arch, choices, output_stride):
    with pytest.raises(OptionError, match=f'{choices}.* got {output_stride}'):
        RecNeXt(arch, output_stride=output_stride)
