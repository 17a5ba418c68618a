"""Filters that are turned along with their orientations, in place of mmcv's.

Source: Zhou et al., Oriented Response Networks, https://arxiv.org/abs/1701.01833
"""

import torch
from torch import Tensor


def active_rotated_filter_forward(
    input: Tensor, indices: Tensor, output: Tensor
) -> None:
    """Write all turned copies of filters into ``output``.

    Args:
        input: (O, I, N, H, W) filters of N orientations.
        indices: (N, H, W, R) int32: the place, counted from 1, that each of the
            N * H * W weights has in a filter after each of R turns.
        output: (O * R, I * N, H, W), written.
    """
    places = _places(indices)
    weights = input.flatten(2)[:, None].expand(-1, len(places), -1, -1)
    turned = torch.empty_like(weights, memory_format=torch.contiguous_format)
    turned.scatter_(3, places[None, :, None].expand_as(weights), weights)
    output.copy_(turned.reshape(output.shape))


def active_rotated_filter_backward(
    grad_out: Tensor, indices: Tensor, grad_in: Tensor
) -> None:
    """Write the gradient of the filters into ``grad_in``.

    ``grad_out`` has the shape of the output and ``grad_in`` that of the input of
    :func:`active_rotated_filter_forward`.
    """
    places = _places(indices)
    planes, inputs = grad_in.shape[:2]
    grad = grad_out.reshape(planes, len(places), inputs, -1)
    turned_back = grad.gather(3, places[None, :, None].expand_as(grad))
    grad_in.copy_(turned_back.sum(1).reshape(grad_in.shape))


def _places(indices: Tensor) -> Tensor:
    """(R, N * H * W) places counted from 0."""
    return indices.flatten(0, 2).t().long() - 1
