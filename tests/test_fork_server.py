"""A fork ends as Python would, and what launchers take for Python is one."""

import subprocess
import sys

import pytest

from tests.helpers import SERVER

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    'end',
    [
        'print(sys.argv, os.getcwd(), sys.stdin.read())',
        'sys.exit()',
        'sys.exit(3)',
        'sys.exit("told")',
        'raise ValueError("fault")',
        'os.kill(os.getpid(), 9)',
        'threading.Timer(0.1, print, ["late"]).start()',
        'atexit.register(print, "last")',
    ],
)
def test_a_fork_ends_as_python_does(end, tmp_path):
    (tmp_path / 'end.py').write_text(f'import atexit, os, sys, threading\n{end}\n')
    fork = SERVER.run(['end.py', 'x'], tmp_path)
    python = subprocess.run(
        [sys.executable, 'end.py', 'x'],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (fork.returncode, fork.stdout) == (python.returncode, python.stdout)
    assert fork.stderr.splitlines()[-1:] == python.stderr.splitlines()[-1:]


def test_a_launcher_starts_forks(tmp_path):
    (tmp_path / 'seen.py').write_text(
        'import sys\nsys.exit(5 * ("torch" in sys.modules))'
    )
    command = ['bash', '-c', '"$PYTHON" seen.py; exit $(($? + 1))']
    assert SERVER.launch(command, tmp_path).returncode == 6
