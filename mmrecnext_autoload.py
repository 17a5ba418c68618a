"""Back mmcv's operators even where nothing has imported mmrecnext yet.

MMDetection imports ``mmcv.ops`` before it reads which backbone a config names. PyTorch
calls :func:`install` at the end of ``import torch`` (entry point ``torch.backends`` in
``setup.py``); mmrecnext itself is imported only once ``mmcv._ext`` is asked for and
found nowhere else. ``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` keeps this off.
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
