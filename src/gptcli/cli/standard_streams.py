"""Standard streams that are closed, full, or a pipe without a reader.

stdout carries data: a failed write ends the command with one line and an exit code. stderr carries messages: what
cannot be written there is dropped, so that a training goes on after its terminal is closed or its log's disk is full.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from gptcli.errors import GptcliError, StdoutClosed, StorageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

REMEDY = "the output is incomplete: redirect it to a file on a disk with free space"


class DataFile(io.FileIO):
    """stdout, whose errors are not OSError, which a caller could mistake for that of another file."""

    def write(self, data: ReadableBuffer) -> int:
        """Write bytes, and return how many.

        Raises:
            StdoutClosed: the reader of the pipe has ended.
            StorageError: the write failed for another reason.
        """
        try:
            return super().write(data)
        except BrokenPipeError as error:
            raise StdoutClosed("the reader of stdout has ended") from error
        except OSError as error:
            raise StorageError(f"cannot write to stdout: {error.strerror}", REMEDY) from error


class MessageFile(io.FileIO):
    """stderr, which drops what cannot be written."""

    def write(self, data: ReadableBuffer) -> int:
        """Write bytes, and return how many were written or dropped."""
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def prepare_streams() -> None:
    """Open descriptors 0 to 2 if they are closed, and replace Python's stdout and stderr by those of this module.

    The next file to be opened, such as a checkpoint, would get the number of a closed descriptor, and C libraries would
    write their warnings into it. /dev/null takes the number instead, with stdin not readable and stdout not writable,
    so that using them is an error.
    """
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        open_if_closed(descriptor, mode)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  # lives as long as the process
    if sys.stdout is sys.__stdout__:  # otherwise the calling program has replaced it
        stdout = text_stream(DataFile(1, "w", closefd=False), sys.__stdout__, "surrogateescape")
        sys.stdout = sys.__stdout__ = stdout  # type: ignore[misc]  # typeshed declares it final
    if sys.stderr is sys.__stderr__:
        stderr = text_stream(MessageFile(2, "w", closefd=False), sys.__stderr__, "backslashreplace")
        sys.stderr = sys.__stderr__ = stderr  # type: ignore[misc]  # typeshed declares it final


def open_if_closed(descriptor: int, mode: int) -> None:
    """Open /dev/null at a descriptor that is closed."""
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, mode)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)


def text_stream(raw: io.FileIO, replaced: io.TextIOWrapper | None, errors: str) -> io.TextIOWrapper:
    """Return a text stream with the settings of the one that it replaces, or in UTF-8 if there was none."""
    if replaced is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", errors)
    return io.TextIOWrapper(
        raw if replaced.write_through else io.BufferedWriter(raw),  # unbuffered, as Python's own with -u
        replaced.encoding,
        errors,
        line_buffering=replaced.line_buffering,
        write_through=replaced.write_through,
    )


def finish_stdout() -> GptcliError | None:
    """Flush stdout, and return the error if that fails; the interpreter then writes nothing more when it exits."""
    try:
        sys.stdout.flush()
    except (GptcliError, BlockingIOError) as error:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
        return error if isinstance(error, GptcliError) else StorageError("cannot write to stdout: it is busy", REMEDY)
    return None
