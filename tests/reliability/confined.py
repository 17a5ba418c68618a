"""Run a tool that may write no more, and no folder that is not its user's to write.

``python confined.py BYTES tools/x.py ...``: files end at BYTES, as where a disk is full
there; no number leaves them free. Root loses what it has beyond the mode of a folder.
"""

import ctypes
import os
import resource
import runpy
import sys
from pathlib import Path
from threading import Thread

OVERRIDE = 1  # CAP_DAC_OVERRIDE, of linux/capability.h
VERSION = 0x20080522  # of its sets, of 64 bits: two halves


def relay():
    """Go on in a child whose output goes through pipes, which have no size."""
    pipes = [os.pipe() for _ in range(2)]
    if not (child := os.fork()):
        for number, (reader, writer) in enumerate(pipes, 1):
            os.dup2(writer, number)
            os.close(reader)
            os.close(writer)
        return
    for _, writer in pipes:
        os.close(writer)
    copies = [
        Thread(target=copy, args=(reader, number))
        for number, (reader, _) in enumerate(pipes, 1)
    ]
    for thread in copies:
        thread.start()
    for thread in copies:
        thread.join()
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def copy(reader: int, number: int):
    """Copy what comes through a pipe to an output of this process, as it comes."""
    while block := os.read(reader, 2**16):
        os.write(number, block)


def obey_modes():
    """Have root refused what the mode of a folder refuses to others."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), 'capget')
    sets[0] &= ~(1 << OVERRIDE)  # of those in effect, the lower half
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), 'capset')


if __name__ == '__main__':
    limit, *sys.argv = sys.argv[1:]
    relay()
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    if hasattr(os, 'geteuid') and os.geteuid() == 0:
        obey_modes()
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name='__main__')
