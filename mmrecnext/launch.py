"""``python -m mmrecnext.launch``: torchrun, which leaves it to its processes to tell.

Where one fails or all are told to end, torchrun would add tracebacks of its own.
"""

import logging
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

SIGNALS = 'torch.distributed.elastic.multiprocessing.api'
"""Logger that warns of each signal that is passed on."""

if __name__ == '__main__':
    logging.getLogger(SIGNALS).setLevel(logging.ERROR)
    try:
        main()
    except SignalException as stop:
        sys.exit(128 + stop.sigval)
    except ChildFailedError as failed:
        _, first = failed.get_first_failure()
        code = first.exitcode  # negative: a signal
        sys.exit(code if code > 0 else 128 - code)
