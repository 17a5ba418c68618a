"""Multi-scale deformable attention in place of mmcv's compiled operators.

Source: Zhu et al., Deformable DETR, https://arxiv.org/abs/2010.04159
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrecnext.mmcv_ext.precision import at_least_float32


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Sum the weighted samples of every query over levels and points.

    Args:
        value: (B, K, H, C): the K positions of all levels, H heads of C channels.
        value_spatial_shapes: (L, 2) height and width of every level.
        value_level_start_index: (L,) first position of every level.
        sampling_locations: (B, Q, H, L, P, 2) x and y, the map spanning 0 to 1.
        attention_weights: (B, Q, H, L, P).
        im2col_step: Unused; batches are not split.

    Returns:
        (B, Q, H * C) in the dtype of ``value``.
    """
    tensors = at_least_float32(value, sampling_locations, attention_weights)
    output = _attend(tensors, value_spatial_shapes, value_level_start_index)
    return output.to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Add the gradients to ``grad_value``, ``grad_sampling_loc``, ``grad_attn_weight``.

    They have the shapes of value, locations and weights, ``grad_output`` is
    (B, Q, H * C); all other arguments are those of :func:`ms_deform_attn_forward`.
    A sample one pixel off the map or further counts as constant.
    """
    tensors = at_least_float32(value, sampling_locations, attention_weights)
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        output = _attend(leaves, value_spatial_shapes, value_level_start_index)
    grads = torch.autograd.grad(output, leaves, grad_output.to(output.dtype))
    outside = _outside(tensors[1], value_spatial_shapes)
    grad_value += grads[0]
    grad_sampling_loc += grads[1].masked_fill_(outside, 0)
    grad_attn_weight += grads[2]


def _outside(locations: Tensor, shapes: Tensor) -> Tensor:
    """Tell which samples lie a pixel off their map or further, (B, Q, H, L, P, 1)."""
    size = shapes.flip(1)[:, None]  # (L, 1, 2) of x, y
    at = locations * size - 0.5
    return ((at <= -1) | (at >= size)).any(-1, keepdim=True)


def _attend(tensors: Sequence[Tensor], shapes: Tensor, starts: Tensor) -> Tensor:
    value, locations, weights = tensors
    batch, _, heads, _ = value.shape
    value = value.permute(0, 2, 3, 1).flatten(0, 1)  # (B * H, C, K)
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # (B * H, Q, L, P, 2)
    weights = weights.transpose(1, 2).flatten(0, 1)  # (B * H, Q, L, P)
    levels = zip(shapes.tolist(), starts.tolist(), strict=True)
    output = value.new_zeros(())
    for level, ((height, width), start) in enumerate(levels):
        plane = value[..., start : start + height * width]
        samples = F.grid_sample(
            plane.unflatten(-1, (height, width)),
            grids[:, :, level],
            mode='bilinear',
            padding_mode='zeros',
            align_corners=False,
        )  # (B * H, C, Q, P)
        output = output + (samples * weights[:, None, :, level]).sum(-1)
    return output.unflatten(0, (batch, heads)).permute(0, 3, 1, 2).flatten(2)
