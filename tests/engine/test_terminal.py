"""What a run says on the terminal, and what in its log file alone."""

import io
import logging
import warnings

import pytest
from mmengine.logging import MMLogger, print_log
from rich.console import Console

from mmrecnext.engine import terminal
from mmrecnext.engine.terminal import (
    counted,
    is_for_people,
    logged_from,
    results_apart,
    tracked,
    warnings_logged,
)
from tests.engine.helpers import run


def logged(folder):
    (file,) = folder.glob('*/*.log')
    return file.read_text()


@pytest.fixture
def screen(monkeypatch):
    """A terminal to watch, in place of the standard output."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, _environ={})
    monkeypatch.setattr(terminal, 'Console', lambda **_: console)
    return file


def talk(folder, **settings):
    """Train for two epochs, each with a validation, and say all of it."""
    run(folder, 2, scores=[0.25, 0.75], log_level='INFO', **settings)


def test_a_terminal_shows_one_line_of_progress(screen, tmp_path):
    talk(tmp_path)
    shown, file = screen.getvalue(), logged(tmp_path)
    assert 'epoch 1/2' in shown and 'epoch 2/2' in shown and '8/8' in shown
    assert 'loss 0.' in shown and ' left' in shown and ' in all' in shown
    assert 'Epoch(train)' in file and 'Epoch(train)' not in shown
    # What is no step is said above it, with nothing before.
    assert 'score: 0.7500' in shown and '- mmengine - INFO' not in shown
    assert shown.endswith('\x1b[?25h')  # the cursor is back


def test_a_stopped_run_leaves_the_terminal_in_order(screen, tmp_path):
    class Stop(terminal.Hook):
        def after_train_iter(self, runner, *args, **kwargs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 2, log_level='INFO', hooks=[Stop()])
    assert screen.getvalue().endswith('\x1b[?25h')


def test_items_are_counted_on_a_terminal_alone(screen, capfd):
    with tracked('abc', 'reading', 'letters') as letters:
        print('read:', [*letters])
    shown = screen.getvalue()
    assert (
        'reading' in shown and '0/3' in shown and '3/3' in shown and ' in all' in shown
    )
    assert shown.endswith('\x1b[2K')  # it is gone
    # What is piped is as it was.
    assert capfd.readouterr().out == "read: ['a', 'b', 'c']\n"


def test_a_pipe_is_told_of_no_progress(capfd):
    with tracked('abc', 'reading', 'letters') as letters:
        assert [*letters] == ['a', 'b', 'c']
    assert capfd.readouterr() == ('', '')


def test_what_is_stopped_says_how_much_is_done():
    told = pytest.raises(KeyboardInterrupt, match=r'^1 of 3 pictures are done$')
    with told, counted('drawing', 3, 'pictures') as advance:
        advance()
        raise KeyboardInterrupt


@pytest.mark.parametrize('level', ['INFO', 'ERROR'])
def test_elsewhere_the_lines_of_mmengine_stay(level, tmp_path, capsys):
    run(tmp_path, 2, log_level=level)
    said = capsys.readouterr().out
    assert ('Epoch(train) [2]' in said) == (level == 'INFO')
    assert '\x1b[?25' not in said


def test_a_quiet_run_is_quiet_on_a_terminal(screen, tmp_path):
    run(tmp_path, 2, log_level='ERROR')
    assert not screen.getvalue()


def test_dumps_are_in_the_log_file_alone(tmp_path, capsys):
    talk(tmp_path, cfg=dict(note='of this run'))
    said, file = capsys.readouterr().out, logged(tmp_path)
    for dump in terminal.DUMPS:
        if 'SyncBatchNorm' in dump or 'paramwise' in dump:
            continue  # of other runs
        assert dump in file and dump not in said, dump
    assert 'of this run' in file and 'of this run' not in said


@pytest.mark.parametrize(
    ('level', 'message', 'expected'),
    [
        (logging.INFO, 'Loaded 2/2 weights', True),
        (logging.INFO, 'paramwise_options -- stem.weight:lr=0.1', False),
        (logging.WARNING, '"FileClient" will be deprecated in future.', False),
        (logging.WARNING, 'the truth has no object of dog', True),
        (logging.ERROR, 'Config:\nis broken', True),
    ],
)
def test_what_is_for_people(level, message, expected):
    record = logging.LogRecord('mmengine', level, '', 0, message, None, None)
    assert is_for_people(record) == expected


def test_warnings_for_developers_go_to_the_log_file(tmp_path):
    MMLogger.get_instance('warned', log_file=str(tmp_path / 'run.log'))
    with pytest.warns() as shown, warnings_logged():
        warnings.warn('this will go', FutureWarning, stacklevel=1)
        warnings.warn('this would be deprecated soon', UserWarning, stacklevel=1)
        warnings.warn('this is odd', UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in shown] == ['this is odd']
    text = (tmp_path / 'run.log').read_text()
    assert 'FutureWarning: this will go' in text and 'would be deprecated' in text
    assert 'this is odd' not in text


def test_results_are_apart_from_what_is_logged(capsys):
    handlers = MMLogger.get_current_instance().handlers
    before = [handler.stream for handler in handlers]
    with results_apart():
        print_log('told', 'current', logging.ERROR)
        with logged_from(logging.CRITICAL):
            print_log('not told', 'current', logging.ERROR)
        print('result')
    out, said = capsys.readouterr()
    assert out == 'result\n'
    assert said.endswith(' - told\n') and said.count('told') == 1
    assert [handler.stream for handler in handlers] == before


def test_a_log_whose_stream_is_closed_by_then(monkeypatch, capsys):
    """As where what calls a tool has taken the standard output to itself before."""
    logger, closed = logging.Logger('log', logging.INFO), io.StringIO()
    logger.addHandler(handler := logging.StreamHandler(closed))
    monkeypatch.setattr(MMLogger, 'get_current_instance', lambda: logger)
    closed.close()
    with results_apart():
        print_log('told', 'current')
    assert capsys.readouterr() == ('', 'told\n')
    assert handler.stream is closed
