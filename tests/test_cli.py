"""What ends a tool is told in a line, and in its exit status."""

import argparse
import io
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from mmrecnext.benchmark import ablations, operators
from mmrecnext.cli import command_to_resume, run
from mmrecnext.engine.stopping import lock
from mmrecnext.errors import ConfigError, UserError
from mmrecnext.export import FORMATS
from mmrecnext.export.engines import ENGINES
from mmrecnext_autoload import choices
from mmrecnext_autoload.signals import HELD, leave, termination
from tests.helpers import ROOT, tool

pytestmark = pytest.mark.slow

LAUNCHED = """
import sys
from pathlib import Path

import torch
from mmrecnext.cli import run as run_as_tool
from tests.engine.helpers import run

WRAPPER = dict(
    type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
)


def main():
    torch.distributed.init_process_group('gloo')
    run(
        Path(sys.argv[1]),
        100000,
        by_epoch=False,
        hook=dict(interval=100000),
        launcher='pytorch',
        log_level='INFO',
        cfg=dict(model_wrapper_cfg=WRAPPER),
    )


run_as_tool(main)
"""
"""A run of two processes, to be stopped."""

PATIENCE = 300
"""Seconds after which a run that says or does nothing is stuck."""


@pytest.fixture
def ended(monkeypatch, capsys):
    """Return the exit status of a tool that runs some function, and what it says."""
    # A tool that another test imported in this process may answer it.
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def ended(main, *args):
        monkeypatch.setattr(sys, 'argv', ['tools/some.py'])
        with pytest.raises(SystemExit) as exit:
            run(main, *args)
        code = exit.value.code
        said = capsys.readouterr().err
        return (1, code) if isinstance(code, str) else (code, said.strip())

    yield ended
    signal.signal(signal.SIGTERM, before)


def raising(error):
    def main():
        raise error

    return main


def test_errors_name_the_file(ended, tmp_path):
    image = tmp_path / 'cut.jpg'
    Image.new('RGB', (64, 64)).save(image)
    image.write_bytes(image.read_bytes()[:400])

    def load(path):
        Image.open(path).load()

    code, said = ended(lambda: load(image))
    assert code == 1 and re.match(rf'some.py: error: {image}: .*runcated', said)
    assert ended(lambda: os.stat(tmp_path / 'none')) == (
        1,
        f'some.py: error: {tmp_path}/none: No such file or directory',
    )
    full = OSError(28, 'No space left on device', 'a/b.pth')
    expected = 'some.py: error: a/b.pth: No space left on device'
    assert ended(raising(full)) == (1, expected)

    def flush(log):
        raise OSError(28, 'No space left on device')

    log = logging.FileHandler(tmp_path / 'log')
    said = f'some.py: error: {tmp_path}/log: No space left on device'
    assert ended(lambda: flush(log)) == (1, said)
    log.close()
    # What names it by itself is not told twice.
    assert ended(raising(FileNotFoundError('no file x'))) == (
        1,
        'some.py: error: no file x',
    )


def test_control_characters_do_not_reach_the_terminal(ended):
    error = UserError('no key a\x1b[2Jb\nc\udcff\u202ed')
    expected = r'some.py: error: no key a\x1b[2Jb\nc\udcff\u202ed'
    assert ended(raising(error)) == (1, expected)
    assert ended(raising(OSError(2, 'None', 'a\x1b\n'))) == (
        1,
        r'some.py: error: a\x1b\n: None',
    )


@pytest.mark.usefixtures('interruptible')
def test_signals(ended):
    assert ended(lambda: os.kill(os.getpid(), signal.SIGINT) or time.sleep(9)) == (
        130,
        'some.py: stopped',
    )
    assert ended(lambda: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(9)) == (
        143,
        'some.py: stopped',
    )
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with pytest.raises(ZeroDivisionError):  # a fault of ours has its traceback
        run(lambda: 1 / 0)


@pytest.mark.parametrize(('number', 'status'), [('SIGINT', 130), ('SIGTERM', 143)])
def test_signals_while_a_tool_is_imported(number, status, tmp_path):
    """Also where what is imported catches all exceptions."""
    (tmp_path / 'some.py').write_text(
        'import os, signal, time\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        'from mmrecnext_autoload.signals import answer_signals\n'
        'answer_signals()\n'
        'try:\n'
        f'    os.kill(os.getpid(), signal.{number})\n'
        '    time.sleep(9)\n'
        'except BaseException:\n'
        '    pass\n'
    )
    ended = subprocess.run(
        [sys.executable, tmp_path / 'some.py'],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert (ended.returncode, ended.stderr) == (status, 'some.py: stopped\n')


@pytest.fixture(scope='module')
def without_pytorch(tmp_path_factory):
    """Return what runs Python where to import PyTorch ends the program."""
    place = tmp_path_factory.mktemp('without_pytorch')
    (place / 'torch.py').write_text('raise SystemExit("PyTorch is imported")')

    def run(*args):
        return subprocess.run(
            [sys.executable, *args],
            cwd=ROOT,
            env={**os.environ, 'PYTHONPATH': f'{place}{os.pathsep}{ROOT}'},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize(
    'tool', sorted((ROOT / 'tools').glob('*.py')), ids=lambda tool: tool.stem
)
def test_command_lines_are_read_before_pytorch_is_imported(tool, without_pytorch):
    told_of = without_pytorch(tool, '--help')
    assert told_of.returncode == 0, told_of.stderr
    assert re.search(rf'^Examples?:\n  python tools/{tool.name} ', told_of.stdout, re.M)
    assert '--debug' in told_of.stdout
    misspelt = without_pytorch(tool, '--hlep')
    assert misspelt.returncode == 2
    assert misspelt.stderr.splitlines()[-1].startswith(f'{tool.name}: error: ')


COMMANDS = sorted(
    set(
        re.findall(
            r'python -m\s+(mmrecnext|tests[\w.]*\w)',
            ''.join(file.read_text() for file in ROOT.glob('docs/*.md')),
        )
    )
)
"""The modules that the documents have a reader run."""


@pytest.mark.parametrize('module', COMMANDS)
def test_help_of_modules_does_not_wait_for_pytorch(module, without_pytorch):
    told_of = without_pytorch('-m', module, '--help')
    assert told_of.returncode == 0, told_of.stderr
    assert told_of.stdout.startswith('usage: ')
    misspelt = without_pytorch('-m', module, '--hlep')
    assert misspelt.returncode == 2
    assert ': error: ' in misspelt.stderr


@pytest.mark.parametrize('script', sorted((ROOT / 'tools').glob('*.sh')), ids=str)
def test_scripts_say_how_they_are_called(script):
    for option, status in (('--help', 0), ('config.py', 2)):
        told = subprocess.run([script, option], capture_output=True, text=True)
        assert told.returncode == status
        said = told.stderr if status else told.stdout
        assert f'Example: tools/{script.name} ' in said


@pytest.mark.parametrize(
    ('names', 'table'),
    [
        (choices.ABLATIONS, ablations.ABLATIONS),
        (choices.OPERATORS, operators.TASKS),
        (choices.ENGINES, ENGINES),
        (choices.FORMATS, FORMATS),
    ],
    ids=['ablations', 'operators', 'engines', 'formats'],
)
def test_choices_are_what_the_tables_have(names, table):
    assert [*names] == [*table]


def test_debug_shows_where_an_error_comes_from(ended, monkeypatch, capsys):
    args = argparse.Namespace(debug=True)

    def main(args):
        raise UserError('no such x')

    monkeypatch.setattr(sys, 'argv', ['tools/some.py'])
    with pytest.raises(SystemExit, match=r'^some\.py: error: no such x$'):
        run(main, args)
    assert capsys.readouterr().err.endswith('mmrecnext.errors.UserError: no such x\n')
    assert ended(main, argparse.Namespace()) == (1, 'some.py: error: no such x')
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ('my.py --amp', 'my.py --amp --resume'),
        ('my.py --resume --amp', 'my.py --amp --resume'),
        ('my.py --resume a/epoch_1.pth', 'my.py --resume'),
        ('my.py --resume=auto --work-dir "a b"', "my.py --work-dir 'a b' --resume"),
    ],
)
def test_the_command_that_resumes(given, expected, monkeypatch):
    train = tool('train')
    monkeypatch.setattr(sys, 'orig_argv', ['.venv/bin/python', '-u'])
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', *shlex.split(given)])
    args = train.parse_args()
    assert command_to_resume(args) == f'.venv/bin/python tools/train.py {expected}'
    args.launcher = 'pytorch'
    assert command_to_resume(args) == 'the command that launched it, with --resume'
    monkeypatch.setenv('MMRECNEXT_COMMAND', f'tools/dist_train.sh {given}')
    assert command_to_resume(args) == f'tools/dist_train.sh {expected}'


@pytest.mark.usefixtures('interruptible')
def test_a_running_tool_answers_as_it_did(ended, monkeypatch):
    signal.signal(signal.SIGINT, leave)
    assert ended(lambda: os.kill(os.getpid(), signal.SIGINT) or time.sleep(9)) == (
        130,
        'some.py: stopped',
    )


@pytest.mark.usefixtures('interruptible')
def test_a_signal_waits_for_a_step(monkeypatch, capfd):
    steps = []

    def main():
        for number in range(3):
            with termination.step():
                if number == 1:
                    os.kill(os.getpid(), signal.SIGINT)
                    os.kill(os.getpid(), signal.SIGINT)  # as a launcher passes it on
                steps.append(number)

    monkeypatch.setattr(sys, 'argv', ['tools/some.py'])
    with pytest.raises(SystemExit, match='130'):
        run(main)
    assert steps == [0, 1]
    assert capfd.readouterr().err == f'\nsome.py: {HELD}\nsome.py: stopped\n'


@pytest.mark.usefixtures('interruptible')
def test_a_later_signal_waits_for_nothing(ended, monkeypatch):
    monkeypatch.setattr('mmrecnext_autoload.signals.PASSED_ON', 0)

    def main():
        with termination.step():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError('not reached')

    assert ended(main)[0] == 143


@pytest.fixture
def unread():
    """Return the file of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize('kept_back', [True, False])
def test_readers_that_leave(kept_back, ended, unread, monkeypatch):
    raw = io.FileIO(unread, 'w', closefd=False)
    stdout = io.TextIOWrapper(
        io.BufferedWriter(raw) if kept_back else raw, write_through=not kept_back
    )
    monkeypatch.setattr(sys, 'stdout', stdout)
    assert ended(lambda: print('more')) == (141, '')


def test_readers_of_the_report_that_leave(unread):
    command = [sys.executable, '-m', 'mmrecnext']
    done = subprocess.run(command, stdout=unread, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, '')


def test_broken_pipes_elsewhere_are_errors(ended):
    broken = BrokenPipeError(32, 'Broken pipe', 'socket')
    assert ended(raising(broken)) == (1, 'some.py: error: socket: Broken pipe')


def stop_when(text, process, number, log):
    """Send a signal once a run has said something; return its exit status."""
    wait_for(text, process, log)
    process.send_signal(number)
    return process.wait(PATIENCE)


def wait_for(text, process, log):
    """Wait until a run has said something."""
    end = time.monotonic() + PATIENCE
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, f'not said: {text}\n{log.read_text()[-3000:]}'
        time.sleep(0.1)


@pytest.fixture
def started(tmp_path):
    """Start a command with its output in a file; return the process and the file."""
    processes = []

    def started(*command):
        log = tmp_path / f'log{len(processes)}'
        with log.open('w') as file:
            process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                stdout=file,
                stderr=file,
                env={**os.environ, 'OMP_NUM_THREADS': '1'},
                cwd=ROOT,
                start_new_session=True,
            )
        processes.append(process)
        return process, log

    yield started
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.usefixtures('interruptible')
def test_stopped_run_saves_and_has_its_work_dir_alone(started, shapes, tmp_path):
    work_dir = tmp_path / 'a run'
    options = ['--data-root', shapes, '--work-dir', work_dir, '--cfg-options']
    options += ['train_dataloader.batch_size=2', 'default_hooks.logger.interval=1']
    options += ['train_dataloader.num_workers=1']
    command = ['tools/train.py', 'sem_fpn_recnext_m0_shapes.py', *options]
    process, log = started(*command)
    wait_for('Iter(train)', process, log)
    with pytest.raises(ConfigError, match=f'another run.*process {process.pid} on'):
        lock(str(work_dir))
    # As a terminal sends Ctrl-C, to the processes that load data as well.
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    (saved,) = work_dir.glob('iter_*.pth')
    resume = shlex.join([sys.executable, *map(str, command), '--resume'])
    assert log.read_text().splitlines()[-2:] == [
        f'train.py: stopped: {saved} is saved; to go on from it:',
        resume,
    ]
    assert 'Traceback' not in log.read_text()
    lock(str(work_dir))


def test_terminated_run_of_two_processes(started, tmp_path, monkeypatch):
    script = tmp_path / 'launched.py'
    script.write_text(LAUNCHED)
    options = ['--nproc_per_node', 2, '--master_port', 0, '--standalone']
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    monkeypatch.setenv('PYTHONPATH', path)
    process, log = started('-m', 'mmrecnext.launch', *options, script, tmp_path / 'run')
    assert stop_when('(train) [', process, signal.SIGTERM, log) == 143
    assert len([*tmp_path.glob('run/iter_*.pth')]) == 1
    assert 'Traceback' not in log.read_text()
    assert log.read_text().splitlines().count('launched.py: stopped') == 1
