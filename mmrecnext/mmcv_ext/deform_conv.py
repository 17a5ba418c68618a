"""Deformable convolutions in place of mmcv's compiled operators.

Offsets are (B, 2 * G * kh * kw, H', W') for G deformable groups, y before x; masks are
(B, G * kh * kw, H', W'). All operators write into tensors that the caller provides.
``columns`` and ``ones`` are mmcv's scratch space, ``im2col_step`` its chunk of a batch.

Source: Dai et al., Deformable Convolutional Networks, https://arxiv.org/abs/1703.06211;
Zhu et al., Deformable ConvNets v2, https://arxiv.org/abs/1811.11168
"""

import math
from collections.abc import Sequence

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from mmrecnext.mmcv_ext.precision import at_least_float32


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write the convolution of ``input`` (B, C, H, W) into ``output``.

    Args:
        input: (B, C, H, W).
        weight: (C', C / group, kH, kW).
        offset: (B, 2 * deformable_group * kH * kW, H', W').
        output: (B, C', H', W'), written.
        columns: Unused.
        ones: Unused.
        kW: Kernel width.
        kH: Kernel height.
        dW: Horizontal stride.
        dH: Vertical stride.
        padW: Horizontal zero padding.
        padH: Vertical zero padding.
        dilationW: Horizontal dilation.
        dilationH: Vertical dilation.
        group: Groups of channels.
        deformable_group: Groups of channels that share an offset.
        im2col_step: Unused.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_forward(input, weight, offset, None, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Add the gradient of ``input`` to ``gradInput``, write that of ``offset``.

    torchvision's kernel yields the gradient of the weight at the same time. It is left
    in ``columns``, resized to the weight, for :func:`deform_conv_backward_parameters`,
    which mmcv calls next with the same scratch tensor.

    The gradients have the shapes of their inputs, ``gradOutput`` that of the output;
    all other arguments are those of :func:`deform_conv_forward`.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grads = _backward(gradOutput, input, weight, offset, None, geometry)
    gradInput += grads[0]
    gradOffset.copy_(grads[2])
    columns.resize_(weight.shape).copy_(grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the gradient of the weight to ``gradWeight``.

    The gradient is taken from ``columns`` if :func:`deform_conv_backward_input` left it
    there, which empties them, and computed otherwise. All other arguments are those of
    :func:`deform_conv_forward`.
    """
    if columns.shape == gradWeight.shape:
        gradWeight.add_(columns, alpha=scale)
        columns.resize_(0)
        return
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    # the gradient of the weight does not depend on the weight, only on its shape
    grads = _backward(gradOutput, input, gradWeight, offset, None, geometry)
    gradWeight.add_(grads[1], alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write the modulated convolution of ``input`` into ``output``.

    Args:
        input: (B, C, H, W).
        weight: (C', C / group, kernel_h, kernel_w).
        bias: (C',), ignored unless ``with_bias``.
        ones: Unused.
        offset: (B, 2 * deformable_group * kernel_h * kernel_w, H', W') or larger.
        mask: (B, deformable_group * kernel_h * kernel_w, H', W') or larger.
        output: (B, C', H', W'), written.
        columns: Unused.
        kernel_h: Kernel height.
        kernel_w: Kernel width.
        stride_h: Vertical stride.
        stride_w: Horizontal stride.
        pad_h: Vertical zero padding.
        pad_w: Horizontal zero padding.
        dilation_h: Vertical dilation.
        dilation_w: Horizontal dilation.
        group: Groups of channels.
        deformable_group: Groups of channels that share an offset.
        with_bias: Whether to add ``bias``.
    """
    geometry = (
        *(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w),
        *(group, deformable_group),
    )
    offset, mask = _read(offset, output), _read(mask, output)
    output.copy_(
        _forward(input, weight, offset, mask, bias if with_bias else None, geometry)
    )


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write the gradients of offset and mask, add those of the other inputs.

    The gradients have the shapes of their inputs, ``grad_output`` that of the output;
    ``grad_bias`` is left alone unless ``with_bias``. All other arguments are those of
    :func:`modulated_deform_conv_forward`.
    """
    geometry = (
        *(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w),
        *(group, deformable_group),
    )
    offset, mask = _read(offset, grad_output), _read(mask, grad_output)
    grads = _backward(grad_output, input, weight, offset, mask, geometry)
    grad_input += grads[0]
    grad_weight += grads[1]
    for grad, value in ((grad_offset, grads[2]), (grad_mask, grads[3])):
        if grad.shape == value.shape:
            grad.copy_(value)
        else:
            grad.zero_()
            _head(grad, value[0].numel()).copy_(value.flatten(1))
    if with_bias:
        grad_bias += grads[4]


def _read(values: Tensor, output: Tensor) -> Tensor:
    """Return offsets or masks of the size of the output.

    Those that MMDetection's DyHead gives may be of a larger map. mmcv's kernels do not
    look at their size: they take each sample's values from the beginning of its memory.
    """
    if values.shape[2:] == output.shape[2:]:
        return values
    size = (values.shape[1], *output.shape[2:])
    return _head(values.contiguous(), math.prod(size)).reshape(-1, *size)


def _head(values: Tensor, count: int) -> Tensor:
    """Return the first values of each sample, (B, count)."""
    return values.view(len(values), -1)[:, :count]


def _forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> Tensor:
    use_mask = mask is not None
    if mask is None:
        mask = input.new_empty(len(input), 0)
    bias = input.new_zeros(len(weight)) if bias is None else bias
    tensors = at_least_float32(input, weight, offset, mask, bias)
    # autocast would reach into the kernel and lower its matrix products
    with torch.autocast(input.device.type, enabled=False):
        return torch.ops.torchvision.deform_conv2d(*tensors, *geometry, use_mask)


def _backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Gradients of input, weight, offset, mask and bias."""
    use_mask = mask is not None
    if mask is None:
        mask = input.new_empty(len(input), 0)
    bias = input.new_zeros(len(weight))
    tensors = at_least_float32(grad_output, input, weight, offset, mask, bias)
    backward = torch.ops.torchvision._deform_conv2d_backward
    with torch.autocast(input.device.type, enabled=False):
        grads = backward(*tensors, *geometry, use_mask)
    _stop_outside(grads[2], tensors[3], input.shape[2:], weight.shape[2:], geometry)
    return grads


def _stop_outside(
    grad: Tensor,
    offset: Tensor,
    size: Sequence[int],
    kernel: Sequence[int],
    geometry: tuple[int, ...],
) -> None:
    """Zero the gradient of offsets that lead out of the image, in place.

    A sample one pixel off or further counts as constant in mmcv, on either side;
    torchvision still takes the slope of one that lies exactly one pixel before it.
    """
    taps = (geometry[-1], *kernel, 2)
    offsets = offset.unflatten(1, taps).unbind(4)  # y and x: (B, G, kh, kw, H', W')
    outside = torch.zeros((), dtype=torch.bool, device=offset.device)
    for axis, at in enumerate(offsets):
        stride, pad, dilation = geometry[axis : axis + 6 : 2]
        first = torch.arange(at.size(4 + axis), device=at.device) * stride - pad
        tap = torch.arange(kernel[axis], device=at.device) * dilation
        at = at + _along(first, 4 + axis) + _along(tap, 2 + axis)
        outside = outside | (at <= -1) | (at >= size[axis])
    grad.unflatten(1, taps).masked_fill_(outside.unsqueeze(4), 0)


def _along(values: Tensor, axis: int) -> Tensor:
    """Lay ``values`` along one of the axes (B, G, kh, kw, H', W')."""
    return values.view([-1 if i == axis else 1 for i in range(6)])
