"""Operators of masks in place of mmcv's compiled ones.

Source: Zhao et al., PSANet, https://hszhao.github.io/projects/psanet (attention masks);
Wang et al., Region Proposal by Guided Anchoring, https://arxiv.org/abs/1901.03278
(masked convolution)
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_COLLECT = 0


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write attention to the places around every pixel as attention to the whole map.

    Args:
        input: (B, h_mask * w_mask, H, W): per pixel, attention to the places of a mask
            that is centred on it.
        output: (B, H * W, H, W), written: per pixel of the last two dimensions the
            attention that it pays to each of the map, or (distributing) that it is
            paid by each. What the mask does not reach is 0.
        psa_type: 0 to collect, 1 to distribute.
        num_: B.
        h_feature: H.
        w_feature: W.
        h_mask: Rows of the mask.
        w_mask: Its columns.
        half_h_mask: Row of its centre.
        half_w_mask: Column of its centre.
    """
    mask = (h_mask, w_mask, half_h_mask, half_w_mask)
    attention = input.flatten(2)
    whole = output.view(num_, h_feature * w_feature, -1)
    for row in range(h_feature):
        index, reached = _places(row, h_feature, w_feature, *mask, input.device)
        part = attention.gather(1, index.expand(num_, -1, -1)).where(reached, 0)
        pixels = slice(row * w_feature, (row + 1) * w_feature)
        if psa_type == _COLLECT:
            whole[:, pixels] = part
        else:
            whole[:, :, pixels] = part.mT


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Add the gradient of the input to ``grad_input``.

    ``grad_output`` has the shape of the output and ``grad_input`` that of the input of
    :func:`psamask_forward`, the rest is as it got it.
    """
    mask = (h_mask, w_mask, half_h_mask, half_w_mask)
    whole = grad_output.flatten(2)
    total = torch.zeros_like(grad_input.flatten(2))
    for row in range(h_feature):
        index, reached = _places(row, h_feature, w_feature, *mask, total.device)
        pixels = slice(row * w_feature, (row + 1) * w_feature)
        part = whole[:, pixels] if psa_type == _COLLECT else whole[:, :, pixels].mT
        total.scatter_add_(1, index.expand(num_, -1, -1), part.where(reached, 0))
    grad_input += total.view_as(grad_input)


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write the patches around some pixels into the columns of ``col``.

    Args:
        im: (1, C, H, W).
        mask_h_idx: (n,) int64 rows of the pixels.
        mask_w_idx: (n,) int64 columns.
        col: (C * kernel_h * kernel_w, n), written; 0 outside of the map.
        kernel_h: Rows of a patch.
        kernel_w: Columns of a patch.
        pad_h: Rows of a patch before the pixel.
        pad_w: Columns of a patch before the pixel.
    """
    # a patch reaches as far behind its pixel as the kernel is long
    padded = F.pad(im[0], (pad_w, kernel_w, pad_h, kernel_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows[:, None], columns[None]].flatten(0, 2))


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Write the columns of ``col`` to some pixels.

    Args:
        col: (channels, n).
        mask_h_idx: (n,) int64 rows of the pixels.
        mask_w_idx: (n,) int64 columns.
        im: (1, channels, height, width), written there and left alone elsewhere.
        height: Rows of the map.
        width: Its columns.
        channels: Its channels.
    """
    im[0][:, mask_h_idx, mask_w_idx] = col


def _places(
    row: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Place in every pixel's mask of the pixels of one row.

    Returns:
        (W, H * W) int64 place, and whether the mask reaches that far.
    """
    rows = torch.arange(h_feature, device=device)
    columns = torch.arange(w_feature, device=device)
    y = (row - rows + half_h_mask)[:, None]
    x = (columns[:, None] - columns + half_w_mask)[:, None]
    reached = (y >= 0) & (y < h_mask) & (x >= 0) & (x < w_mask)
    index = (y * w_mask + x).where(reached, 0)
    return index.flatten(1), reached.flatten(1)
