"""Offsets of a larger map than the output, which MMDetection's DyHead gives."""

import torch
from torch.autograd import gradcheck

from mmrecnext.mmcv_ext import install

install()

from mmcv import ops  # noqa: E402


def inputs():
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    # As DyHead slices them out of one convolution's result.
    both = random(2, 27, 7, 6)
    return random(2, 4, 3, 4), both[:, :18], both[:, 18:].sigmoid(), random(5, 4, 3, 3)


def run(x, offset, mask, weight):
    return ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1)


def test_each_sample_is_read_from_the_beginning_of_its_memory():
    x, offset, mask, weight = inputs()
    expected = run(
        x,
        offset.flatten(1)[:, : 18 * 12].reshape(2, 18, 3, 4),
        mask.flatten(1)[:, : 9 * 12].reshape(2, 9, 3, 4),
        weight,
    )
    assert torch.equal(run(x, offset, mask, weight), expected)


def test_gradients_go_where_the_values_came_from():
    x, offset, mask, weight = (value.requires_grad_() for value in inputs())
    assert gradcheck(run, (x, offset, mask, weight), fast_mode=True)
    run(x, offset, mask, weight).sum().backward()
    used = offset.grad.flatten(1)
    assert used[:, : 18 * 12].any() and not used[:, 18 * 12 :].any()
