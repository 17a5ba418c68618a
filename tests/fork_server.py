"""Run Python in processes forked from one that has imported what takes long.

Each tool imports PyTorch, torchvision and more, which takes some seconds of processor
time before it begins. Here a server imports them once, and a command is a fork of it:
with a folder, an environment, arguments, a ``sys.path`` and output of its own, which
ends as Python ends, by its own last line, ``sys.exit`` or an exception.

It cannot show what depends on how a process starts: what the preloaded modules read
from the environment as they are imported, in which order they come, whether a command
imports them at all, or how long that takes. Tests of these start Python themselves.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parent.parent


class ForkServer:
    """A server with modules imported, from its first command to the end of the tests.

    Args:
        modules: names of what to import; those that are not installed are left out.
    """

    def __init__(self, *modules: str):
        self.modules = modules
        self.process: subprocess.Popen | None = None

    def run(self, argv, cwd, **env) -> subprocess.CompletedProcess:
        """Run ``python ARGV`` in ``cwd``: a script, or ``-m`` and a module.

        Args:
            env: environment variables, beside those of this process.
        """
        server = self.process = self.process or self._start()
        with tempfile.TemporaryDirectory() as folder:
            outputs = [Path(folder, name) for name in ('stdout', 'stderr')]
            order = [*map(str, argv)], str(cwd), {**os.environ, **env}
            try:
                json.dump([*order, *map(str, outputs)], server.stdin)
                print(file=server.stdin, flush=True)
                status = int(server.stdout.readline())
            except BaseException:  # such as that of a test that took too long
                os.killpg(server.pid, signal.SIGKILL)
                server.communicate()
                self.process = None
                raise
            texts = [file.read_text(errors='replace') for file in outputs]
        return subprocess.CompletedProcess(argv, status, *texts)

    def _start(self):
        return subprocess.Popen(
            [sys.executable, '-m', 'tests.fork_server', *self.modules],
            cwd=ROOT,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a group, to end with the command it runs
        )


def serve(modules):
    """Answer each order with an exit status; return it, in the process that obeys."""
    orders, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), 'w')
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    for name in modules:
        try:
            import_module(name)
        except ModuleNotFoundError as e:
            if e.name != name.partition('.')[0]:
                raise
    for line in orders:
        if not (child := os.fork()):
            return json.loads(line)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)
    sys.exit()


def obey(argv, cwd, env, *outputs):
    """Become a process as Python starts one, and run its command."""
    import numpy as np  # here: a server of other modules may do without

    np.random.seed()  # from the system, or all would draw the same
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, file in enumerate(outputs, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    if argv[0] == '-m':
        sys.argv, sys.path[0] = argv[1:], cwd
        runpy.run_module(argv[1], run_name='__main__', alter_sys=True)
    else:
        sys.argv, sys.path[0] = argv, str(Path(argv[0]).resolve().parent)
        runpy.run_path(argv[0], run_name='__main__')


if __name__ == '__main__':
    obey(*serve(sys.argv[1:]))
