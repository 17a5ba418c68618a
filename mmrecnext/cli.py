"""How the tools go on from their command lines, and how they end."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.dist import is_main_process

from mmrecnext.engine.misbuilt import describe_misbuilt
from mmrecnext.engine.prepare import prepare
from mmrecnext.engine.resume import saved_checkpoints
from mmrecnext.engine.stopping import first_process, lock
from mmrecnext.engine.terminal import results_apart, warnings_logged
from mmrecnext.errors import ConfigError, OptionError, UserError, printable
from mmrecnext.files import remove_unfinished
from mmrecnext_autoload.choices import is_exported
from mmrecnext_autoload.signals import ending_with_reader, termination, tool

# MMEngine reloads pkg_resources, which says each time that it will go.
warnings.filterwarnings('ignore', message='pkg_resources is deprecated')

COMMAND = 'MMRECNEXT_COMMAND'
"""Variable in which a launcher of ours says how it was called."""

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


def read_settings(words: Iterable[str]) -> dict[str, Any]:
    """Read settings KEY=VALUE of the command line.

    Raises:
        ConfigError: where there is no ``=``, or a bracket lacks another.
    """
    words, read = [*words], argparse.Namespace()
    try:
        DictAction(['--cfg-options'], 'settings')(None, read, words)
    except (AssertionError, ValueError) as error:
        raise ConfigError(
            f'--cfg-options takes KEY=VALUE, with brackets in pairs, got '
            f'{" ".join(words)}'
        ) from error
    settings: dict[str, Any] = read.settings
    return settings


def chosen_device(name: str | None, *models: str) -> str:
    """Return what to compute on: what is named, else a GPU where there is one.

    A GPU of a number becomes the current one, which kernels of Triton run on and clocks
    wait for.

    Args:
        name: as PyTorch knows it, if one was named.
        models: that are to run; files that were exported do so on a CPU.

    Raises:
        OptionError: where PyTorch does not know, or has not, such a device.
    """
    if name is None:
        on_gpu = torch.cuda.is_available() and not any(map(is_exported, models))
        return 'cuda' if on_gpu else 'cpu'
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f'--device {name} cannot be used: {reason}') from error
    if torch.device(name).type == 'cuda' and torch.device(name).index is not None:
        torch.cuda.set_device(name)
    return name


def prepare_run(cfg: Config, args: argparse.Namespace, splits: tuple[str, ...]):
    """Fit a config to this machine and to the command line, in place.

    What trains has its work dir alone from then on.

    Args:
        cfg: the config.
        args: arguments of :func:`add_runner_arguments` and of the tool.
        splits: those of ``train``, ``val``, ``test`` that will be read.

    Raises:
        ConfigError: where data are missing, or settings of what is to run; or where
            another run trains in the work dir.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    prepare(cfg, args.config, splits, args.work_dir, args.data_root, args.launcher)
    if 'train' in splits and first_process(args.launcher):
        lock(cfg.work_dir)
        remove_unfinished(cfg.work_dir)


@contextmanager
def resumable(work_dir: str, command: str) -> Iterator[None]:
    """Have a training that is stopped say what it saved, and what goes on from it.

    Args:
        work_dir: of the training.
        command: what a user is to type.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        saved = saved_checkpoints(work_dir)
        stop.args = ('nothing is saved',)
        if saved:
            stop.args = (f'{saved[0]} is saved; to go on from it:', command)
        raise


def command_to_resume(args: argparse.Namespace) -> str:
    """Return the command line of a training, made to go on from the latest.

    Args:
        args: what it was read as; see ``tools/train.py``.
    """
    if COMMAND in os.environ:
        words = shlex.split(os.environ[COMMAND])
    elif args.launcher != 'none':
        return 'the command that launched it, with --resume'
    else:
        words = [sys.orig_argv[0], *sys.argv]
    kept = []
    while words:
        word = words.pop(0)
        if word == '--resume':
            if words[:1] == [args.resume]:
                del words[0]
        elif not word.startswith('--resume='):
            kept.append(word)
    return shlex.join([*kept, '--resume'])


def run(main: Callable[..., None], args: argparse.Namespace | None = None):
    """Run a tool; what the user can mend is told in a line, with no traceback.

    The exit status is 1 for an error, and as a shell's for what comes from outside: 130
    after Ctrl-C, 143 after SIGTERM, 141 where the reader of the output is gone.

    Args:
        main: the tool.
        args: what it takes, if it takes any: its command line, whose settings are read
            before. With ``debug``, the traceback of an error stands above its line.
    """
    logging.raiseExceptions = False  # as where nobody reads the log on the terminal
    try:
        with (
            termination.answered(),
            results_apart(),
            warnings_logged(),
            ending_with_reader(),
        ):
            if args is None:
                main()
            else:
                if getattr(args, 'cfg_options', None):
                    args.cfg_options = read_settings(args.cfg_options)
                main(args)
    except KeyboardInterrupt as stop:
        _stop(*stop.args)
    except (UserError, OSError) as error:
        _fail(describe(error), args)
    except Exception as error:
        if termination.arrived:
            _stop()  # what it stopped amid has made another error of it
        misbuilt = describe_misbuilt(error)
        if misbuilt is None:
            raise
        _fail(misbuilt, args)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        _leave(0)


def _stop(*remarks: object):
    """End after a signal, with a line, and others below it."""
    if is_main_process():
        reason, *more = map(str, remarks or ('',))
        said = ': '.join([f'{tool()}: stopped', *filter(None, [reason])])
        for line in (said, *more):
            print(printable(line), file=sys.stderr)
    _leave(128 + (termination.arrived or signal.SIGINT))


def _fail(reason: str, args: argparse.Namespace | None):
    """End with a line that says what went wrong."""
    if getattr(args, 'debug', False):
        traceback.print_exc()
    sys.exit(printable(f'{tool()}: error: {reason}'))


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
    """Return the file, or the log, that the innermost call of an error has."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        for name in FILE_NAMES:
            if isinstance(file := frame.f_locals.get(name), str | os.PathLike):
                return file
        for value in frame.f_locals.values():
            if isinstance(value, logging.FileHandler):
                return value.baseFilename
    return None
