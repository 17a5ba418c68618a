"""timm's `features_only` by every `feature_cls`: the maps of the model itself."""

import pytest
import timm
import torch
from timm.models import FeatureDictNet, FeatureListNet

import mmrecnext.classification  # noqa: F401
from mmrecnext import ARCHS
from mmrecnext.archs import get_arch
from mmrecnext.errors import OptionError
from tests.helpers import SMALL

CLASSES = ['getter', 'list', 'dict', 'hook', 'fx']

pytestmark = [
    pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning'),
    pytest.mark.filterwarnings('ignore:The nodes obtained by tracing:UserWarning'),
]


def image(height, width):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, height, width, generator=generator).double()


def build(arch, **options):
    return timm.create_model(f'recnext_{arch}', **options).double()


@pytest.fixture(scope='module', autouse=True)
def small():
    """Models of few layers in the place of the published ones."""
    with pytest.MonkeyPatch.context() as patch:
        for arch, settings in SMALL.items():
            patch.setitem(ARCHS, arch, get_arch(settings))
        yield


@pytest.fixture(scope='module', params=SMALL)
def whole(request, small):
    """A classifier and its maps in inference, and its weights without the head."""
    torch.manual_seed(0)
    model = build(request.param).eval()
    weights = {k: v for k, v in model.state_dict().items() if k[:5] != 'head.'}
    with torch.no_grad():
        _, maps = model.forward_intermediates(image(65, 97))
    return request.param, model, weights, maps


def extractor(arch, weights, feature_cls, **options):
    """Maps of a model of given weights, in inference."""
    model = build(arch, features_only=True, feature_cls=feature_cls, **options).eval()
    prefix = {'fx': 'graph_module', 'hook': 'body'}.get(feature_cls, 'model')
    named = {f'{prefix}.{key}': value for key, value in weights.items()}
    model.load_state_dict(named, strict='out_indices' not in options)
    return model


def values(maps):
    return list(maps.values()) if isinstance(maps, dict) else maps


def assert_same(maps, expected):
    assert len(maps) == len(expected)
    for x, y in zip(maps, expected, strict=True):
        assert x.shape == y.shape
        assert (x - y).abs().max() <= 1e-12 * y.abs().max()


@pytest.mark.parametrize('feature_cls', CLASSES)
def test_maps_and_gradients(whole, feature_cls):
    arch, model, weights, expected = whole
    features = extractor(arch, weights, feature_cls)
    assert features.feature_info.channels() == [x.shape[1] for x in expected]
    with torch.no_grad():
        maps = features(image(65, 97))
    assert_same(values(maps), expected)
    if feature_cls == 'dict':
        assert [*maps] == ['0', '1', '2', '3']
    _, own = model.forward_intermediates(image(40, 33))
    model.zero_grad()
    for found in (values(features(image(40, 33))), own):
        sum(x.square().mean() for x in found).backward()
    for name, parameter in features.named_parameters():
        wanted = model.get_parameter(name.partition('.')[2]).grad
        assert torch.allclose(parameter.grad, wanted, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize('feature_cls', CLASSES)
@torch.no_grad()
def test_some_maps(whole, feature_cls):
    arch, _, weights, expected = whole
    features = extractor(arch, weights, feature_cls, out_indices=(0, -2))
    maps = features(image(65, 97))
    assert_same(values(maps), [expected[0], expected[2]])
    strides = [ARCHS[arch].strides[i] for i in (0, -2)]
    assert features.feature_info.reduction() == strides


@pytest.mark.parametrize('feature_cls', ['dict', 'hook', 'fx'])
@pytest.mark.parametrize('whole', ['m0', 't'], indirect=True)
@torch.no_grad()
def test_traces_take_any_size(whole, feature_cls):
    arch, _, weights, expected = whole
    features = extractor(arch, weights, feature_cls)
    trace = torch.jit.trace(features, image(64, 64), check_trace=False, strict=False)
    assert_same(values(trace(image(65, 97))), expected)
    if feature_cls == 'dict':
        assert_same(values(torch.jit.script(features)(image(65, 97))), expected)


def test_classes_of_timm():
    for kind, maps in ((FeatureListNet, list), (FeatureDictNet, dict)):
        features = build('m0', features_only=True, feature_cls=kind)
        assert isinstance(features(image(32, 32)), maps)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(feature_cls='graph'), "getter, list, dict, hook, fx, got 'graph'"),
        (dict(feature_cls='fx', deploy=True), "ignores deploy: .*feature_cls='getter'"),
        (dict(feature_cls='fx', frozen_stages=0, norm_eval=True), 'frozen_stages, nor'),
        (dict(feature_cls='fx', with_cp=True), 'ignores with_cp'),
    ],
)
def test_what_cannot_be_had(options, message):
    with pytest.raises(OptionError, match=message):
        build('m0', features_only=True, **options)


@torch.no_grad()
def test_modes_are_followed(whole):
    arch, _, weights, expected = whole
    features = extractor(arch, weights, 'list', norm_eval=True, frozen_stages=1)
    assert_same(features.train()(image(65, 97)), expected)
    features.eval().model.switch_to_deploy()
    assert_same(features(image(65, 97)), expected)
