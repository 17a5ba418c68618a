"""Content-aware reassembly of features in place of mmcv's compiled operators.

Every pixel of a map that is ``scale_factor`` times as large is a weighted sum of the
``kernel_size`` squared pixels around it in the small map, by weights of its own.
Channels come in ``group_size`` groups that share weights. The operators go through the
places of the kernel, one after the other, and hold one map of the output's size.

Source: Wang et al., CARAFE, https://arxiv.org/abs/1905.02188
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrecnext.mmcv_ext.precision import at_least_float32


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the reassembled features into ``output``.

    Args:
        features: (B, C, H, W).
        masks: (B, kernel_size² * group_size, H * scale_factor, W * scale_factor)
            weights.
        output: (B, C, H * scale_factor, W * scale_factor), written.
        kernel_size: Rows and columns of the kernel, an odd number.
        group_size: Groups of channels.
        scale_factor: How many times as large the output is.
    """
    x, weights = at_least_float32(features, masks)
    weights = _split(weights, kernel_size**2, group_size, scale_factor)
    padded = _pad(x.unflatten(1, (group_size, -1)), kernel_size)
    total = torch.zeros_like(
        _split(output, -1, group_size, scale_factor), dtype=x.dtype
    )
    for place, rows, columns in _places(kernel_size, *features.shape[2:]):
        pixels = padded[..., rows, columns][..., :, None, :, None]
        total.addcmul_(pixels, weights[:, :, place, None])
    output.copy_(total.reshape(output.shape))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add gradients to ``bottom_grad`` and ``mask_grad``.

    ``top_grad`` has the shape of the output, ``bottom_grad`` that of the features,
    ``mask_grad`` that of the masks, the rest is as :func:`carafe_naive_forward` got
    it.
    """
    grad, x, weights = at_least_float32(top_grad, features, masks)
    grad = _split(grad, -1, group_size, scale_factor)
    weights = _split(weights, kernel_size**2, group_size, scale_factor)
    padded = _pad(x.unflatten(1, (group_size, -1)), kernel_size)
    of_padded, of_weights = torch.zeros_like(padded), torch.empty_like(weights)
    for place, rows, columns in _places(kernel_size, *features.shape[2:]):
        pixels = padded[..., rows, columns][..., :, None, :, None]
        of_weights[:, :, place] = (grad * pixels).sum(2)
        weighted = (grad * weights[:, :, place, None]).sum((-3, -1))
        of_padded[..., rows, columns] += weighted
    edge = kernel_size // 2
    height, width = features.shape[2:]
    inner = of_padded[..., edge : edge + height, edge : edge + width]
    bottom_grad += inner.flatten(1, 2).to(bottom_grad)
    mask_grad += of_weights.reshape(mask_grad.shape).to(mask_grad)


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the reassembled features into ``output``.

    ``rfeatures`` is written with the features, for :func:`carafe_backward`; ``routput``
    and ``rmasks`` are room that is not needed here. The rest is as in
    :func:`carafe_naive_forward`.
    """
    rfeatures.copy_(features)
    settings = (kernel_size, group_size, scale_factor)
    carafe_naive_forward(features, masks, output, *settings)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add gradients to ``bottom_grad`` and ``mask_grad``.

    ``rfeatures`` is as :func:`carafe_forward` wrote it; the other tensors whose names
    begin with r are room that is not needed here. The rest is as in
    :func:`carafe_naive_backward`.
    """
    settings = (kernel_size, group_size, scale_factor)
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, *settings)


def _split(maps: Tensor, channels: int, groups: int, scale: int) -> Tensor:
    """(B, groups, channels of a group, H, scale, W, scale) of large maps."""
    maps = maps.unflatten(1, (groups, channels))
    return maps.unflatten(4, (-1, scale)).unflatten(3, (-1, scale))


def _pad(x: Tensor, kernel_size: int) -> Tensor:
    edge = kernel_size // 2
    return F.pad(x, (edge, edge, edge, edge))


def _places(
    kernel_size: int, height: int, width: int
) -> Iterator[tuple[int, slice, slice]]:
    """Places of the kernel, and the padded map's part that each one reads."""
    for place in range(kernel_size**2):
        row, column = divmod(place, kernel_size)
        yield place, slice(row, row + height), slice(column, column + width)
