"""Linear attention, at a cost that grows with the number of pixels."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrecnext.ops.constants import EPSILON, HEAD_CHANNELS
from mmrecnext.ops.fast_paths import is_eager_training
from mmrecnext.ops.kernels import equal_or_above, on_device_of, triton_is_usable
from mmrecnext.ops.rope import rotate
from mmrecnext.ops.tracing import is_traced


def attend(
    qk: Tensor, v: Tensor, num_heads: int, added: Tensor, rotated: bool = False
) -> Tensor:
    """Return ``q^T k v^T / (q^T k 1)`` of the pixels in each head, plus ``added``.

    The products associate either way, and take the order of fewer operations; in a
    graph for maps of any size, that of :func:`attend_in_graph`. Half precision is
    computed in single, within autocast too: sums over all pixels leave the range of the
    one kind and the digits of the other.

    Args:
        qk: queries, then keys, ``[N, 2 * D, H, W]``, before the activation ``elu + 1``.
        v: values, ``[N, C, H, W]``.
        num_heads: heads that ``D`` and ``C`` are divided into.
        added: ``[N, C, H, W]``, whose memory format and dtype the result has.
        rotated: whether queries and keys are turned by where they stand, by
            :func:`~mmrecnext.ops.rope.rotate`, but for the denominator.
    """
    if rotated or is_traced():
        return attend_in_graph(qk, v, num_heads, added, rotated)
    d = equal_or_above(qk.shape[1] // (2 * num_heads), HEAD_CHANNELS)
    c = equal_or_above(v.shape[1] // num_heads, HEAD_CHANNELS)
    if (
        d
        and c
        and qk.dtype == v.dtype == added.dtype
        and triton_is_usable([qk, v, added], try_attend, d, c)
    ):
        with on_device_of(v):
            return torch.ops.mmrecnext.attend(qk, v, num_heads, added)
    return attend_plain(qk, v, num_heads, added)


def attend_plain(qk: Tensor, v: Tensor, num_heads: int, added: Tensor) -> Tensor:
    """Return what :func:`attend` does, by PyTorch's own operators."""
    height, width = v.shape[2:]
    pixels = height * width
    dtype = torch.promote_types(v.dtype, torch.float32)
    with _without_autocast(v):
        q, k = by_pixel(positive(qk.to(dtype)), 2, num_heads).unbind(1)
        values = by_pixel(v.to(dtype), num_heads)
        d, c = q.shape[-1], values.shape[-1]
        # The denominators are those of values that are all 1.
        if 2 * c * d <= (c + d) * pixels:
            mixed = q @ (k.mT @ values / pixels)
            # Not as a product of matrices, which are slow with a single column.
            weight = (q * k.mean(2, keepdim=True)).sum(-1, keepdim=True)
        else:
            likeness = q @ (k / pixels).mT
            mixed, weight = likeness @ values, likeness.sum(-1, keepdim=True)
        result = torch.addcdiv(
            by_pixel(added.to(dtype), num_heads), mixed, weight + EPSILON
        )
    rows = result.transpose(1, 2).reshape(-1, height, width, v.shape[1])
    return rows.permute(0, 3, 1, 2).to(added.dtype)


def attend_in_graph(
    qk: Tensor, v: Tensor, num_heads: int, added: Tensor, rotated: bool = False
) -> Tensor:
    """Return what :func:`attend` does, by operators that every format of a graph has.

    It asks nothing about the size of maps, and leaves them as other engines hold them,
    channels first: the pixels stay where they are, which is sooner there.
    """
    n, channels, height, width = v.shape
    dtype = torch.promote_types(v.dtype, torch.float32)
    with _without_autocast(v):
        both = positive(qk.to(dtype))
        q, k = by_channel(both, 2, num_heads).unbind(1)
        weight = (q * k.mean(-1, keepdim=True)).sum(-2, keepdim=True)
        if rotated:
            each = both.reshape(2 * n, qk.shape[1] // 2, height, width)
            turned = rotate(each).reshape(both.shape)
            q, k = by_channel(turned, 2, num_heads).unbind(1)
        values = by_channel(v.to(dtype), num_heads)
        state = values @ k.transpose(-2, -1) / (height * width)
        mixed = state @ q / (weight + EPSILON)
        result = added.to(dtype) + mixed.reshape(n, channels, height, width)
    return result.to(added.dtype)


def _without_autocast(x: Tensor) -> AbstractContextManager[object]:
    # The meta device, where costs are counted, has no autocast to leave.
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def by_channel(x: Tensor, *groups: int) -> Tensor:
    """View a map ``[N, C, H, W]`` as ``[N, *groups, C / prod(groups), H * W]``."""
    return x.flatten(2).unflatten(1, (*groups, -1))


def by_pixel(x: Tensor, *groups: int) -> Tensor:
    """View a map ``[N, C, H, W]`` as ``[N, *groups, H * W, C / prod(groups)]``."""
    n, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(n, height * width, channels)
    return rows.unflatten(2, (*groups, -1)).movedim(1, -2)


def positive(x: Tensor) -> Tensor:
    """Return ``elu(x) + 1``, which is above 0."""
    if is_eager_training():
        return _Positive.apply(x)
    is_graph = is_traced() or torch.is_grad_enabled()
    return F.elu(x) + 1 if is_graph else exp_or_line(x)


def exp_or_line(x: Tensor) -> Tensor:
    """Return ``exp(x)`` below 0 and ``x + 1`` above, exact for small results too.

    On a CPU, ELU takes several times as long as an exponential and two maxima.
    """
    return x.clamp(max=0).exp_().add_(x.clamp(min=0))


class _Positive(torch.autograd.Function):
    """``elu(x) + 1``, whose slope is itself, and 1 at most."""

    @staticmethod
    def forward(ctx, x):
        y = exp_or_line(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return y.clamp(max=1).mul_(grad)


def try_attend(dtype: torch.dtype, qk_channels: int, channels: int):
    """Run the kernels on a small map of the default device."""
    import mmrecnext.ops.attention_triton  # noqa: F401

    qk = torch.zeros(1, 2 * qk_channels, 1, 1, dtype=dtype)
    v = torch.zeros(1, channels, 1, 1, dtype=dtype)
    with on_device_of(v):
        torch.ops.mmrecnext.attend(qk, v, 1, v)
