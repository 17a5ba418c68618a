import pytest
import torch
import torch.nn.functional as F

from mmrecnext.ops.masks import paste_masks

HEIGHT, WIDTH = 33, 60
BOXES = [
    [3.3, 4.4, 30.2, 25.5],
    [-9.0, 10.0, 12.0, 50.0],  # beyond the picture on three sides
    [20.5, 0.0, 60.0, 33.0],
    [40.2, 8.7, 40.9, 9.1],  # within a pixel
    [17.3, 4.0, 17.3, 9.0],  # without extent
    [60.0, 33.0, 60.0, 33.0],  # in the corner, without extent
    [0.0, 0.0, 60.0, 33.0],
]


def pasted_by_points(mask, box):
    """Probabilities of all pixels of the picture, of one box."""
    low, high = box[:2], box[2:]
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing='ij')
    points = torch.stack([x, y], -1) + 0.5
    grid = (points - low) / (high - low) * 2 - 1
    grid[grid.isinf()] = 0
    pasted = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
    near = (points - 0.5 >= low.floor() - 1) & (points - 0.5 < high.ceil() + 1)
    return torch.where(near.all(-1), pasted, -1.0)


@pytest.mark.parametrize('dtype', [torch.double, torch.float], ids=str)
@pytest.mark.parametrize('threshold', [0.0, 0.2, 0.5, 0.7])
@pytest.mark.parametrize('shape', [(28, 28), (7, 14), (1, 1)], ids=str)
def test_equal_those_of_single_points(dtype, threshold, shape):
    boxes = torch.tensor(BOXES, dtype=dtype)
    random = torch.Generator().manual_seed(0)
    masks = torch.rand(len(boxes), *shape, generator=random, dtype=dtype)
    found = paste_masks(masks, boxes, (HEIGHT, WIDTH), threshold)
    pairs = zip(masks.double(), boxes.double(), strict=True)
    values = torch.stack([pasted_by_points(mask, box) for mask, box in pairs])
    certain = (values - threshold).abs() > (0 if dtype is torch.double else 1e-5)
    assert found.dtype == torch.bool
    assert torch.equal(found[certain], values[certain] >= threshold)
    assert found.any() and not found.all()


def test_no_masks():
    found = paste_masks(torch.rand(0, 28, 28), torch.rand(0, 4), (HEIGHT, WIDTH))
    assert found.shape == (0, HEIGHT, WIDTH)


def test_are_as_exact_in_mixed_precision():
    boxes = torch.tensor(BOXES)
    masks = torch.rand(len(boxes), 28, 28, generator=torch.Generator().manual_seed(0))
    expected = paste_masks(masks, boxes, (HEIGHT, WIDTH))
    with torch.autocast('cpu', torch.bfloat16):
        assert paste_masks(masks, boxes, (HEIGHT, WIDTH)).equal(expected)
    halves = masks.bfloat16()
    expected = paste_masks(halves.float(), boxes, (HEIGHT, WIDTH))
    assert paste_masks(halves, boxes, (HEIGHT, WIDTH)).equal(expected)


def test_boxes_that_are_no_numbers_show_nothing():
    boxes = torch.tensor([[float('nan')] * 4, BOXES[0]])
    found = paste_masks(torch.ones(2, 28, 28), boxes, (HEIGHT, WIDTH))
    assert not found[0].any() and found[1].any()
