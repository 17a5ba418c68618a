"""All models against the original computation, in double, in every form they have.

Single precision cannot tell another formula from another order of rounding.
"""

import pytest
import torch
from conftest import golden_weights

from mmrecnext import ARCHS, RecNeXt
from mmrecnext.benchmark.original import original_of
from mmrecnext.checkpoint import load_pretrained
from mmrecnext.checkpoint.convert import model_of, write
from mmrecnext.fusion import fuse_conv_norms

TOLERANCE = 1e-12
SIZES = [(65, 97), (1, 40)]

every_arch = pytest.mark.parametrize('arch', ARCHS)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def weights(arch, golden_states):
    weights = golden_weights(golden_states, arch, head=True)
    return {k: v.double() if v.is_floating_point() else v for k, v in weights.items()}


@pytest.fixture
def model(arch, weights):
    """A published model in its training form."""
    with torch.device('meta'):
        model = RecNeXt(arch)
    own = {k: v.clone() for k, v in weights.items() if not k.startswith('head.')}
    model.load_state_dict(own, assign=True)
    return model


def images(n=1):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 3, *size, generator=generator) for size in SIZES]


def assert_equal(own, expected):
    for maps, others in zip(own, expected, strict=True):
        for x, y in zip(maps, others, strict=True):
            assert x.shape == y.shape and x.dtype == y.dtype == torch.float64
            assert (x - y).abs().max() <= TOLERANCE * y.abs().max()


@every_arch
def test_maps_of_every_form(arch, model):
    original = original_of(model.eval())
    with torch.no_grad():
        expected = [original(x) for x in images()]
    assert_equal([model(x) for x in images()], expected)  # as where gradients are asked
    with torch.no_grad():
        assert_equal([model(x) for x in images()], expected)
        fuse_conv_norms(model)
        assert_equal([model(x) for x in images()], expected)
        model.switch_to_deploy()
        assert_equal([model(x) for x in images()], expected)


@pytest.mark.parametrize('arch', ['m0', 'a0', 't', 't_share_channel'])
@torch.no_grad()
def test_maps_of_converted_weights(arch, model, weights, tmp_path, monkeypatch):
    original = original_of(model.eval())
    monkeypatch.setattr('mmrecnext.checkpoint.convert.INPUT_SIDE', 32)  # sooner
    file = tmp_path / 'recnext_fused.pt'
    write(model_of(weights, file.name), 'fused', file)
    with torch.device('meta'):
        loaded = RecNeXt(arch, deploy=True)
    loaded.to_empty(device='cpu')
    load_pretrained(loaded, str(file))
    for image in images():
        assert_equal([loaded(image)], [original(image)])


@every_arch
def test_maps_and_statistics_in_training(arch, model):
    original = original_of(model.train())
    image = images(2)[0]
    assert_equal([model(image)], [original(image)])
    for (name, own), other in zip(
        model.named_buffers(), original.buffers(), strict=True
    ):
        assert torch.allclose(own, other, rtol=TOLERANCE, atol=TOLERANCE), name
