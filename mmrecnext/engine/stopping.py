"""What keeps a run from beginning: no launcher, or another run in its folder."""

from __future__ import annotations

import errno
import logging
import os
import socket
from typing import IO

from mmengine.logging import print_log

from mmrecnext.errors import ConfigError
from mmrecnext_autoload.choices import RANKS

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]  # which tells that there is none

LOCK = '.lock'
"""File in a work dir that its run holds a lock of, and that names the run."""

STARTS = {
    'pytorch': 'Use tools/dist_train.sh, or torchrun',
    'slurm': 'Use tools/slurm_train.sh, or srun',
    'mpi': 'Use mpirun',
}

_locked: dict[str, IO[str]] = {}


def first_process(launcher: str = 'none') -> bool:
    """Tell whether this is the first process of a run, launched or not."""
    return os.environ.get(RANKS.get(launcher, ''), '0') == '0'


def check_launched(launcher: str):
    """Check that a launcher has started this process.

    Raises:
        ConfigError: where it has not, naming what to start.
    """
    rank = RANKS.get(launcher)
    if rank is not None and rank not in os.environ:
        raise ConfigError(
            f'--launcher {launcher}: the variable {rank} is not set, so that no '
            f'{launcher} launcher has started this process. {STARTS[launcher]}; for a '
            'single process leave --launcher out'
        )


def lock(folder: str):
    """Have a work dir for the runs of this process alone, until it ends, however.

    Where the file system knows no locks, it goes on without one.

    Raises:
        ConfigError: where another process has it, naming that.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(os.path.realpath(folder), LOCK)
    if fcntl is None or path in _locked:
        return
    file = open(path, 'a+')  # noqa: SIM115 - to be closed is to be unlocked
    try:
        # Of POSIX, not of BSD: forked workers that outlive a kill do not hold it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        with file:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ConfigError(
                    f'another run trains in {folder} ({file.read(200).strip()}): wait '
                    'for it, stop it, or name another folder with --work-dir'
                ) from error
        print_log(f'{folder} cannot be locked: {error}', 'current', logging.WARNING)
        return
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    file.flush()
    _locked[path] = file
