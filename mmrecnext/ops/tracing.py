"""Whether operations are recorded for later, rather than computed here and now."""

from __future__ import annotations

import torch
from torch.fx._symbolic_trace import is_fx_symbolic_tracing


def is_symbolic() -> bool:
    """Tell whether the maps at hand stand for others, of another size or layout.

    So it is under ``torch.fx`` and in the transforms of ``torch.func``.
    """
    return not torch.compiler.is_compiling() and (
        is_fx_symbolic_tracing() or torch._C._are_functorch_transforms_active()
    )


def is_traced() -> bool:
    """Tell whether PyTorch's own, differentiable operators alone will do.

    So it is where :func:`is_symbolic`, and where a graph is recorded that is to run
    without this library, for any size, with gradients or without.
    """
    return torch.jit.is_tracing() or torch.compiler.is_exporting() or is_symbolic()
