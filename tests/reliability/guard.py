"""Have something done many times in processes that are watched.

What ends such a process, or keeps it for too long, is told of the item that did, and
the next process goes on behind it.
"""

import faulthandler
import gc
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 10
MEMORY = 2 * 2**30
"""How long an item may take, and how many bytes."""

EVENTS = (
    *('compile', 'exec', 'import', 'marshal.', 'pickle.find_class', 'code.__new__'),
    *('os.', 'subprocess.', 'pty.', 'shutil.', 'socket.', 'ctypes.', 'webbrowser.'),
    *('sys.addaudithook', 'sys.setprofile', 'sys.settrace', 'urllib.', 'tempfile.'),
)
"""How audit events begin that no reading of data raises."""

READING = ('os.listdir', 'os.scandir', 'os.walk', 'os.fwalk')
"""Those of them that change nothing."""


@dataclass
class Outcome:
    """What became of an item.

    Attributes:
        item: it.
        verdict: what the judge said; or, in capitals, how the process ended.
        executed: audit events that no reading of data raises.
        seconds: that the act took.
        peak: most bytes that the process held meanwhile.
        grown: by how many bytes that is more than it held before: a forked process
            begins with all that the first one holds.
    """

    item: Any
    verdict: str
    executed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak: int = 0
    grown: int = 0


def watched(
    act: Callable[[Any], Any],
    judge: Callable[[Any, Any], str],
    items: Iterable[Any],
    seconds: float = SECONDS,
    memory: int = MEMORY,
) -> Iterator[Outcome]:
    """Yield what becomes of each item.

    Args:
        act: what is watched, of an item.
        judge: returns a verdict on an item, and what the act returned or raised.
        items: any number, of what pickle takes.
        seconds: for each.
        memory: bytes that the act may take beyond what the process has.
    """
    items = [*items]
    fork = multiprocessing.get_context('fork')
    done = 0
    while done < len(items):
        here, there = fork.Pipe(duplex=False)
        work = (act, judge, items[done:], memory, there)
        process = fork.Process(target=_work, args=work, daemon=True)
        process.start()
        there.close()
        try:
            while done < len(items):
                outcome = _receive(here, process, items[done], seconds)
                done += 1
                yield outcome
                if outcome.verdict.isupper():
                    break
        finally:
            process.kill()
            process.join()
            here.close()


def _receive(here, process, item: Any, seconds: float) -> Outcome:
    if not here.poll(seconds):
        return Outcome(item, 'HANGS', seconds=seconds)
    try:
        return here.recv()
    except EOFError:
        process.join()
        return Outcome(item, f'DIES ({process.exitcode})'.upper())


def _work(act, judge, items: list[Any], memory: int, there):
    faulthandler.disable()  # the parent tells how a process ended
    events: list[str] = []
    is_watching = False

    def hear(event: str, args: tuple):
        if not is_watching:
            return
        writes = event == 'open' and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (event.startswith(EVENTS) and event not in READING) or writes:
            events.append(f'{event} {str(args)[:60]} by {_caller()}')

    sys.addaudithook(hear)
    gc.freeze()  # MMEngine collects garbage for every dataset that it builds
    limit = _bytes_of('VmSize') + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for item in items:
        events.clear()
        Path('/proc/self/clear_refs').write_text('5')  # the peak begins anew
        gc.disable()  # what it ends may import or write, for another item
        held = _bytes_of('VmRSS')
        start = time.perf_counter()
        is_watching = True
        try:
            result = act(item)
        except BaseException as error:  # SystemExit too
            result = error
        is_watching = False
        gc.enable()
        taken, peak = time.perf_counter() - start, _bytes_of('VmHWM')
        verdict = judge(item, result)
        with suppress(BrokenPipeError):
            there.send(Outcome(item, verdict, events, taken, peak, peak - held))


def _caller() -> str:
    """Return the innermost place that does not import."""
    stack = traceback.extract_stack()[:-2]
    places = [f'{at.filename}:{at.lineno}' for at in stack]
    return [place for place in places if 'importlib' not in place][-1]


def _bytes_of(name: str) -> int:
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{name}:'):
            return int(line.split()[1]) * 1024
    raise LookupError(name)
