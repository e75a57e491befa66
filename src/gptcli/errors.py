"""Errors that a user can cause, each with the exit code of the command.

    GptcliError                 1   (never raised itself)
    ├── UsageError              2   the command line asks for something impossible
    │   └── ConfigError         2   a config file or a --set value is wrong
    ├── DataError               3   a corpus, a prompt or a shard cannot be used
    │   └── TokenizerError      3   a tokenizer cannot be read, trained, or represent a text
    ├── CheckpointError         4   a run or model directory is missing, damaged or of another kind
    ├── StorageError            5   the disk is full, or a path cannot be read or written
    ├── DivergedError           6   the loss is no longer a number
    ├── OutOfMemoryError        7   the model or batch does not fit
    ├── WrongResultError        8   a self-check found that this machine computes wrong numbers
    ├── Stopped           130/143   SIGINT or SIGTERM, after saving
    └── StdoutClosed          141   the reader of stdout has closed it, as `head` does; nothing is printed about it

The message is one line that names the thing and the remedy. The command prints it without a traceback (`--debug` shows
one).
"""

from __future__ import annotations

import signal

LONGEST_PART = 2000
"""Characters of a message or of a remedy. A longer one repeats a text that was given in place of a name."""


def one_short_line(text: str) -> str:
    """Return a text in one line, without the middle of one that is too long."""
    line = " ".join(map(str.strip, text.strip().splitlines()))
    kept = LONGEST_PART // 4
    return line if len(line) <= LONGEST_PART else f"{line[:kept]}...{line[-kept:]}"


class GptcliError(Exception):
    """One line for the user: what is wrong, then `remedy`, what to do about it."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message, self.remedy = (one_short_line(part) for part in (message, remedy))
        super().__init__(f"{self.message}; {self.remedy}" if self.remedy else self.message)


class UsageError(GptcliError):
    """The command line asks for something impossible."""

    exit_code = 2


class ConfigError(UsageError):
    """A config file or a --set value is wrong."""


class DataError(GptcliError):
    """A corpus, a prompt or a shard cannot be used."""

    exit_code = 3


class TokenizerError(DataError):
    """A tokenizer cannot be read or trained, or cannot represent a text."""


class CheckpointError(GptcliError):
    """A run or model directory is missing, damaged or of another kind."""

    exit_code = 4


class StorageError(GptcliError):
    """The disk is full, or a path cannot be read or written."""

    exit_code = 5


class DivergedError(GptcliError):
    """The loss is no longer a number."""

    exit_code = 6


class OutOfMemoryError(GptcliError):
    """The model or batch does not fit."""

    exit_code = 7


class WrongResultError(GptcliError):
    """A self-check found that this machine computes wrong numbers."""

    exit_code = 8


class Stopped(GptcliError):
    """A signal stopped the command, which has saved its work. `signum` decides the exit code (128 + signal number)."""

    def __init__(self, message: str, signum: int, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.signum = signum
        self.exit_code = 128 + signum


class StdoutClosed(GptcliError):
    """The reader of stdout has closed it. The exit code is that of a program which SIGPIPE ends."""

    exit_code = 128 + signal.SIGPIPE


LONGEST_LINE = 300
"""Characters of another library's message that are shown: some repeat the value that they complain of."""


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error without its full stop, or the name of its class."""
    lines = (line.strip() for line in str(error).splitlines())
    said = next((line for line in lines if line), type(error).__name__).rstrip(".")
    return said if len(said) <= LONGEST_LINE else f"{said[:LONGEST_LINE]}..."


def is_panic(error: BaseException) -> bool:
    """Return whether an error is a panic of a library in Rust, which pyo3 raises outside of Exception."""
    return type(error).__name__ == "PanicException" and not isinstance(error, Exception)


def missing_extra(package: str, extra: str, purpose: str) -> UsageError:
    """Return the error for a feature whose optional dependency is not installed."""
    return UsageError(f"{purpose} needs {package}, which is not installed", f"pip install 'gptcli[{extra}]'")
