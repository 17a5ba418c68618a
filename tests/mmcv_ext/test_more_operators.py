"""Operators beside those of common detectors: rotated boxes, CARAFE, masks, points.

``data/mmcv_more_ops.npz`` holds results of mmcv's own kernels, built for a CPU. Values
in the tests are those that mmcv publishes with its own tests.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from mmrecnext.mmcv_ext import install

STANDS_IN = install()

from mmcv import _ext, ops  # noqa: E402

from mmrecnext.mmcv_ext import points, polygons  # noqa: E402

pytestmark = pytest.mark.skipif(
    not STANDS_IN, reason='mmcv has its own compiled operators or the switch is off'
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA')
devices = pytest.mark.parametrize(
    'device', ['cpu', pytest.param('cuda', marks=needs_cuda)]
)
ARRAYS = np.load(Path(__file__).parents[1] / 'data/mmcv_more_ops.npz')
GOLDEN = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
CLOSE = dict(rtol=0, atol=1e-4)


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def boxes(count, seed=0, spread=20.0):
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(count, 5, generator=generator, dtype=torch.float64)
    span, least = [spread, spread, 10, 10, 8], [0, 0, 1, 1, -4]
    return u * u.new_tensor(span) + u.new_tensor(least)


# mmcv's own kernels -----------------------------------------------------------------


def with_grads(function, *inputs, grad=None):
    """Output of a function and the gradients of the inputs, of its sum by default."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    output = function(*leaves)
    grad = torch.ones_like(output) if grad is None else grad
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


def overlaps(a, b):
    modes = [(mode, offset) for mode in ('iou', 'iof') for offset in (0, 1)]
    pairs = [ops.bbox_overlaps(a, b, mode, False, offset) for mode, offset in modes]
    return [*pairs, ops.bbox_overlaps(a[:8], b, 'iou', True, 1)]


def rotated_overlaps(a, b):
    pairs = [ops.box_iou_rotated(a, b, mode=mode) for mode in ('iou', 'iof')]
    return [*pairs, ops.box_iou_rotated(a, b[:12], aligned=True)]


def roi_align_rotated(x, rois):
    output = []
    for settings in ((0, True, False), (2, True, True), (0, False, True)):
        settings = (rois, (3, 2), 0.25, *settings)
        output += with_grads(lambda x, s=settings: ops.roi_align_rotated(x, *s), x)
    return output


def riroi_align_rotated(x, rois):
    output = []
    for samples, clockwise in ((0, True), (2, False)):
        settings = (rois, (3, 2), 0.25, samples, 4, clockwise)
        output += with_grads(lambda x, s=settings: ops.riroi_align_rotated(x, *s), x)
    return output


def rotated_feature_align(x, boxes):
    output = []
    for count, form in ((1, boxes), (5, boxes.flatten(1, 2))):
        settings = (form, 0.125, count)
        output += with_grads(lambda x, s=settings: ops.rotated_feature_align(x, *s), x)
    return output


def deform_roi_pool(x, rois, offset):
    output = []
    for ratio in (0, 2):
        settings = ((3, 2), 0.25, ratio, 0.1)
        output += with_grads(
            lambda x, o, s=settings: ops.deform_roi_pool(x, rois, o, *s), x, offset
        )
    return output


def psa_mask(x, grad):
    output = []
    for kind in ('collect', 'distribute'):
        output += with_grads(ops.PSAMask(kind, (5, 3)), x, grad=grad)
    return output


def knn(x, centres, count=5):
    # mmcv's Python half asks for the current CUDA device
    index = torch.zeros(*centres.shape[:2], count, dtype=torch.int32, device=x.device)
    distance = centres.new_zeros(index.shape)
    sizes = dict(b=len(x), n=x.size(1), m=centres.size(1), nsample=count)
    _ext.knn_forward(x, centres, index, distance, **sizes)
    return [index, distance]


def ball_query(x, centres):
    shells = ((0, 0.4, 5), (0.2, 0.5, 8), (0, 0.01, 3))
    return [ops.ball_query(*shell, x, centres) for shell in shells]


def stack_ball_query(x, centres, counts, centre_counts):
    inputs = (x, centres, counts, centre_counts)
    return [ops.ball_query(0, radius, 4, *inputs) for radius in (0.4, 0.15)]


def chamfer_distance(x, y):
    leaves = [z.clone().requires_grad_() for z in (x, y)]
    *distances, index1, index2 = ops.chamfer_distance(*leaves)
    total = sum(distance.sum() for distance in distances)
    grads = torch.autograd.grad(total, leaves)
    return [*(distance.detach() for distance in distances), index1, index2, *grads]


CALLS = {
    'bbox_overlaps': overlaps,
    'box_iou_rotated': rotated_overlaps,
    'box_iou_quadri': lambda a, b: [ops.box_iou_quadri(a, b)],
    'nms_rotated': lambda boxes, scores: [
        ops.nms_rotated(boxes, scores, threshold)[1] for threshold in (0.1, 0.4)
    ],
    'nms_quadri': lambda boxes, scores: [
        ops.nms_quadri(boxes, scores, threshold)[1] for threshold in (0.1, 0.4)
    ],
    'convex_iou': lambda points, polygons: [ops.convex_iou(points, polygons)],
    'convex_giou': lambda points, polygons: ops.convex_giou(points, polygons),
    'min_area_polygons': lambda points: [ops.min_area_polygons(points)],
    'points_in_polygons': lambda points, polygons: [
        ops.points_in_polygons(points, polygons)
    ],
    'diff_iou_rotated_2d': lambda a, b: with_grads(ops.diff_iou_rotated_2d, a, b),
    'roi_align_rotated': roi_align_rotated,
    'riroi_align_rotated': riroi_align_rotated,
    'rotated_feature_align': rotated_feature_align,
    'deform_roi_pool': deform_roi_pool,
    'active_rotated_filter': lambda x, indices, grad: with_grads(
        lambda x: ops.active_rotated_filter(x, indices), x, grad=grad
    ),
    'carafe': lambda x, masks: with_grads(
        lambda x, masks: ops.carafe(x, masks, 3, 2, 2), x, masks
    ),
    'psa_mask': psa_mask,
    'ball_query': ball_query,
    'stack_ball_query': stack_ball_query,
    'knn': knn,
    'three_nn': lambda x, centres: ops.three_nn(centres, x),
    'chamfer_distance': chamfer_distance,
}


@devices
@pytest.mark.parametrize('name', CALLS)
def test_equals_mmcv(name, device):
    stored = {
        key.removeprefix(f'{name}.'): tensor.to(device)
        for key, tensor in GOLDEN.items()
        if key.startswith(f'{name}.')
    }
    inputs = {key: tensor for key, tensor in stored.items() if not key.isdecimal()}
    expected = [stored[str(k)] for k in range(len(stored) - len(inputs))]
    for a, e in zip(CALLS[name](**inputs), expected, strict=True):
        torch.testing.assert_close(a, e, rtol=2e-5, atol=1e-5)


def test_every_array_is_compared():
    assert {name.rpartition('.')[0] for name in GOLDEN} == set(CALLS)


# Values that mmcv publishes ---------------------------------------------------------


@devices
def test_published_box_iou_rotated(device):
    a = [[1, 1, 3, 4, 0.5], [2, 2, 3, 4, 0.6], [7, 7, 8, 8, 0.4]]
    b = [[0, 2, 2, 5, 0.3], [2, 1, 3, 3, 0.5], [5, 5, 6, 7, 0.4]]
    a, b = (torch.tensor(x, device=device) for x in (a, b))
    expected = {
        'iou': [[0.3708, 0.4351, 0], [0.1104, 0.4487, 0.0424], [0, 0, 0.3622]],
        'iof': [[0.4959, 0.5306, 0], [0.1823, 0.5420, 0.1832], [0, 0, 0.4404]],
    }
    mirror = a.new_tensor([1, 1, 1, 1, -1])
    for mode, values in expected.items():
        values = a.new_tensor(values)
        for clockwise in (True, False):
            pair = (a, b) if clockwise else (a * mirror, b * mirror)
            settings = dict(mode=mode, clockwise=clockwise)
            actual = ops.box_iou_rotated(*pair, **settings)
            torch.testing.assert_close(actual, values, **CLOSE)
            actual = ops.box_iou_rotated(*pair, aligned=True, **settings)
            torch.testing.assert_close(actual, values.diag(), **CLOSE)


@devices
@pytest.mark.parametrize('labels', [None, [1.0, 0.0, 1.0, 0.0]])
def test_published_nms_rotated(labels, device):
    dets = [
        [6, 3, 8, 7, 0.5],
        [3, 6, 9, 11, 0.6],
        [3, 7, 10, 12, 0.3],
        [1, 4, 13, 7, 0.6],
    ]
    dets, scores = torch.tensor(dets), torch.tensor([0.7, 0.8, 0.5, 0.9])
    if labels is not None:
        labels = torch.tensor(labels, device=device)
    kept, index = ops.nms_rotated(dets.to(device), scores.to(device), 0.5, labels)
    assert index.tolist() == [3, 1, 0]
    expected = torch.cat([dets, scores[:, None]], 1)[[3, 1, 0]]
    assert torch.equal(kept.cpu(), expected)


@devices
def test_published_nms_quadri(device):
    dets = [
        [1, 1, 3, 4, 4, 4, 4, 1],
        [2, 2, 3, 4, 4, 2, 3, 1],
        [7, 7, 8, 8, 9, 7, 8, 6],
        [0, 0, 0, 2, 2, 2, 2, 0],
    ]
    dets = torch.tensor(dets, dtype=torch.float32, device=device)
    scores = torch.tensor([0.7, 0.8, 0.5, 0.9], device=device)
    labels = torch.tensor([1, 0, 1, 0], device=device)
    cfg = dict(type='nms_quadri', iou_threshold=0.3)
    for agnostic, expected in ((True, [3, 1, 2]), (False, [3, 1, 0, 2])):
        kept = ops.batched_nms(dets, scores, labels, cfg, class_agnostic=agnostic)[1]
        assert kept.tolist() == expected


def test_published_diff_iou_rotated():
    a = torch.tensor([[0.5, 0.5, 1, 1, 0]]).repeat(1, 5, 1)
    b = [
        [0.5, 0.5, 1, 1, 0],
        [0.5, 0.5, 1, 1, math.pi / 2],
        [0.5, 0.5, 1, 1, math.pi / 4],
        [1, 1, 1, 1, 0],
        [1.5, 1.5, 1, 1, 0],
    ]
    expected = torch.tensor([[1, 1, math.sqrt(0.5), 1 / 7, 0]])
    actual = ops.diff_iou_rotated_2d(a, torch.tensor([b]))
    torch.testing.assert_close(actual, expected, **CLOSE)


LARGE = torch.tensor([[1.0, 2], [3, 4]])
LARGE = torch.cat(
    [torch.cat([LARGE, LARGE + 4], 1), torch.cat([LARGE, LARGE + 4], 1) + 8]
)
LARGE = LARGE[None]
SMALL = torch.tensor([[[1.0, 2], [3, 4]], [[4, 3], [2, 1]]])
SMALL_GRAD = torch.tensor([[3.0625, 0.4375], [0.4375, 0.0625]])
EDGE = torch.tensor([0.6875, 0.625, 0.625, 0.0625])
RIGHT = math.pi / 2
PUBLISHED_ROIS = {
    'small': (
        SMALL,
        [0.5, 0.5, 1, 1, 0],
        [[[1, 1.25], [1.5, 1.75]], [[4, 3.75], [3.5, 3.25]]],
        SMALL_GRAD,
    ),
    'small-turned': (
        SMALL[:1],
        [0.5, 0.5, 1, 1, RIGHT],
        [[[1.5, 1], [1.75, 1.25]]],
        SMALL_GRAD,
    ),
    'large': (
        LARGE,
        [1.5, 1.5, 3, 3, 0],
        [[[1.9375, 4.75], [7.5625, 10.375]]],
        EDGE[:, None] * EDGE,
    ),
    'large-turned': (
        LARGE,
        [1.5, 1.5, 3, 3, RIGHT],
        [[[7.5625, 1.9375], [10.375, 4.75]]],
        EDGE[:, None] * EDGE,
    ),
}


@devices
@pytest.mark.parametrize(
    'dtype', [torch.float32, torch.float64, torch.float16], ids=str
)
@pytest.mark.parametrize('name', PUBLISHED_ROIS)
def test_published_roi_align_rotated(name, dtype, device):
    x, roi, expected, grad = PUBLISHED_ROIS[name]
    x = x[None].to(device, dtype)
    rois = torch.tensor([[0, *roi]], device=device, dtype=dtype)
    output, grad_x = with_grads(
        lambda x: ops.roi_align_rotated(x, rois, (2, 2), 1.0, 2, True), x
    )
    close = dict(rtol=0, atol=1e-3)
    torch.testing.assert_close(output, output.new_tensor([expected]), **close)
    torch.testing.assert_close(grad_x, grad.to(x).expand(x.shape), **close)
    if not roi[-1]:  # the same region by its corners
        centre, size = rois[:, 1:3], rois[:, 3:5]
        upright = torch.cat([rois[:, :1], centre - size / 2, centre + size / 2], 1)
        output = ops.deform_roi_pool(x, upright, x.new_zeros(0), (2, 2), 1.0, 2)
        torch.testing.assert_close(output, output.new_tensor([expected]), **close)


@devices
def test_published_convex_iou(device):
    points = torch.tensor(
        [1, 1, 2, 2, 1, 2, 2, 1, 1, 3, 3, 1, 2, 3, 3, 2, 1.5, 1.5], device=device
    )
    points = torch.stack([points, points + 0.5])
    quads = [[1.0, 1, 1, 2, 2, 2, 2, 1], [1, 1, 1, 3, 3, 3, 3, 1]]
    quads = torch.tensor(quads, device=device)
    expected = points.new_tensor([[0.2857, 0.8750], [0.0588, 0.4286]])
    torch.testing.assert_close(ops.convex_iou(points, quads), expected, **CLOSE)
    giou, grad = ops.convex_giou(points, quads)
    torch.testing.assert_close(giou, points.new_tensor([0.2857, 0.3831]), **CLOSE)
    # Of the five points on the hull. Most lie on an edge of the quadrilateral or in
    # line with its corners: there are two derivatives, and mmcv's is one between them.
    expected = """
        0.0204 0.0408 0.0612 -0.0408 -0.0408 0.0816 -0.0408 -0.0816 -0.0816 -0.0408
        -0.1848 -0.1848 -0.1076 -0.0801 -0.0801 -0.1076 -0.0367 -0.0734 -0.0734 -0.0367
    """
    expected = grad.new_tensor([float(x) for x in expected.split()]).view(2, 10)
    on_hull = [0, 1, *range(8, 16)]
    at = points.double(), quads.double()
    slopes = giou_slopes(*at, 1)[:, on_hull], giou_slopes(*at, -1)[:, on_hull]
    least, most = torch.stack(slopes).float().aminmax(dim=0)
    for values in (expected, grad[:, on_hull]):
        assert (values > least - 1e-4).all()
        assert (values < most + 1e-4).all()
    inside = [k for k in range(18) if k not in on_hull]
    assert not grad[:, inside].any()


@devices
def test_published_min_area_polygons(device):
    points = [
        [1, 1, 2, 2, 1, 2, 2, 1, 1, 3, 3, 1, 2, 3, 3, 2, 1.5, 1.5],
        [1, 1, 8, 8, 1, 2, 2, 1, 1, 3, 3, 1, 2, 3, 3, 2, 1.5, 1.5],
    ]
    expected = [
        [3, 1, 1, 1, 1, 3, 3, 3],
        [8, 8, 2.3243, 0.0541, 0.0541, 1.6757, 5.7297, 9.6216],
    ]
    actual = ops.min_area_polygons(torch.tensor(points, device=device))
    torch.testing.assert_close(actual, actual.new_tensor(expected), **CLOSE)


@devices
def test_published_points_in_polygons(device):
    points = [[300.0, 300], [400, 400], [100, 100], [300, 250], [100, 0]]
    quads = [
        [200.0, 200, 400, 400, 500, 200, 400, 100],
        [400, 400, 500, 500, 600, 300, 500, 200],
        [300, 300, 600, 700, 700, 700, 700, 100],
    ]
    points, quads = (torch.tensor(x, device=device) for x in (points, quads))
    expected = [[0, 0, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert ops.points_in_polygons(points, quads).tolist() == expected


# Definitions ------------------------------------------------------------------------


def clip(polygon, first, second):
    """The part of a polygon to the left of a directed line, corner by corner."""

    def side(p):
        return (second[0] - first[0]) * (p[1] - first[1]) - (second[1] - first[1]) * (
            p[0] - first[0]
        )

    kept = []
    for p, q in zip(polygon, [*polygon[1:], *polygon[:1]], strict=True):
        if side(p) >= 0:
            kept.append(p)
        if side(p) * side(q) < 0:
            kept.append(p + (q - p) * side(p) / (side(p) - side(q)))
    return kept


def clipped_area(a, b):
    """Area that two convex polygons, counter-clockwise, have in common."""
    kept = list(a)
    for first, second in zip(b, np.roll(b, -1, 0), strict=True):
        kept = clip(kept, first, second)
    x, y = np.array(kept).reshape(-1, 2).T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def corners(box):
    """By complex numbers."""
    x, y, width, height, angle = box
    unit = np.array([-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j]) / 2
    turned = (unit.real * width + 1j * unit.imag * height) * np.exp(1j * angle)
    return np.stack([turned.real + x, turned.imag + y], 1)


def test_shared_area_by_clipping():
    a, b = boxes(40), boxes(40, seed=1)
    a[:4] = b[:4]  # the same
    a[4:8, :4], a[4:8, 4] = b[4:8, :4], b[4:8, 4] + RIGHT
    a[8:12] = b[8:12] * torch.tensor([1, 1, 0.5, 0.5, 1])  # within
    a[12:16] = b[12:16] + 1e-9  # almost the same
    a[16] = torch.tensor([0.0, 0, 4, 4, 0])  # a part of a side in common
    b[16] = torch.tensor([4.0, 0, 4, 2, 0])
    pairs = zip(a.numpy(), b.numpy(), strict=True)
    expected = [clipped_area(corners(p), corners(q)) for p, q in pairs]
    rectangles = polygons.rectangles(a), polygons.rectangles(b)
    actual = polygons.shared_area(*rectangles)
    assert (actual > 1e-3).sum() > 20
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)
    reverse = polygons.shared_area(rectangles[0].flip(-2), rectangles[1])
    torch.testing.assert_close(reverse, actual, rtol=0, atol=1e-12)


def test_overlaps_of_quadrilaterals():
    """Of which mmcv takes a corner to be inside as if they were rectangles."""
    a, b = (polygons.rectangles(boxes(12, seed=seed)) for seed in (0, 1))
    a[:, 0] += 0.3
    b[:, 2] -= 0.2

    def overlap(p, q):
        shared = clipped_area(p, q)
        return shared / (clipped_area(p, p) + clipped_area(q, q) - shared)

    expected = [[overlap(p, q) for q in b.numpy()] for p in a.numpy()]
    actual = ops.box_iou_quadri(a.flatten(1), b.flatten(1))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


def test_shared_area_far_from_the_origin():
    a, b = boxes(30), boxes(30, seed=1)
    near = polygons.shared_area(polygons.rectangles(a), polygons.rectangles(b))
    far = a.new_tensor([1e6, -1e6, 0, 0, 0])
    a, b = polygons.rectangles(a + far), polygons.rectangles(b + far)
    torch.testing.assert_close(polygons.shared_area(a, b), near, rtol=0, atol=1e-7)


def test_shared_area_gradient():
    a = polygons.rectangles(boxes(6, spread=5.0)).requires_grad_()
    b = polygons.rectangles(boxes(6, seed=1, spread=5.0)).requires_grad_()
    assert (polygons.shared_area(a, b) > 0).sum() > 3
    assert gradcheck(polygons.shared_area, (a, b), fast_mode=True)


def test_hull():
    points = random(20, 9, 2)
    points[0] = points[0, :1]  # no extent
    points[1, 5:] = points[1, :4]  # twice
    points[2, :, 1] = 2 * points[2, :, 0]  # on a line
    points[3] = torch.cartesian_prod(*[torch.arange(3.0)] * 2)  # a grid
    wrapped = points.take_along_dim(polygons.hull(points)[..., None], 1)
    assert polygons.area(wrapped)[[0, 2]].abs().max() < 1e-12
    assert polygons.area(wrapped)[3] == 4
    assert len(wrapped[3].unique(dim=0)) == 4
    for polygon, inner in zip(wrapped, points, strict=True):
        arms = (polygon.roll(-1, 0) - polygon)[:, None]
        offsets = inner[None] - polygon[:, None]
        turn = arms[..., 0] * offsets[..., 1] - arms[..., 1] * offsets[..., 0]
        assert turn.min() > -1e-12


def test_nothing_overlaps_a_box_without_area():
    a = torch.tensor([[1.0, 1, 0, 2, 0.3], [1, 1, 2, 2, 0]])
    assert ops.box_iou_rotated(a, a).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize('op', ['nms_rotated', 'nms_quadri'])
def test_nms_in_parts(op, monkeypatch):
    dets = boxes(80).float()
    if op == 'nms_quadri':
        dets = polygons.rectangles(dets).flatten(1).float()
    scores = torch.rand(80, generator=torch.Generator().manual_seed(0))
    expected = getattr(ops, op)(dets, scores, 0.1)[1]
    assert 5 < len(expected) < 60
    monkeypatch.setattr(polygons, '_PAIRS', 70)
    monkeypatch.setattr(polygons, '_BOUNDS', 500)
    assert getattr(ops, op)(dets, scores, 0.1)[1].tolist() == expected.tolist()


def giou_slopes(points, quads, way, step=1e-6):
    """By how much each coordinate, moved one way, changes the overlap: (N, 18)."""
    moves = way * step * torch.eye(18, dtype=points.dtype, device=points.device)
    moved = (points[:, None] + moves).flatten(0, 1)
    after = ops.convex_giou(moved, quads.repeat_interleave(18, 0))[0].view(-1, 18)
    return (after - ops.convex_giou(points, quads)[0][:, None]) * (way / step)


def test_boxes_in_space():
    """Overlap from above, whatever their height, as rotated boxes do."""
    flat, others = boxes(40).float(), boxes(30, seed=1).float()
    scores = torch.rand(40, generator=torch.Generator().manual_seed(0))

    def raised(boxes):
        height = torch.arange(2.0 * len(boxes)).view(-1, 2)
        parts = (
            boxes[:, :2],
            height[:, :1],
            boxes[:, 2:4],
            height[:, 1:],
            boxes[:, 4:],
        )
        return torch.cat(parts, 1)

    shared = ops.iou3d.boxes_overlap_bev(raised(flat), raised(others))
    areas = polygons.area(polygons.rectangles(flat))[:, None]
    expected = ops.box_iou_rotated(flat.double(), others.double(), mode='iof') * areas
    torch.testing.assert_close(shared, expected.float())
    expected = ops.nms_rotated(flat, scores, 0.2)[1]
    assert ops.nms3d(raised(flat), scores, 0.2).tolist() == expected.tolist()
    upright = flat * torch.tensor([1, 1, 1, 1, 0])
    expected = ops.nms_rotated(upright, scores, 0.2)[1]
    assert ops.nms3d_normal(raised(flat), scores, 0.2).tolist() == expected.tolist()


def test_giou_gradient():
    points = 5 * random(6, 18)
    quads = polygons.rectangles(boxes(6, spread=4.0)).flatten(1)
    expected = (giou_slopes(points, quads, 1) + giou_slopes(points, quads, -1)) / 2
    grad = ops.convex_giou(points, quads)[1]
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-8)


def test_diff_iou_of_equal_boxes():
    box = torch.tensor([[[0.5, 0.5, 1, 2, 0.0]]], dtype=torch.float64)
    leaves = [box.clone().requires_grad_() for _ in range(2)]
    iou = ops.diff_iou_rotated_2d(*leaves)
    assert iou.item() == pytest.approx(1)
    assert all(g.isfinite().all() for g in torch.autograd.grad(iou.sum(), leaves))


ROIS = torch.cat([torch.tensor([[0.0], [1.0]]), boxes(2)], 1)
TURNS = torch.stack([torch.arange(18), torch.arange(18).flip(0)], 1) + 1
GRADCHECKS = {
    'roi_align_rotated': lambda x: ops.roi_align_rotated(x, ROIS, (2, 3), 0.25, 0),
    'riroi_align_rotated': lambda x: ops.riroi_align_rotated(
        x, ROIS, (2, 3), 0.25, 2, 2, False
    ),
    'rotated_feature_align': lambda x: ops.rotated_feature_align(
        x, boxes(60).view(2, 5, 6, 5), 0.25, 5
    ),
    'active_rotated_filter': lambda x: ops.active_rotated_filter(
        x.flatten()[:72].view(2, 2, 2, 3, 3), TURNS.view(2, 3, 3, 2).int()
    ),
    'psa_mask-collect': ops.PSAMask('collect', (2, 2)),
    'psa_mask-distribute': ops.PSAMask('distribute', (2, 2)),
    'gather_points': lambda x: ops.gather_points(
        x.flatten(2), torch.tensor([[3, 0, 3], [1, 2, 29]]).int()
    ),
    'grouping_operation': lambda x: ops.grouping_operation(
        x.flatten(2), torch.tensor([[[3, 0]], [[1, 1]]]).int()
    ),
    'stacked_grouping_operation': lambda x: ops.grouping_operation(
        x.reshape(-1, 4),
        torch.tensor([[1, 0], [3, 3], [9, 2]]).int(),
        torch.tensor([50, 10]).int(),
        torch.tensor([1, 2]).int(),
    ),
    'three_interpolate': lambda x: ops.three_interpolate(
        x.flatten(2).contiguous(),
        torch.tensor([[[3, 0, 3]], [[1, 2, 29]]]).int(),
        random(2, 1, 3),
    ),
}


@pytest.mark.parametrize('name', GRADCHECKS)
def test_gradcheck(name):
    x = random(2, 4, 5, 6).requires_grad_()
    assert gradcheck(GRADCHECKS[name], x, fast_mode=True)


def test_gradcheck_of_deform_roi_pool():
    rois = torch.tensor([[0, 1, 2, 30, 18], [1, -3, 4, 26, 30.0]], dtype=torch.float64)

    def pool(x, offset):
        return ops.deform_roi_pool(x, rois, offset, (3, 2), 0.25, 2, 0.3)

    inputs = random(2, 3, 8, 9).requires_grad_(), random(2, 2, 3, 2).requires_grad_()
    assert gradcheck(pool, inputs, fast_mode=True)


def test_gathered_points():
    """A group takes the features of its points; stacked, of those of its cloud."""
    x = random(2, 3, 10)
    index = torch.tensor([[[3, 0], [1, 1]], [[9, 2], [4, 5]]], dtype=torch.int32)
    grouped = ops.grouping_operation(x, index)
    gathered = ops.gather_points(x, index[..., 0].contiguous())
    stacked = ops.grouping_operation(
        x.mT.reshape(20, 3),
        index.flatten(0, 1),
        torch.tensor([10, 10]).int(),
        torch.tensor([2, 2]).int(),
    )
    for cloud in range(2):
        for group in range(2):
            expected = x[cloud][:, index[cloud, group].long()]
            assert torch.equal(grouped[cloud, :, group], expected)
            assert torch.equal(gathered[cloud, :, group], expected[:, 0])
            assert torch.equal(stacked[2 * cloud + group], expected)


@pytest.mark.parametrize('naive', [False, True])
def test_carafe_by_unfolding(naive):
    x, masks = random(2, 6, 3, 4), random(2, 18, 6, 8, seed=1)
    patches = F.unfold(x, 3, padding=1).view(2, 2, 3, 9, 3, 4)
    patches = patches.repeat_interleave(2, 4).repeat_interleave(2, 5)
    expected = (patches * masks.view(2, 2, 1, 9, 6, 8)).sum(3).flatten(1, 2)
    carafe = ops.carafe_naive if naive else ops.carafe
    torch.testing.assert_close(carafe(x, masks, 3, 2, 2), expected)
    if not naive:  # mmcv's Python half wants CUDA for the other one's gradient
        inputs = x.requires_grad_(), masks.requires_grad_()
        assert gradcheck(lambda *z: carafe(*z, 3, 2, 2), inputs, fast_mode=True)


def test_masked_convolution():
    x, weight, bias = random(1, 3, 7, 8), random(4, 3, 3, 5), random(4)
    mask = random(1, 7, 8) > 0
    expected = F.conv2d(x, weight, bias, padding=(1, 2)) * mask
    actual = ops.masked_conv.masked_conv2d(x, mask, weight, bias, (1, 2))
    torch.testing.assert_close(actual, expected)


def test_furthest_points():
    x = random(2, 30, 3)
    index = torch.zeros(2, 6, dtype=torch.int32)
    bounds = torch.full((2, 30), 1e10, dtype=torch.float64)
    # mmcv's Python half makes tensors of CUDA
    _ext.furthest_point_sampling_forward(x, bounds, index, b=2, n=30, m=6)
    given = ops.furthest_point_sample_with_dist(torch.cdist(x, x), 6)
    assert torch.equal(given, index)
    for cloud, chosen in zip(x, index.tolist(), strict=True):
        assert chosen[0] == 0
        for k in range(1, 6):
            nearest = torch.cdist(cloud, cloud[chosen[:k]]).amin(1)
            assert chosen[k] == nearest.argmax()


def test_neighbours_in_parts(monkeypatch):
    x, centres = random(2, 9, 3), random(2, 5, 3, seed=1)
    expected = [*knn(x, centres), ops.ball_query(0, 1.5, 4, x, centres)]
    monkeypatch.setattr(points, '_DISTANCES', 20)
    actual = [*knn(x, centres), ops.ball_query(0, 1.5, 4, x, centres)]
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)
    nearest = torch.cdist(centres, x).sort(-1).indices[..., :5]
    assert torch.equal(expected[0], nearest.int())


def test_less_points_than_neighbours():
    few, centre = random(1, 2, 3), random(1, 1, 3, seed=1)
    index, distance = knn(few, centre, count=4)
    assert index[0, 0, 2:].tolist() == [0, 0]
    assert distance[0, 0, 2:].tolist() == [1e10, 1e10]
    assert ops.ball_query(0, 10, 4, few, centre).tolist() == [[[0, 1, 0, 0]]]


# Edges ------------------------------------------------------------------------------

NO_SETS, NO_QUADS = torch.zeros(0, 18), torch.zeros(0, 8)
EMPTY = {
    'box_iou_rotated': lambda: ops.box_iou_rotated(torch.zeros(0, 5), boxes(3).float()),
    'box_iou_quadri': lambda: ops.box_iou_quadri(torch.rand(3, 8), NO_QUADS),
    'convex_iou': lambda: ops.convex_iou(NO_SETS, torch.rand(2, 8)),
    'convex_giou': lambda: ops.convex_giou(NO_SETS, NO_QUADS)[1],
    'min_area_polygons': lambda: ops.min_area_polygons(NO_SETS),
    'points_in_polygons': lambda: ops.points_in_polygons(torch.rand(3, 2), NO_QUADS),
    'roi_align_rotated': lambda: ops.roi_align_rotated(
        torch.rand(1, 2, 4, 4), torch.zeros(0, 6), (2, 2), 1.0
    ),
}


@pytest.mark.parametrize('name', EMPTY)
def test_of_nothing_comes_nothing(name):
    assert EMPTY[name]().numel() == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype):
    a, b = boxes(20).to(dtype), boxes(20, seed=1).to(dtype)
    expected = ops.box_iou_rotated(a.double(), b.double())
    torch.testing.assert_close(ops.box_iou_rotated(a, b), expected.to(dtype))
    x, masks = random(1, 2, 3, 4).to(dtype), random(1, 9, 6, 8).to(dtype)
    expected = ops.carafe(x.float(), masks.float(), 3, 1, 2)
    torch.testing.assert_close(ops.carafe(x, masks, 3, 1, 2), expected.to(dtype))
    rois = torch.cat([torch.zeros(20, 1).to(dtype), a], 1)
    expected = ops.roi_align_rotated(x.float(), rois.float(), (2, 2), 0.25, 2)
    actual = ops.roi_align_rotated(x, rois, (2, 2), 0.25, 2)
    torch.testing.assert_close(actual, expected.to(dtype))
