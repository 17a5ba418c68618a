"""What a run says on the terminal; the log file in its work dir keeps everything."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger, print_log
from mmengine.runner import EpochBasedTrainLoop
from mmengine.runner import Runner as MMEngineRunner
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

DUMPS = (
    '\n' + 60 * '-' + '\nSystem environment:',
    'Config:\n',
    'Hooks will be executed in the following order:',
    'paramwise_options -- ',
    'Exp name: ',
    'Distributed training is not used, all SyncBatchNorm',
)
"""Beginnings of what MMEngine logs for those who look into a run afterwards."""

STEPS = ('after_train_iter', 'after_val_iter', 'after_test_iter')
"""Where MMEngine's ``LoggerHook`` logs a line for some of the steps."""

FOR_DEVELOPERS = (FutureWarning, DeprecationWarning, PendingDeprecationWarning)

DEPRECATED = 'be deprecated'
"""What MMEngine and its kin say in its place, in the log and in other warnings."""

T = TypeVar('T')

SMOOTHED = 20  # steps whose mean loss is shown


def is_file(handler: logging.Handler) -> bool:
    """Tell whether a handler of a log writes a file."""
    return isinstance(handler, logging.FileHandler)


def is_for_people(record: logging.LogRecord) -> bool:
    """Tell whether a line of the log is for the terminal as well."""
    message = record.getMessage()
    if record.levelno == logging.WARNING:
        return DEPRECATED not in message
    return record.levelno > logging.WARNING or not message.startswith(DUMPS)


def is_no_step(record: logging.LogRecord) -> bool:
    """Tell whether a line of the log is other than what a progress line shows."""
    return record.module != 'logger_hook' or record.funcName not in STEPS


def quieten(logger: MMLogger):
    """Keep from the terminal what is for the log file, where there is one."""
    if any(map(is_file, logger.handlers)):
        for handler in logger.handlers:
            if not is_file(handler) and is_for_people not in handler.filters:
                handler.addFilter(is_for_people)


@contextmanager
def warnings_logged() -> Iterator[None]:
    """Have warnings for developers logged in place of shown, in the log file alone.

    Where no run has a log file, as in inference, they are dropped.
    """
    show = warnings.showwarning

    def showwarning(message, category, filename, lineno, file=None, line=None):
        for_developers = issubclass(category, FOR_DEVELOPERS) or DEPRECATED in str(
            message
        )
        if file is not None or not for_developers:
            show(message, category, filename, lineno, file, line)
            return
        text = warnings.formatwarning(message, category, filename, lineno, line)
        record = logging.LogRecord(
            'py.warnings', logging.WARNING, filename, lineno, text.strip(), None, None
        )
        for handler in MMLogger.get_current_instance().handlers:
            if is_file(handler):
                handler.handle(record)

    warnings.showwarning = showwarning
    try:
        yield
    finally:
        warnings.showwarning = show


class ErrorStream:
    """The error stream, or what a line of progress has put in its place by then."""

    def write(self, text: str) -> int:
        """Write to it."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Have it written."""
        sys.stderr.flush()


@contextmanager
def results_apart() -> Iterator[None]:
    """Have what is logged outside of runs go to the error stream.

    The standard output is left to what a tool prints, and to the log of a run.
    """
    logger = MMLogger.get_current_instance()
    handlers = [x for x in logger.handlers if isinstance(x, logging.StreamHandler)]
    shown = [(x, x.stream) for x in handlers if not is_file(x)]
    for handler, _ in shown:
        handler.stream = ErrorStream()  # setStream would flush one that may be closed
    try:
        yield
    finally:
        for handler, stream in shown:
            handler.stream = stream


@contextmanager
def logged_from(level: int, logger: logging.Logger | None = None) -> Iterator[None]:
    """Have nothing logged that is less grave.

    Args:
        level: of ``logging``.
        logger: which logs; None for MMEngine's.
    """
    logger = logger or MMLogger.get_current_instance()
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


class Message(logging.Formatter):
    """Says a message alone, and how grave it is where it is a warning."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a line of the log."""
        text = super().format(record)
        if record.levelno < logging.WARNING:
            return text
        return f'{record.levelname.lower()}: {text}'


class ProgressHook(Hook):
    """Shows one line on a terminal, redrawn at each step: steps, loss and time left.

    It is shown within ``with hook.shown(runner)``; what is logged meanwhile appears
    above it. Elsewhere, as in a file, behind a pipe, or in the other processes of a
    run, MMEngine's lines stay.

    Args:
        console: the terminal, by default that of the standard output.
    """

    priority = 'VERY_LOW'

    def __init__(self, console: Console | None = None):
        self.console = console or Console()
        self.bar: Progress | None = None
        self.done = 0  # steps
        self.tasks: list[TaskID] = []  # training, and a validation amid it

    @contextmanager
    def shown(self, runner: MMEngineRunner) -> Iterator[None]:
        """Show progress, where there is somebody to see it."""
        logger = runner.logger
        wanted = logger.isEnabledFor(logging.INFO) and any(
            handler.level <= logging.INFO for handler in logger.handlers
        )
        if not (self.console.is_interactive and is_main_process() and wanted):
            yield
            return
        # No thread redraws it: processes that load data are forked meanwhile.
        self.bar = Progress(
            *columns(MofNCompleteColumn(), TextColumn('{task.fields[loss]}')),
            console=self.console,
            auto_refresh=False,
            speed_estimate_period=300,
        )
        self.tasks = []
        with self.bar, above_progress(logger):
            yield
        self.bar = None

    def before_train(self, runner: MMEngineRunner):
        """Begin with the steps of training, from where it is resumed."""
        self._begin('train', runner.max_iters, runner.iter)

    def before_val_epoch(self, runner: MMEngineRunner):
        """Begin with the steps of a validation."""
        self._begin('val', len(runner.val_dataloader))

    def before_test_epoch(self, runner: MMEngineRunner):
        """Begin with the steps of a test."""
        self._begin('test', len(runner.test_dataloader))

    def after_train_iter(
        self, runner: MMEngineRunner, batch_idx: int, data_batch=None, outputs=None
    ):
        """Show a step of training."""
        if self.bar is None:
            return
        what = 'train'
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            what = f'epoch {runner.epoch + 1}/{runner.max_epochs}'
        losses = runner.message_hub.log_scalars.get('train/loss')
        loss = f'loss {losses.mean(SMOOTHED):.3f}' if losses else ''
        self._show(runner.iter + 1, description=what, loss=loss)

    def after_val_iter(
        self, runner: MMEngineRunner, batch_idx: int, data_batch=None, outputs=None
    ):
        """Show a step of a validation."""
        self._show(batch_idx + 1)

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: MMEngineRunner, metrics=None):
        """Take the line of a validation away."""
        self._end()

    def pass_over(self, batches: Iterator, number: int):
        """Read batches that are done, with a line of their own."""
        print_log(f'Passing over {number} batches, which are done', 'current')
        self._begin('pass over', number)
        for done, _ in enumerate(islice(batches, number), 1):
            self._show(done)
        self._end()

    def _begin(self, what: str, total: int, done: int = 0):
        if self.bar is not None:
            self.tasks.append(
                self.bar.add_task(what, total=total, completed=done, loss='')
            )
            self.bar.refresh()

    def _end(self):
        if self.bar is not None:
            self.bar.remove_task(self.tasks.pop())

    def _show(self, done: int, **fields):
        self.done = done
        if self.bar is not None:
            self.bar.update(self.tasks[-1], completed=done, refresh=True, **fields)


class TimeLeft(TimeRemainingColumn):
    """Says how much time is left, and in the end how much it took."""

    def render(self, task: Task) -> Text:
        """Say it."""
        return super().render(task) + Text(' in all' if task.finished else ' left')


def columns(*figures: ProgressColumn) -> list[ProgressColumn]:
    """Return what a line of progress is made of; the bar takes the room left.

    Args:
        figures: what stands between it and the time left.
    """
    return [
        TextColumn('{task.description}'),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        *figures,
        TimeLeft(compact=True, elapsed_when_finished=True),
    ]


def line_of_progress(*figures: ProgressColumn, has_thread: bool) -> Progress:
    """Return a line on a terminal's error stream; nothing elsewhere.

    Args:
        figures: see :func:`columns`.
        has_thread: whether one redraws it, not where processes are forked meanwhile.
    """
    console = Console(stderr=True)
    return Progress(
        *columns(*figures),
        console=console,
        disable=not console.is_interactive,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # what is piped stays in its pipe
        auto_refresh=has_thread,
        speed_estimate_period=300,
    )


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """Show which part of the work is at hand, how much is done, and the time left.

    Yields:
        What is told what comes next, and what share is done.
    """
    with line_of_progress(TaskProgressColumn(), has_thread=True) as bar:
        task = bar.add_task('', total=1.0)

        def advance(text: str, done: float):
            bar.update(task, description=text, completed=done, refresh=True)

        yield advance


@contextmanager
def counted(text: str, total: int, what: str) -> Iterator[Callable[[], None]]:
    """Show how many steps are done, and the time left; what stops them is told.

    Args:
        text: what is done.
        total: number of steps.
        what: what is done in each, in the plural.

    Yields:
        What is called after each.
    """
    done = 0
    with line_of_progress(MofNCompleteColumn(), has_thread=False) as bar:
        task = bar.add_task(text, total=total)
        bar.refresh()

        def advance():
            nonlocal done
            done += 1
            bar.update(task, completed=done, refresh=True)

        try:
            yield advance
        except KeyboardInterrupt as stop:
            stop.args = stop.args or (f'{done} of {total} {what} are done',)
            raise


@contextmanager
def tracked(items: Iterable[T], text: str, what: str) -> Iterator[Iterator[T]]:
    """Show progress as of :func:`counted` through items, which have a length.

    Yields:
        The items.
    """
    assert isinstance(items, Sized)
    with counted(text, len(items), what) as advance:

        def each() -> Iterator[T]:
            for item in items:
                yield item
                advance()

        yield each()


@contextmanager
def above_progress(logger: MMLogger) -> Iterator[None]:
    """Have what is logged appear above a line of progress that is shown."""
    handlers = [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and not is_file(handler)
    ]
    before = [(handler, handler.stream, handler.formatter) for handler in handlers]
    for handler in handlers:
        handler.setStream(sys.stdout)  # which is the bar's meanwhile
        handler.setFormatter(Message())
        handler.addFilter(is_no_step)
    try:
        yield
    finally:
        for handler, stream, formatter in before:
            handler.setStream(stream)
            handler.setFormatter(formatter)
            handler.removeFilter(is_no_step)
