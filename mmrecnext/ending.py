"""How a tool ends: in which words, and with which exit status."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.dist import is_main_process

from mmrecnext.building import describe_misbuilt
from mmrecnext.errors import UserError, printable
from mmrecnext.stopping import Terminated, termination
from mmrecnext_autoload import leave

FILE_NAMES = (
    'filename',
    'filepath',
    'file_path',
    'save_file',
    'img_path',
    'path',
    'file',
)
"""What functions call the name of a file that they read or write."""


def run(main: Callable[[], None]):
    """Run a tool; what the user can mend is told in a line, with no traceback.

    The exit status is 1 for an error, and as a shell's for what comes from outside: 130
    after Ctrl-C, 143 after SIGTERM, 141 where the reader of the output is gone.
    """
    tool = Path(sys.argv[0]).name
    logging.raiseExceptions = False  # as where nobody reads the log on the terminal
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with termination.answered():
            main()
            sys.stdout.flush()
    except KeyboardInterrupt as stop:
        if is_main_process():
            print(
                printable(': '.join([f'{tool}: stopped', *stop.args])), file=sys.stderr
            )
        _leave(143 if isinstance(stop, Terminated) else 130)
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _output_is_gone():
            sys.exit(141)
        sys.exit(printable(f'{tool}: error: {describe(error)}'))
    except Exception as error:
        if termination.arrived:
            _leave(143)  # the process that this one took its steps with has left
        misbuilt = describe_misbuilt(error)
        if misbuilt is None:
            raise
        sys.exit(printable(f'{tool}: error: {misbuilt}'))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        _leave(0)


def _leave(status: int):
    """End the process, and what it has in common with others."""
    if not torch.distributed.is_initialized():
        sys.exit(status)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher passes it on, once more
    gloo = torch.distributed.get_backend() == 'gloo'
    if not status:
        torch.distributed.destroy_process_group()
    if status or gloo:  # whose threads at times abort a process that tears down
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)


def _output_is_gone() -> bool:
    """Tell whether nobody reads the output any more, as behind ``| head``."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would try again at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def describe(error: Exception) -> str:
    """Return what an error says, with the name of the file that it is about."""
    if not isinstance(error, OSError):
        return str(error)
    reason = error.strerror or str(error) or type(error).__name__
    file = error.filename if error.filename is not None else _file_at_hand(error)
    if isinstance(error, FileExistsError | NotADirectoryError):
        reason = f'{reason}; name a folder'
    if file is None or str(file) in reason:
        return reason
    return f'{file}: {reason}'


def _file_at_hand(error: Exception) -> str | os.PathLike | None:
    """Return the file that the innermost call of an error names, if any does."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        for name in FILE_NAMES:
            if isinstance(file := frame.f_locals.get(name), str | os.PathLike):
                return file
    return None
