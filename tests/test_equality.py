"""Against the original computation, in double, in every form that a model has.

Single precision cannot tell another formula from another order of rounding.
"""

import pytest
import torch
from conftest import SMALL, golden_weights
from test_fusion import randomise

from mmrecnext import ARCHS, RecNeXt
from mmrecnext.benchmark.original import Original, original_of
from mmrecnext.checkpoint import load_pretrained
from mmrecnext.checkpoint.convert import model_of
from mmrecnext.fusion import fuse_conv_norms

TOLERANCE = 1e-12
SIZES = [(65, 97), (33, 31), (1, 40)]

every_arch = pytest.mark.parametrize('arch', ARCHS)
every_series = pytest.mark.parametrize('base', SMALL)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def image(size, n=1):
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(0))


def assert_equal(maps, expected):
    for x, y in zip(maps, expected, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype == torch.float64
        assert (x - y).abs().max() <= TOLERANCE * y.abs().max()


def published(arch, weights):
    """A published model and the original computation, with the same weights."""
    weights = {k: v for k, v in weights.items() if not k.startswith('head.')}
    with torch.device('meta'):  # no time for weights that are replaced
        models = RecNeXt(arch), Original(ARCHS[arch])
    for model in models:
        model.load_state_dict(weights, assign=True)
        model.eval()
    return models


def doubled(weights):
    return {k: v.double() if v.is_floating_point() else v for k, v in weights.items()}


@every_arch
@torch.no_grad()
def test_every_published_model(arch, golden_states):
    model, original = published(arch, doubled(golden_weights(golden_states, arch)))
    expected = original(image((33, 31)))
    assert_equal(model(image((33, 31))), expected)
    model.switch_to_deploy()
    assert_equal(model(image((33, 31))), expected)


@pytest.mark.parametrize('arch', ['m0', 'a0', 't', 't_share_channel'])
@torch.no_grad()
def test_converted_weights(arch, golden_states, tmp_path):
    """As they are fused and read; test_released_forms.py has them in TorchScript."""
    weights = doubled(golden_weights(golden_states, arch, head=True))
    _, original = published(arch, weights)
    fused = model_of(weights, 'golden weights')
    fuse_conv_norms(fused)
    torch.save({'model': fused.state_dict()}, tmp_path / 'recnext_fused.pth')
    with torch.device('meta'):
        loaded = RecNeXt(arch, deploy=True)
    loaded.to_empty(device='cpu')
    load_pretrained(loaded, str(tmp_path / 'recnext_fused.pth'))
    assert_equal(loaded(image((33, 31))), original(image((33, 31))))


@pytest.mark.parametrize('size', SIZES, ids=str)
@every_series
def test_every_form(base, size):
    torch.manual_seed(0)
    model = randomise(RecNeXt(SMALL[base]))
    expected = original_of(model)(image(size))
    assert_equal(model(image(size)), expected)
    for change in (lambda model: None, fuse_conv_norms, RecNeXt.switch_to_deploy):
        change(model)
        with torch.no_grad():
            assert_equal(model(image(size)), expected)


# Of two pixels in a batch, a norm makes 1 and -1, whatever rounding left between them.
@pytest.mark.parametrize('size', [(65, 97), (129, 70)], ids=str)
@every_series
def test_training(base, size):
    torch.manual_seed(0)
    model = randomise(RecNeXt(SMALL[base])).train()
    original = original_of(model)
    assert_equal(model(image(size, n=2)), original(image(size, n=2)))
    for (name, own), other in zip(
        model.named_buffers(), original.buffers(), strict=True
    ):
        assert torch.allclose(own, other, rtol=TOLERANCE, atol=TOLERANCE), name
