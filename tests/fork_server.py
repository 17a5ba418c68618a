"""Run Python in processes forked from one that has imported what takes long.

Each tool imports PyTorch, torchvision and more, which takes some seconds of processor
time before it begins. Here a server imports them once, and a command is a fork of it:
with a folder, an environment, arguments, a ``sys.path`` and output of its own, which
ends as Python ends, by its own last line, ``sys.exit`` or an exception.

A fork shares memory with the server until one of them writes to it, as collecting
garbage does to every object, and so does taking modules apart in the end: seconds of
copying, for a command that may take a tenth of one. So what the server has imported is
left out of collections, and a fork is gone once its exit handlers have run.

It cannot show what depends on how a process starts: what the preloaded modules read
from the environment as they are imported, in which order they come, whether a command
imports them at all, or how long that takes. Tests of these start Python themselves.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parent.parent
FORKED_PYTHON = ROOT / 'tests/forked_python'
"""What launchers take for ``python``: it runs a command of its own as a fork."""


class ForkServer:
    """A server with modules imported, from its first command to the end of the tests.

    Args:
        modules: names of what to import; those that are not installed are left out.
    """

    def __init__(self, *modules: str):
        self.modules = modules
        self.process: subprocess.Popen | None = None
        self.folder: tempfile.TemporaryDirectory | None = None
        self.address = ''

    def run(self, argv, cwd, **env) -> subprocess.CompletedProcess:
        """Run ``python ARGV`` in ``cwd``: a script, or ``-m`` and a module.

        Args:
            env: environment variables, beside those of this process.
        """
        order = [*map(str, argv)], str(cwd), {**os.environ, **env}
        with tempfile.TemporaryDirectory() as folder:
            outputs = [Path(folder, name) for name in ('stdout', 'stderr')]
            with ExitStack() as stack:
                files = [stack.enter_context(open(os.devnull))]
                files += [stack.enter_context(path.open('w')) for path in outputs]
                status = self._watched(lambda: ask(self.address, order, files))
            texts = [path.read_text(errors='replace') for path in outputs]
        return subprocess.CompletedProcess(argv, status, *texts)

    def launch(self, argv, cwd, **env) -> subprocess.CompletedProcess:
        """Run a launcher, a script of the shell, each Python of which is a fork.

        Args:
            env: environment variables, beside those of this process.
        """

        def launch():
            forks = dict.fromkeys(('PYTHON', 'PYTHON_EXEC'), str(FORKED_PYTHON))
            return subprocess.run(
                [*map(str, argv)],
                cwd=cwd,
                env={**os.environ, **forks, 'FORK_SERVER': self.address, **env},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )

        return self._watched(launch)

    def _watched(self, call):
        """Call what needs the server; where that does not end well, end both."""
        if not self.process:
            self._start()
        try:
            return call()
        except BaseException:  # such as that of a test that took too long
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            self.process = None
            raise

    def _start(self):
        self.folder = tempfile.TemporaryDirectory()
        self.address = f'{self.folder.name}/socket'
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'tests.fork_server', self.address, *self.modules],
            cwd=ROOT,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            stdin=subprocess.PIPE,  # at whose end it ends too
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a group, to end with the commands it runs
        )
        self.process.stdout.readline()


def ask(address, order, files) -> int:
    """Have a server run a command; return its exit status.

    Args:
        address: of the server.
        order: arguments, folder and environment of the command.
        files: its input, output and errors, open.
    """
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [b'!'], [file.fileno() for file in files])
        server.sendall(json.dumps(order).encode() + b'\n')
        return int(server.makefile().readline())


def serve(address, *modules):
    """Answer each order with the exit status of a fork that obeys it."""
    told = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    for name in modules:
        try:
            import_module(name)
        except ModuleNotFoundError as e:
            if e.name != name.partition('.')[0]:
                raise
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for who answers
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(address)
        own.listen()
        print('ready', file=told, flush=True)
        while sys.stdin not in select.select([own, sys.stdin], [], [])[0]:
            connection, _ = own.accept()
            if not os.fork():
                own.close()
                answer(connection)
            connection.close()
    os._exit(0)


def answer(connection):
    """Run a command in a process of its own, as those orders do that come meanwhile."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, files, *_ = socket.recv_fds(connection, 1, 3)
    order = json.loads(connection.makefile().readline())
    if not (child := os.fork()):
        connection.close()
        end_with(obey, files, *order)
    _, status = os.waitpid(child, 0)
    connection.sendall(b'%d\n' % os.waitstatus_to_exitcode(status))
    os._exit(0)


def end_with(call, *args):
    """Call a function and end the process, with the exit status that Python gives."""
    status = 0
    try:
        call(*args)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    threading._shutdown()  # waits for threads, as Python does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def obey(files, argv, cwd, env):
    """Become a process as Python starts one, and run its command."""
    import numpy as np  # here: a server of other modules may do without

    np.random.seed()  # from the system, or all would draw the same
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, file in enumerate(files):
        os.dup2(file, number)
    if argv[0] == '-m':
        sys.argv, sys.path[0] = argv[1:], cwd
        runpy.run_module(argv[1], run_name='__main__', alter_sys=True)
    else:
        sys.argv, sys.path[0] = argv, str(Path(argv[0]).resolve().parent)
        runpy.run_path(argv[0], run_name='__main__')


if __name__ == '__main__':
    serve(*sys.argv[1:])
