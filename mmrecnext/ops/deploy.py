"""The token mixers of the inference form: by Triton on CUDA, else by plain PyTorch.

The kernels have no gradient and stand in ``recconv_triton`` and ``attention_triton``,
which are imported, and Triton with them, where they are first used.
"""

from __future__ import annotations

import functools
import importlib
import logging
import textwrap
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

EPSILON = 1e-6
MODES = ('bilinear', 'nearest')
KERNEL_SIZES = (3, 5, 7)
HEAD_CHANNELS = (16, 32, 64, 128)  # of queries or values, as the kernels pad them
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def recconv(
    x: Tensor,
    down: Tensor | None,
    convs: Sequence[Tensor],
    bias: Tensor | None = None,
    mode: str = 'bilinear',
) -> Tensor:
    """Mix the pixels of each channel as :class:`~mmrecnext.models.recconv.RecConv`.

    Args:
        x: ``[N, C, H, W]``. On CUDA the result is channels-last; ``x`` had better be.
        down: weight ``[C, 1, K, K]`` of the convolution that halves the map; not needed
            at level 0.
        convs: a weight ``[C, 1, K, K]`` per level, the coarsest first. Weights that
            went through :func:`channels_fastest` save a copy at each call.
        bias: ``[C]``, of the last convolution.
        mode: how maps are enlarged, ``bilinear`` or ``nearest``.
    """
    x = autocasted(x)
    kernel_size = equal_or_above(convs[0].shape[-1], KERNEL_SIZES)
    if mode in MODES and kernel_size == convs[0].shape[-1]:
        tensors = [x, *convs, *(t for t in (down, bias) if t is not None)]
        if triton_is_usable(tensors, try_recconv, kernel_size, mode):
            return torch.ops.mmrecnext.recconv(x, down, convs, bias, mode)
    return plain_recconv(x, down, convs, bias, mode)


def plain_recconv(
    x: Tensor,
    down: Tensor | None,
    convs: Sequence[Tensor],
    bias: Tensor | None = None,
    mode: str = 'bilinear',
) -> Tensor:
    """Return what :func:`recconv` does, by PyTorch's own operators."""
    channels, _, kernel_size, _ = convs[0].shape
    options = dict(padding=kernel_size // 2, groups=channels)
    finer = []
    for _ in convs[1:]:
        finer.append(x)
        x = F.conv2d(x, down, stride=2, **options)
    *inner, last = convs
    for weight in inner:
        mixed = F.conv2d(x, weight, **options)
        fine = finer.pop()
        x = fine + F.interpolate(mixed, fine.shape[2:], mode=mode)
    return F.conv2d(x, last, bias, **options)


def channels_fastest(weight: Tensor) -> Tensor:
    """Return the weight ``[C, 1, K, K]`` laid out as the kernels read it."""
    packed = weight.flatten(1).t().contiguous()
    return packed.t().unflatten(1, weight.shape[1:])


def linear_attention(
    qk: Tensor, v: Tensor, num_heads: int = 1, added: Tensor | None = None
) -> Tensor:
    """Attend with the kernel ``elu + 1``, at a cost that grows with the pixels.

    Args:
        qk: queries, then keys, ``[N, 2 * D, H, W]``, before the activation.
        v: values, ``[N, C, H, W]``. A slice of the channels of a larger map is read
            where it stands. On CUDA maps had better be channels-last, and the result
            is.
        num_heads: heads that ``D`` and ``C`` are divided into.
        added: ``[N, C, H, W]``, a map to add to the result.
    """
    d = equal_or_above(qk.shape[1] // (2 * num_heads), HEAD_CHANNELS)
    c = equal_or_above(v.shape[1] // num_heads, HEAD_CHANNELS)
    if d and c and qk.dtype == v.dtype:
        tensors = [qk, v, *(t for t in (added,) if t is not None)]
        if triton_is_usable(tensors, try_linear_attention, d, c):
            return torch.ops.mmrecnext.linear_attention(qk, v, num_heads, added)
    return plain_linear_attention(qk, v, num_heads, added)


def plain_linear_attention(
    qk: Tensor, v: Tensor, num_heads: int = 1, added: Tensor | None = None
) -> Tensor:
    """Return what :func:`linear_attention` does, by PyTorch's own operators.

    Half precision is computed in single: sums over the pixels leave its range.
    """
    n, channels, height, width = v.shape
    dtype = torch.promote_types(v.dtype, torch.float32)
    features = F.elu(qk.to(dtype)) + 1
    q, k = features.reshape(n, 2, num_heads, -1, height * width).unbind(1)
    values = v.to(dtype).reshape(n, num_heads, -1, height * width)
    weight = k.mean(-1, keepdim=True).mT @ q + EPSILON
    mixed = (values @ (k / (height * width)).mT) @ q / weight
    mixed = mixed.reshape(n, channels, height, width).to(v.dtype)
    return mixed if added is None else mixed + added


def autocasted(x: Tensor) -> Tensor:
    """Return ``x`` in the dtype that autocast would convolve it in."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        return x.to(torch.get_autocast_dtype(kind))
    return x


def equal_or_above(number: int, choices: Sequence[int]) -> int | None:
    """Return the first of ``choices`` that is no less, a constant where traced."""
    return next((choice for choice in choices if number <= choice), None)


def triton_is_usable(
    tensors: Sequence[Tensor], attempt: Callable, *setting: int | str
) -> bool:
    """Tell whether a kernel can stand in for PyTorch's operators.

    Args:
        tensors: all that it would be given, the map first.
        attempt: runs it on a small map, :func:`try_recconv` for instance.
        setting: arguments of ``attempt``, what decides whether a kernel compiles.
    """
    x = tensors[0]
    if not all(t.is_cuda for t in tensors) or x.dtype not in DTYPES or 0 in x.shape:
        return False
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return False
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return False  # a model that is to run without this library
    return works(attempt, x.device, x.dtype, *setting)


def works(
    attempt: Callable,
    device: torch.device,
    dtype: torch.dtype,
    *setting: int | str,
) -> bool:
    """Tell whether a kernel compiles and runs; a failure is told in one warning.

    It is tried once per process and setting.
    """
    return _works(attempt, device, dtype, *setting)


# What `torch.compiler.assume_constant_result` does, without importing the compiler and
# Triton: traced models are compiled for the answer.
works._dynamo_marked_constant = True


@functools.cache
def _works(
    attempt: Callable,
    device: torch.device,
    dtype: torch.dtype,
    *setting: int | str,
) -> bool:
    try:
        with torch.no_grad(), torch.device(device):
            attempt(dtype, *setting)
            torch.accelerator.synchronize(device)
    except Exception as error:
        # Whatever a compiler or a driver raises, the plain operators give the result.
        reason = textwrap.shorten(f'{type(error).__name__}: {error}', 300)
        print_log(
            f'{attempt.__name__}{setting} fails with Triton on {device} in {dtype}; '
            f"PyTorch's own operators are used, which are slower. {reason}",
            logger='current',
            level=logging.WARNING,
        )
        return False
    return True


def try_recconv(dtype: torch.dtype, kernel_size: int, mode: str):
    """Run the kernels of :func:`recconv` on a small map of the current device."""
    importlib.import_module('mmrecnext.ops.recconv_triton')
    x = torch.zeros(1, 64, 2, 2, dtype=dtype)
    weight = torch.zeros(64, 1, kernel_size, kernel_size, dtype=dtype)
    torch.ops.mmrecnext.recconv(x, weight, [weight, weight], None, mode)


def try_linear_attention(dtype: torch.dtype, qk_channels: int, channels: int):
    """Run the kernels of :func:`linear_attention` on a small map."""
    importlib.import_module('mmrecnext.ops.attention_triton')
    qk = torch.zeros(1, 2 * qk_channels, 1, 1, dtype=dtype)
    v = torch.zeros(1, channels, 1, 1, dtype=dtype)
    torch.ops.mmrecnext.linear_attention(qk, v, 1, None)
