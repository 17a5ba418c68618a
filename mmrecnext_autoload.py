"""What is to be done before mmrecnext, which takes its time, is imported.

Back mmcv's operators: MMDetection imports ``mmcv.ops`` before it reads which backbone a
config names. PyTorch calls :func:`install` at the end of ``import torch`` (entry point
``torch.backends`` in ``pyproject.toml``); mmrecnext itself is imported only once
``mmcv._ext`` is asked for and found nowhere else. ``TORCH_DEVICE_BACKEND_AUTOLOAD=0``
keeps this off.

Answer signals: the tools call :func:`answer_signals` first of all.
"""

import os
import signal
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


def answer_signals():
    """Have a tool that is still importing end on Ctrl-C or SIGTERM with a line.

    There is nothing to save yet. ``mmrecnext.cli.run`` answers both from then on.
    """
    signal.signal(signal.SIGTERM, leave)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


def leave(number, frame):
    """Answer a signal: no exception, which what is imported might catch."""
    os.write(2, f'{os.path.basename(sys.argv[0])}: stopped\n'.encode())
    os._exit(128 + number)
