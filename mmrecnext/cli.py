"""Command lines of the tools: their arguments, and how they end."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.dist import is_main_process

from mmrecnext.engine.misbuilt import describe_misbuilt
from mmrecnext.engine.precision import AMP_DTYPES
from mmrecnext.engine.prepare import prepare
from mmrecnext.engine.stopping import RANKS, Terminated, termination
from mmrecnext.engine.terminal import warnings_logged
from mmrecnext.errors import ConfigError, OptionError, UserError, printable
from mmrecnext_autoload import leave

# MMEngine reloads pkg_resources, which says each time that it will go.
warnings.filterwarnings('ignore', message='pkg_resources is deprecated')

LAUNCHERS = ('none', *RANKS)

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


class SettingsAction(DictAction):
    """Reads settings KEY=VALUE; what is none is told as other mistakes are."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Add settings to those before.

        Raises:
            ConfigError: where there is no ``=``, or a bracket lacks another.
        """
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, ValueError) as error:
            raise ConfigError(
                f'{option_string} takes KEY=VALUE, with brackets in pairs, got '
                f'{" ".join(values)}'
            ) from error


def file_to_write(path: str) -> str:
    """Read a file name of the command line.

    Raises:
        argparse.ArgumentTypeError: where a folder has that name.
    """
    if os.path.isdir(path):
        raise argparse.ArgumentTypeError(f'{path} is a folder; name a file')
    return path


def check_device(name: str):
    """Check that PyTorch knows and has a device.

    Raises:
        OptionError: where it has not.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f'--device {name} cannot be used: {reason}') from error


def add_config_arguments(parser: argparse.ArgumentParser):
    """Add the arguments of every tool that reads a config."""
    parser.add_argument(
        'config', help='config file; a bare name is sought in configs/ and below'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=SettingsAction,
        metavar='KEY=VALUE',
        help='override settings of the config, such as '
        'optim_wrapper.optimizer.lr=1e-4 "model.neck.in_channels=[64,128,256,512]"',
    )


def add_model_argument(parser: argparse.ArgumentParser, name: str, default: str = ''):
    """Add the argument of tools that are told of which model weights are.

    Args:
        parser: which is given it.
        name: of the argument.
        default: what the model is without it.
    """
    parser.add_argument(
        name,
        help='such as recnext_m3 or mlla_nano_recattn; of one that was changed, the '
        "config of its training, or its arch: \"{'base': 'm3', 'dims': [8, 16, 32, 64]}"
        f'" {default}',
    )


def add_ema_argument(parser: argparse.ArgumentParser):
    """Add the argument of tools that read checkpoints of classifiers."""
    parser.add_argument(
        '--ema',
        action='store_true',
        help='take the moving averages that timm saves beside the weights',
    )


def add_runner_arguments(parser: argparse.ArgumentParser):
    """Add the arguments of tools that run a runner, by MMDetection's names."""
    parser.add_argument(
        '--work-dir', help='folder of logs and checkpoints [work_dirs/CONFIG]'
    )
    parser.add_argument(
        '--data-root',
        metavar='FOLDER',
        help='where the data stand, in place of `data_root` of the config',
    )
    parser.add_argument(
        '--launcher', choices=LAUNCHERS, default='none', help='job launcher [none]'
    )
    # torch.distributed.launch passes it; torchrun sets the variable itself.
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS
    )


def add_inference_arguments(parser: argparse.ArgumentParser):
    """Add the arguments of tools that have a network infer."""
    parser.add_argument(
        '--deploy',
        action='store_true',
        help='merge batch norms into convolutions first: same results, sooner',
    )
    parser.add_argument(
        '--dtype',
        choices=('fp32', *AMP_DTYPES),
        default='fp32',
        help='precision of backbone, neck and heads; boxes, scores and masks stay in '
        'fp32 [%(default)s]',
    )


def prepare_run(cfg: Config, args: argparse.Namespace, splits: tuple[str, ...]):
    """Fit a config to this machine and to the command line, in place.

    Args:
        cfg: the config.
        args: arguments of :func:`add_runner_arguments` and of the tool.
        splits: those of ``train``, ``val``, ``test`` that will be read.

    Raises:
        ConfigError: where data are missing, or settings of what is to run.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    prepare(cfg, args.config, splits, args.work_dir, args.data_root, args.launcher)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """Show a bar, on a terminal's error stream, while in use.

    Yields:
        What is told what comes next, and what share is done.
    """
    from rich.console import Console  # here: few tools show one
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task('', total=1.0)

        def advance(text: str, done: float):
            bar.update(task, description=text, completed=done)

        yield advance


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
        with termination.answered(), warnings_logged():
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
