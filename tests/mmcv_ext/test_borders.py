"""Operators where samples lie at, or beyond, the border of what they sample.

There mmcv's kernels take the image to be constant from one pixel off on.
"""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from mmrecnext.mmcv_ext import install

install()

from mmcv import ops  # noqa: E402
from mmcv.ops.multi_scale_deform_attn import (  # noqa: E402
    MultiScaleDeformableAttnFunction,
)

DEFORM_CONVS = {
    'deform_conv': lambda x, offset, mask, weight, *geometry: ops.deform_conv2d(
        x, offset, weight, *geometry
    ),
    'modulated': lambda x, offset, mask, weight, *geometry: ops.modulated_deform_conv2d(
        x, offset, mask, weight, None, *geometry
    ),
}
both_versions = pytest.mark.parametrize('name', DEFORM_CONVS)


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def slopes(plane, y, x):
    """Derivatives by y and x of a bilinear sample of (H, W), zeros around."""
    height, width = plane.shape
    if y <= -1 or x <= -1 or y >= height or x >= width:
        return torch.zeros(2, dtype=plane.dtype)
    top, left = math.floor(y), math.floor(x)
    b, r = y - top, x - left
    padded = F.pad(plane, (1, 1, 1, 1))
    (a, b_), (c, d) = padded[top + 1 : top + 3, left + 1 : left + 3]
    by_y = (1 - r) * (c - a) + r * (d - b_)
    by_x = (1 - b) * (b_ - a) + b * (d - c)
    return torch.stack([by_y, by_x])


@both_versions
def test_zero_offsets_have_no_slope_in_the_padding(name):
    """As at the start of training, where all offsets are 0."""
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 1, 2, 2)
    offset = torch.zeros(1, 2, 4, 4, requires_grad=True)
    mask, weight = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 1, 1)
    DEFORM_CONVS[name](image, offset, mask, weight, 1, 1).sum().backward()
    by_y, by_x = offset.grad[0].tolist()
    assert by_y == [[0, 0, 0, 0], [0, 2, 2, 0], [0, -3, -4, 0], [0, 0, 0, 0]]
    assert by_x == [[0, 0, 0, 0], [0, 1, -2, 0], [0, 1, -4, 0], [0, 0, 0, 0]]


@both_versions
@pytest.mark.parametrize('step', [1, 0.5], ids=['whole', 'half'])
def test_offset_gradients(name, step):
    """Of every geometry, where samples lie on pixels, between and beyond them."""
    stride, pad, dilation, kernel = (1, 2), (2, 1), (2, 1), (2, 3)
    image, weight = random(2, 2, 4, 3), random(1, 2, *kernel, seed=1)
    height, width = F.conv2d(image, weight, None, stride, pad, dilation).shape[2:]
    offset = step * (2 * random(2, 2 * 12, height, width, seed=2) / step).round()
    mask = random(2, 12, height, width, seed=3).sigmoid()
    if name == 'deform_conv':
        mask = torch.ones_like(mask)

    expected = torch.zeros_like(offset)
    positions = itertools.product(*map(range, (2, 2, *kernel, height, width)))
    for n, group, i, j, row, column in positions:
        tap = 6 * group + 3 * i + j
        at = offset[n, 2 * tap : 2 * tap + 2, row, column]
        y = row * stride[0] - pad[0] + i * dilation[0] + at[0].item()
        x = column * stride[1] - pad[1] + j * dilation[1] + at[1].item()
        share = weight[0, group, i, j] * mask[n, tap, row, column]
        slope = share * slopes(image[n, group], y, x)
        expected[n, 2 * tap : 2 * tap + 2, row, column] = slope

    offset.requires_grad_()
    run = DEFORM_CONVS[name]
    output = run(image, offset, mask, weight, stride, pad, dilation, 1, 2)
    (actual,) = torch.autograd.grad(output.sum(), offset)
    assert torch.allclose(actual, expected, rtol=0, atol=1e-14)


def test_attention_locations():
    """Samples on each pixel of a map of 2 x 4, and one or two pixels off it."""
    plane = random(2, 4)
    points = [*itertools.product(range(-2, 4), range(-2, 6))]
    # a point of the map spans 1 / size, and the first one's centre is at half of that
    locations = [[(x + 0.5) / 4, (y + 0.5) / 2] for y, x in points]
    locations = torch.tensor(locations, dtype=torch.float64)
    locations = locations.view(1, 1, 1, 1, -1, 2).requires_grad_()
    weights = torch.ones(1, 1, 1, 1, len(points), dtype=torch.float64)
    shapes, starts = torch.tensor([[2, 4]]), torch.tensor([0])
    output = MultiScaleDeformableAttnFunction.apply(
        plane.view(1, 8, 1, 1), shapes, starts, locations, weights, 64
    )
    (actual,) = torch.autograd.grad(output.sum(), locations)
    expected = torch.stack([slopes(plane, y, x) for y, x in points])
    # by x before y, in shares of the map
    expected = expected.flip(1) * torch.tensor([4, 2])
    assert torch.allclose(actual.view(-1, 2), expected, rtol=0, atol=1e-14)


def test_soft_nms_of_boxes_without_extent():
    """The order that mmcv's own kernel gives; their overlap is 0 / 0."""
    boxes = torch.tensor(
        [[5, 5, 5, 5], [0, 0, 0, 9], [1, 1, 4, 4], [1, 1, 4, 5], [7, 7, 7, 8]]
    ).float()
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.95])
    dets, kept = ops.soft_nms(boxes, scores, 0.3, method='gaussian')
    assert kept.tolist() == [4, 1, 2, 3, 0]
    assert dets[:, 4].isnan().tolist() == [False, True, False, False, True]


def test_nms_match():
    """Groups of mmcv's own kernel."""
    boxes = torch.tensor(
        [
            [0, 0, 10, 10, 0.6],
            [0, 0, 10, 5, 0.9],  # overlaps the first by half
            [1, 0, 11, 10, 0.8],
            [20, 20, 20, 20, 0.7],  # without extent
            [30, 30, 40, 40, 0.1],
        ]
    )
    for threshold, expected in (
        (0.3, [[1, 2, 0], [3], [4]]),
        (0.5, [[1, 0], [2], [3], [4]]),  # an overlap as large as the threshold counts
        (0.6, [[1], [2, 0], [3], [4]]),
    ):
        for dets in (boxes, boxes.double().numpy()):
            groups = ops.nms_match(dets, threshold)
            assert [group.tolist() for group in groups] == expected
    assert ops.nms_match(boxes[:0], 0.5) == []
