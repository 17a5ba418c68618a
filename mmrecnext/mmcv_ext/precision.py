"""The precision in which the stand-in operators compute."""

import functools

import torch
from torch import Tensor


def at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Bring tensors to their common dtype, and to float32 if that is a lower one.

    torchvision's kernels lack bfloat16, some lack float16, and they sum gradients in
    the dtype of the input; torchvision's autocast rules choose float32 as well.
    Tensors that already have the dtype are returned as they are.
    """
    dtypes = (tensor.dtype for tensor in tensors)
    dtype = functools.reduce(torch.promote_types, dtypes, torch.float32)
    return tuple(tensor.to(dtype) for tensor in tensors)
