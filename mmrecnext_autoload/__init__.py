"""What is to be done before mmrecnext, which takes its time, is imported.

The rest is of the standard library alone: command lines of the tools (``arguments``,
``choices``), which are read first of all, and what ends them (``signals``).

This module backs mmcv's operators: MMDetection imports ``mmcv.ops`` before it reads
which backbone a config names. PyTorch calls :func:`install` at the end of ``import
torch`` (entry point ``torch.backends`` in ``pyproject.toml``); mmrecnext itself is
imported only once ``mmcv._ext`` is asked for and found nowhere else.
``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` keeps this off.
"""

import sys


class ImportOnDemand:
    """Imports mmrecnext when mmcv turns out to lack its compiled module."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Answer nothing: mmrecnext adds the finder that does."""
        if name == 'mmcv._ext':
            import mmrecnext  # noqa: F401


def install():
    """Watch for ``mmcv._ext``, behind all other finders."""
    if ImportOnDemand not in sys.meta_path:
        sys.meta_path.append(ImportOnDemand)
