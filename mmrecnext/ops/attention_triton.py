"""Linear attention by Triton: keys and values are read once, queries once.

The product of keys and values, and what the attention is divided by, are sums over all
pixels, beyond the range of half precision. The kernels sum in single precision, and
divide before they multiply by the queries: with ``s[c]`` the mean of key channel ``c``,

    out = (sum_c q[c] * mean(k[c] * v)) / (sum_c q[c] * s[c] + eps)
        = sum_c a[c] * u[c],   a[c] = q[c] * s[c] / (sum q * s + eps),
                               u[c] = mean(k[c] * v) / s[c]

``a`` lies in [0, 1], and ``u``, a weighted mean of values, within their range.

Importing this module imports Triton; :func:`mmrecnext.ops.attention.attend` does so
where the kernels can run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from mmrecnext.ops.constants import EPSILON

SPAN = 256  # pixels that one program sums over
# Largest tile of values. With 128 queries, and pixels as below, it fits registers and
# shared memory.
VALUES = 32


@triton.jit
def features(x):
    """Return ``elu(x) + 1``."""
    return tl.where(x > 0, x + 1, tl.exp(tl.minimum(x, 0.0)))


@triton.jit(do_not_specialize=['pixels'])
def gather(
    qk_ptr,
    v_ptr,
    sums_ptr,
    pixels,
    v_stride_n,
    v_stride,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PIXELS: tl.constexpr,
    SPAN: tl.constexpr,
):
    """Sum ``k v^T``, and ``k`` in one column more, over ``SPAN`` pixels of a head.

    ``D`` and ``C`` are the channels of keys and values in a head; a program takes
    ``BLOCK_C`` of the values. The sums are ``[N, splits, HEADS, D, C + 1]``.
    """
    split = tl.program_id(0)
    head = tl.program_id(1) % HEADS
    block = tl.program_id(1) // HEADS
    n = tl.program_id(2).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    k_ptr = qk_ptr + (n * pixels * 2 + 1) * HEADS * D + head * D
    v_ptr += n * v_stride_n + head * C
    products = tl.full((BLOCK_D, BLOCK_C), 0.0, tl.float32)
    weights = tl.full((BLOCK_D,), 0.0, tl.float32)
    for start in tl.range(0, SPAN, PIXELS, num_stages=2):
        pixel = split * SPAN + start + tl.arange(0, PIXELS)[:, None]
        is_pixel = pixel < pixels
        is_key = is_pixel & (d[None] < D)
        k = tl.load(k_ptr + pixel * 2 * HEADS * D + d[None], is_key, 0.0)
        v = tl.load(v_ptr + pixel * v_stride + c[None], is_pixel & (c[None] < C), 0.0)
        k = tl.where(is_key, features(k.to(tl.float32)), 0.0).to(v.dtype)
        products = tl.dot(tl.trans(k), v, products, input_precision='tf32x3')
        weights += tl.sum(k.to(tl.float32), 0)
    splits = tl.num_programs(0)
    sums_ptr += ((n * splits + split) * HEADS + head) * D * (C + 1)
    row = d[:, None] * (C + 1)
    is_product = (d[:, None] < D) & (c[None] < C)
    tl.store(sums_ptr + row + c[None], products, is_product)
    is_first = d + block * BLOCK_D < D
    tl.store(sums_ptr + d * (C + 1) + C, weights, is_first)


@triton.jit(do_not_specialize=['pixels'])
def distribute(
    qk_ptr,
    sums_ptr,
    added_ptr,
    out_ptr,
    pixels,
    eps,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Multiply the sums ``[N, HEADS, D, C + 1]`` by the queries of ``PIXELS``."""
    head = tl.program_id(1) % HEADS
    n = tl.program_id(2).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    c = (tl.program_id(1) // HEADS * BLOCK_C + tl.arange(0, BLOCK_C))[None]
    sums_ptr += (n * HEADS + head) * D * (C + 1)
    weights = tl.load(sums_ptr + d * (C + 1) + C, d < D, 0.0)
    is_product = (d[:, None] < D) & (c < C)
    means = tl.load(sums_ptr + d[:, None] * (C + 1) + c, is_product, 0.0)
    means = means / tl.maximum(weights, 1e-30)[:, None]

    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)[:, None]
    is_pixel = pixel < pixels
    place = (n * pixels + pixel) * 2 * HEADS * D + head * D + d[None]
    q = tl.load(qk_ptr + place, is_pixel & (d[None] < D), 0.0)
    shares = features(q.to(tl.float32)) * (weights / pixels)[None]
    shares = shares / (tl.sum(shares, 1) + eps)[:, None]
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    out = tl.dot(shares.to(dtype), means.to(dtype), input_precision='tf32x3')

    place = (n * pixels + pixel) * HEADS * C + head * C + c
    mask = is_pixel & (c < C)
    out += tl.load(added_ptr + place, mask, 0.0).to(tl.float32)
    tl.store(out_ptr + place, out.to(dtype), mask)


@triton_op('mmrecnext::attend', mutates_args=())
def attend(qk: Tensor, v: Tensor, num_heads: int, added: Tensor) -> Tensor:
    """Return what :func:`mmrecnext.ops.attention.attend_plain` does, channels-last."""
    n, channels, height, width = v.shape
    pixels = height * width
    qk = qk.contiguous(memory_format=torch.channels_last)
    v, stride = pixel_rows(v)
    added = added.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(added)
    d, c = qk.shape[1] // (2 * num_heads), channels // num_heads
    pixels_per_tile = 16 if v.dtype == torch.float32 else 64
    sizes = dict(
        HEADS=num_heads,
        D=d,
        C=c,
        BLOCK_D=max(16, triton.next_power_of_2(d)),
        BLOCK_C=min(max(16, triton.next_power_of_2(c)), VALUES),
        PIXELS=pixels_per_tile,
    )
    programs = num_heads * -(-c // sizes['BLOCK_C'])
    splits = -(-pixels // SPAN)
    sums = torch.empty(
        (n, splits, num_heads, d, c + 1), dtype=torch.float32, device=v.device
    )
    wrap_triton(gather)[(splits, programs, n)](
        qk, v, sums, pixels, v.stride(0), stride, SPAN=SPAN, **sizes
    )
    wrap_triton(distribute)[(-(-pixels // pixels_per_tile), programs, n)](
        qk, sums.sum(1), added, out, pixels, EPSILON, **sizes
    )
    return out


def pixel_rows(x: Tensor) -> tuple[Tensor, int]:
    """Return ``x`` with channels side by side, and at which distance its pixels are."""
    height, width = x.shape[2:]
    if x.stride(1) != 1 or (
        height > 1 and width > 1 and x.stride(2) != width * x.stride(3)
    ):
        x = x.contiguous(memory_format=torch.channels_last)
    return x, x.stride(3) if width > 1 else x.stride(2)
