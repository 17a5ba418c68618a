"""Ctrl-C, SIGTERM and a reader who leaves: what they end, and when."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

PASSED_ON = 1.0
"""Seconds in which another signal is the same: a launcher has passed it on."""

HELD = 'stops after the step at hand; once more, and it stops at once'


class Terminated(KeyboardInterrupt):
    """The process was told to end, by SIGTERM as schedulers of jobs send it."""


class Termination:
    """What Ctrl-C and SIGTERM do: they end the process, or wait to be asked for.

    Attributes:
        held (bool): whether a signal is to wait; one that comes later ends at once.
        arrived (int): the number of the one that is waiting, or has ended the process;
            0 where there is none.
    """

    def __init__(self):
        self.held = False
        self.arrived = 0
        self.time = 0.0
        self.process = 0

    def __call__(self, number: int, frame):
        """Answer a signal.

        Raises:
            KeyboardInterrupt: where it is not to wait; see :meth:`end`.
        """
        if os.getpid() != self.process:  # a worker, which Ctrl-C reaches too
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        before, now = self.arrived, time.monotonic()
        if before and now - self.time < PASSED_ON:
            return
        self.arrived, self.time = before or number, now
        if before or not self.held:
            self.end()
        if os.environ.get('RANK', '0') == '0':
            os.write(2, f'\n{tool()}: {HELD}\n'.encode())

    def end(self):
        """End what is running.

        Raises:
            Terminated: after SIGTERM.
            KeyboardInterrupt: after Ctrl-C.
        """
        raise Terminated if self.arrived == signal.SIGTERM else KeyboardInterrupt

    @contextmanager
    def step(self) -> Iterator[None]:
        """Have a signal wait until what is done in the context is done whole.

        Raises:
            KeyboardInterrupt: then; see :meth:`end`.
        """
        self.held = True
        try:
            yield
        finally:
            self.held = False
            if self.arrived:
                self.end()

    @contextmanager
    def answered(self) -> Iterator[None]:
        """Answer the signals that arrive in the context.

        Ctrl-C stays ignored where it was, as of what a shell runs in the background.
        """
        self.held, self.arrived, self.process = False, 0, os.getpid()
        before = {signal.SIGTERM: signal.signal(signal.SIGTERM, self)}
        if signal.getsignal(signal.SIGINT) in (leave, signal.default_int_handler):
            before[signal.SIGINT] = signal.signal(signal.SIGINT, self)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)


termination = Termination()
"""The one of this process."""


def answer_signals():
    """Have a tool that is still importing end on Ctrl-C or SIGTERM with a line.

    There is nothing to save yet. :class:`Termination` answers both from then on.
    """
    signal.signal(signal.SIGTERM, leave)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


def leave(number, frame):
    """Answer a signal: no exception, which what is imported might catch."""
    os.write(2, f'{tool()}: stopped\n'.encode())
    os._exit(128 + number)


@contextmanager
def ending_with_reader() -> Iterator[None]:
    """End the process where nobody reads its output any more, as behind ``| head``.

    The exit status is 141 then, as a shell's.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        if not _output_is_gone():
            raise
        sys.exit(141)


def _output_is_gone() -> bool:
    try:
        print(flush=True)  # to flush alone asks nothing where nothing is kept back
    except BrokenPipeError:
        # Python would try again at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def tool() -> str:
    """Return what the running program is called."""
    return os.path.basename(sys.argv[0])
