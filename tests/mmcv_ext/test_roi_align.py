"""RoIAlign on a CPU as sums of rows, beside torchvision's operator."""

import pytest
import torch
import torchvision

from mmrecnext.mmcv_ext import install, roi_align

pytestmark = pytest.mark.skipif(
    not install(), reason='mmcv has its own compiled operators or the switch is off'
)

from mmcv import ops  # noqa: E402

SCALE = 1 / 4
INF = float('inf')


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


FEATURES = random(2, 3, 11, 14)
ROIS = torch.tensor(
    [
        [0, 3.1, 2.7, 20.3, 40.9],
        [1, 0.0, 0.0, 56.0, 44.0],  # the whole map
        [1, 8.0, 4.0, 36.0, 32.0],  # bins of whole pixels, if there are 7 of them
        [0, 30.2, 20.1, 31.0, 20.9],  # within a pixel
        [0, 10.0, 10.0, 10.0, 10.0],  # without extent
        [1, 20.0, 30.0, 10.0, 12.0],  # inverted
        [0, -30.0, -25.0, 12.0, 9.0],  # over the edge
        [0, 40.0, 30.0, 90.0, 81.0],
        [1, 200.0, 200.0, 260.0, 270.0],  # beyond it
        [1, -300.0, -200.0, 400.0, 300.0],  # around the map
        [0, 1.0, 20.0, 55.0, 22.0],  # flat
    ],
    dtype=torch.float64,
)
sizes = pytest.mark.parametrize('size', [(1, 1), (7, 7), (3, 5)], ids=str)
ratios = pytest.mark.parametrize('ratio', [0, 1, 2, 3])
both_aligned = pytest.mark.parametrize('aligned', [True, False])


@pytest.fixture
def sums(monkeypatch):
    """Have sums formed however few there are."""
    monkeypatch.setattr(roi_align, '_PREPARED', -INF)
    monkeypatch.setattr(roi_align, '_PREPARED_BACKWARD', -INF)
    monkeypatch.setattr(roi_align, '_tv', None)


def with_gradient(function, features, rois, size, ratio, aligned, grad=None):
    """Return the bins, and the gradient by the features of their sum with weights."""
    leaf = features.detach().clone().requires_grad_()
    if function is ops.roi_align:
        bins = function(leaf, rois, size, SCALE, ratio, 'avg', aligned)
    else:
        bins = function(leaf, rois, size, SCALE, ratio, aligned)
    grad = random(*bins.shape, seed=1).to(bins) if grad is None else grad
    return bins.detach(), torch.autograd.grad(bins, leaf, grad)[0]


def both(features, rois, *settings):
    mine = with_gradient(ops.roi_align, features, rois, *settings)
    theirs = torchvision.ops.roi_align
    return zip(mine, with_gradient(theirs, features, rois, *settings), strict=True)


def relative_error(actual, expected):
    assert actual.shape == expected.shape
    difference = (actual.double() - expected.double()).abs().max()
    return (difference / expected.double().abs().max()).item()


@sizes
@ratios
@both_aligned
@pytest.mark.usefixtures('sums')
def test_equals_torchvision(size, ratio, aligned):
    for actual, expected in both(FEATURES, ROIS, size, ratio, aligned):
        assert relative_error(actual, expected) < 1e-12
    single = FEATURES.float(), ROIS.float()
    for actual, expected in both(*single, size, ratio, aligned):
        assert relative_error(actual, expected) < 1e-5


@ratios
@pytest.mark.usefixtures('sums')
def test_gradcheck(ratio):
    leaf = FEATURES.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: ops.roi_align(x, ROIS, (3, 5), SCALE, ratio, 'avg', True),
        leaf,
        fast_mode=True,
    )


@ratios
@pytest.mark.usefixtures('sums')
def test_regions_on_the_borders_of_pixels(ratio):
    """Where rounding decides how many samples there are, and between which pixels."""
    corners = torch.arange(0, 8).float() * 4
    x, y, wide, high = torch.cartesian_prod(corners, corners, corners, corners).T
    rois = torch.stack([x * 0, x, y, x + wide, y + high], 1)[::7]
    for settings in (((7, 7), ratio, False), ((7, 3), ratio, True)):
        for actual, expected in both(FEATURES.float(), rois, *settings):
            assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.usefixtures('sums')
def test_bands(ratio, monkeypatch):
    settings = FEATURES, ROIS, (3, 5), ratio, True
    whole = with_gradient(ops.roi_align, *settings)
    for name, value in (('_ENTRIES', 300), ('_ENTRIES_BACKWARD', 200), ('_PIXELS', 9)):
        monkeypatch.setattr(roi_align, name, value)
    for actual, expected in zip(
        with_gradient(ops.roi_align, *settings), whole, strict=True
    ):
        assert relative_error(actual, expected) < 1e-12


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.usefixtures('sums')
def test_half_precision(dtype, mixed):
    features = FEATURES.to(dtype)
    rois = ROIS.float() if mixed else ROIS.to(dtype)
    actual = with_gradient(ops.roi_align, features, rois, (7, 7), 0, True)
    exact = features.double(), rois.double()
    expected = with_gradient(torchvision.ops.roi_align, *exact, (7, 7), 0, True)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        assert relative_error(a, e) < torch.finfo(dtype).eps


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.usefixtures('sums')
def test_layouts(ratio):
    """Features and gradients of any strides, and an output that held other values."""
    plain = with_gradient(ops.roi_align, FEATURES, ROIS, (7, 7), ratio, True)
    last = FEATURES.contiguous(memory_format=torch.channels_last)
    for features in (last, FEATURES.mT.contiguous().mT, FEATURES.flip(3).flip(3)):
        grad = random(*plain[0].shape, seed=1).mT.contiguous().mT
        actual = with_gradient(ops.roi_align, features, ROIS, (7, 7), ratio, True, grad)
        for a, e in zip(actual, plain, strict=True):
            assert torch.equal(a, e)
    output = torch.full_like(plain[0], 7.0).mT.contiguous().mT
    roi_align.mean(
        FEATURES, ROIS, output, roi_align.Pooling((7, 7), SCALE, ratio, True)
    )
    assert torch.equal(output, plain[0])


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.usefixtures('sums')
def test_nothing(ratio):
    """No regions, none with an extent, and no channels."""
    for features, rois in (
        (FEATURES, ROIS[:0]),
        (FEATURES, ROIS[4:5]),
        (FEATURES[:, :0], ROIS),
    ):
        bins, grad = with_gradient(ops.roi_align, features, rois, (2, 2), ratio, True)
        assert bins.shape == (len(rois), features.shape[1], 2, 2)
        if ratio == 0:
            assert not bins.any()
            assert not grad.any()


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('lost', [float('nan'), INF, -INF])
@pytest.mark.usefixtures('sums')
def test_regions_that_are_nowhere_are_zero(ratio, lost):
    rois = ROIS.clone()
    rois[1, 3] = lost
    rois[2, 1:] = lost
    bins, grad = with_gradient(ops.roi_align, FEATURES, rois, (3, 3), ratio, True)
    assert not bins[2].any()
    assert bins.isfinite().all()
    assert grad.isfinite().all()
    rest = [0, 3, 6, 7]
    expected = with_gradient(ops.roi_align, FEATURES, ROIS, (3, 3), ratio, True)
    assert torch.equal(bins[rest], expected[0][rest])


@pytest.mark.parametrize('ratio', [0, 2])
def test_maxima(ratio, request):
    """Of samples that are sums, beside those of torchvision."""

    def maxima():
        leaf = FEATURES.clone().requires_grad_()
        bins = ops.roi_align(leaf, ROIS, (3, 5), SCALE, ratio, 'max', True)
        grad = random(*bins.shape, seed=1)
        return bins.detach(), torch.autograd.grad(bins, leaf, grad)[0]

    expected = maxima()
    request.getfixturevalue('sums')
    for a, e in zip(maxima(), expected, strict=True):
        assert relative_error(a, e) < 1e-12


def test_few_regions_are_left_to_torchvision(monkeypatch):
    """And on many, or in a wide map of channels-last layout, it is not called."""
    calls = []

    class Counting:
        def __getattr__(self, name):
            calls.append(name)
            return getattr(torch.ops.torchvision, name)

    monkeypatch.setattr(roi_align, '_tv', Counting())
    features = torch.rand(1, 32, 40, 40)
    rois = ROIS[:1].float()
    wide = torch.rand(1, 256, 60, 60).contiguous(memory_format=torch.channels_last)
    for maps, count, expected in (
        (features, 2, ['roi_align', '_roi_align_backward']),
        (features, 600, []),
        (wide, 2, ['_roi_align_backward']),
        (wide.contiguous(), 2, ['roi_align', '_roi_align_backward']),
    ):
        calls.clear()
        with_gradient(ops.roi_align, maps, rois.expand(count, 5), (7, 7), 0, True)
        assert calls == expected


@pytest.mark.slow
def test_compiled_it_is_one_graph(monkeypatch):
    monkeypatch.setattr(roi_align, '_PREPARED', -INF)

    @torch.compile(fullgraph=True, backend='aot_eager')
    def run(x, rois):
        return ops.roi_align(x, rois, (7, 7), SCALE, 0, 'avg', True) * 2

    expected = ops.roi_align(FEATURES, ROIS, (7, 7), SCALE, 0, 'avg', True) * 2
    assert relative_error(run(FEATURES, ROIS), expected) < 1e-12


# MMDetection's extractors -----------------------------------------------------------

STRIDES = [4, 8, 16]
LEVELS = [random(2, 6, 160 // s, 192 // s, seed=s) for s in STRIDES]
REGIONS = torch.tensor(
    [
        [0, 3.0, 5.0, 40.0, 33.0],
        [1, 10.0, 20.0, 180.0, 150.0],
        [0, 0.0, 0.0, 192.0, 160.0],
        [1, 60.5, 70.25, 150.5, 160.0],
        [0, 100.0, 100.0, 104.0, 103.0],
    ],
    dtype=torch.float64,
)


def extract(kind, torchvision_too, levels, rois, ratio=0, factor=None, **settings):
    """Return what an extractor takes from levels, and their gradients."""
    pytest.importorskip('mmdet')
    from mmdet.models.roi_heads import roi_extractors

    layer = dict(type='RoIAlign', output_size=7, sampling_ratio=ratio)
    extractor = getattr(roi_extractors, kind)(
        roi_layer=dict(layer, use_torchvision=torchvision_too),
        out_channels=settings.pop('out_channels', 6),
        featmap_strides=STRIDES[: len(levels)],
        **settings,
    )
    leaves = [level.clone().requires_grad_() for level in levels]
    found = extractor(leaves, rois, roi_scale_factor=factor)
    if not found.requires_grad:
        return (found,)
    grad = random(*found.shape, seed=1).to(found)
    return found.detach(), *torch.autograd.grad(found, leaves, grad)


EXTRACTORS = {
    'single': ('SingleRoIExtractor', dict(finest_scale=30)),
    'sum': ('GenericRoIExtractor', dict(aggregation='sum')),
    'concat': ('GenericRoIExtractor', dict(aggregation='concat', out_channels=18)),
}


@pytest.mark.slow
@pytest.mark.parametrize('factor', [None, 1.7])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('name', EXTRACTORS)
@pytest.mark.usefixtures('sums')
def test_extractors(name, ratio, factor):
    kind, settings = EXTRACTORS[name]
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        levels, rois = [level.to(dtype) for level in LEVELS], REGIONS.to(dtype)
        mine, theirs = (
            extract(kind, other, levels, rois, ratio, factor, **settings)
            for other in (False, True)
        )
        assert len(mine) == 4
        for actual, expected in zip(mine, theirs, strict=True):
            assert relative_error(actual, expected) < bound


@pytest.mark.slow
@pytest.mark.parametrize('name', EXTRACTORS)
@pytest.mark.usefixtures('sums')
def test_extractors_of_one_level_or_no_region(name):
    kind, settings = EXTRACTORS[name]
    found = extract(kind, False, LEVELS, REGIONS[:0], **settings)[0]
    assert found.shape == (0, settings.get('out_channels', 6), 7, 7)
    settings = dict(settings, out_channels=6)
    mine, theirs = (
        extract(kind, other, LEVELS[:1], REGIONS, **settings) for other in (False, True)
    )
    for actual, expected in zip(mine, theirs, strict=True):
        assert relative_error(actual, expected) < 1e-12


@pytest.mark.slow
@pytest.mark.usefixtures('sums')
def test_levels_without_a_region_have_a_gradient():
    """As distributed training needs it, of zeros."""
    _, *grads = extract('SingleRoIExtractor', False, LEVELS, REGIONS[4:])
    assert [bool(grad.any()) for grad in grads] == [True, False, False]
