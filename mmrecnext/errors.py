"""Errors that the user can mend; the tools tell them in a line, with no traceback."""


class UserError(Exception):
    """Base of the errors whose message says what is wrong and what to do."""


class OptionError(UserError, ValueError):
    """An option of unknown name or impossible value; names the valid choices."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that is missing, broken, unsafe, or not of the model at hand."""


class ConfigError(UserError, ValueError):
    """A config, or data it names, that cannot be used."""


class DataError(ConfigError):
    """Pictures, label maps or annotations that cannot be used."""

    def __init__(self, message: str):
        # PyTorch tells an error of a worker process by its whole traceback.
        super().__init__(message.rpartition(f'{type(self).__name__}: ')[2].strip())


def printable(text: str) -> str:
    """Return a text in one line, its control characters escaped.

    Names of files and keys of foreign checkpoints may hold what moves the cursor.
    """
    return ''.join(
        c if c.isprintable() else c.encode('unicode_escape').decode()
        for c in text.strip()
    )
