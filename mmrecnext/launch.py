"""``python -m mmrecnext.launch``: torchrun, which leaves it to its processes to tell.

Where one fails or all are told to end, torchrun would add tracebacks of its own.
"""

import logging
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

ELASTIC = 'torch.distributed.elastic'
TALKATIVE = (f'{ELASTIC}.agent.server.api', f'{ELASTIC}.multiprocessing.api')
"""Loggers that warn of each signal that is passed on."""

if __name__ == '__main__':
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        main()
    except SignalException as stop:
        sys.exit(128 + stop.sigval)
    except ChildFailedError as failed:
        _, first = failed.get_first_failure()
        code = first.exitcode  # negative: a signal
        sys.exit(code if code > 0 else 128 - code)
