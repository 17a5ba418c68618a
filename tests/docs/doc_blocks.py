"""What stands between the fences of README and docs."""

import ast
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import ROOT

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]


@dataclass(frozen=True)
class Block:
    """A block: its page, line, language and text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self):
        return f'{self.page.name}:{self.line}'

    @property
    def file(self):
        """The file that a comment on its first line names, for other blocks to use."""
        found = re.match(r'# ([\w/.]+\.py)\n', self.text)
        return found and found[1]

    @property
    def kind(self):
        """Python only: a ``config``, a ``delta`` for one, or a ``program``."""
        tree = ast.parse(self.text).body
        if any(not isinstance(node, ast.Assign) for node in tree):
            return 'program'
        return 'config' if '_base_' in self.text else 'delta'


def blocks(page):
    """List the blocks of a page."""
    text = page.read_text()
    found = [
        Block(page, text[: match.start()].count('\n') + 1, *match.groups())
        for match in re.finditer(r'^```([^\n]*)\n(.*?)^```$', text, re.S | re.M)
    ]
    assert text.count('```') == 2 * len(found), f'{page}: a fence is not seen as such'
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]


def commands(script):
    """Split a shell script into its commands; none of them may be compound."""
    lines = script.replace('\\\n', ' ').splitlines()
    return [line for line in lines if shlex.split(line, comments=True)]


def words(command, cwd):
    """Have the shell expand a command; it runs nothing but what is in ``$(...)``."""
    compound = set(shlex.split(command, comments=True)) & {'|', '&&', '||', ';', '>'}
    assert not compound, f'split {command!r} into simple commands'
    result = subprocess.run(
        ['bash', '-c', f'printf "%s\\0" {command}'],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.split('\0')[:-1]
