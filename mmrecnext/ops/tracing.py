"""Whether operations are recorded for later, rather than computed here and now."""

from __future__ import annotations

import torch

from mmrecnext.compat import is_symbolic


def is_traced() -> bool:
    """Tell whether PyTorch's own, differentiable operators alone will do.

    So it is where :func:`~mmrecnext.compat.is_symbolic`, and where a graph is recorded
    that is to run without this library, for any size, with gradients or without.
    """
    return torch.jit.is_tracing() or torch.compiler.is_exporting() or is_symbolic()
