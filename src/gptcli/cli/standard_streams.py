"""stdin, stdout and stderr where one of them is closed, full, or a pipe that nobody reads any more.

stdout is data: what cannot be written there ends the command with one line and an exit code. stderr is talk: what
cannot be written there is dropped, so that a training outlives its terminal and the disk of its log.
"""

from __future__ import annotations

import io
import os
import sys

from gptcli.errors import GptcliError, StdoutClosed, StorageError

REMEDY = "what was printed is not whole: redirect it to a file on a disk with room"


class DataFile(io.FileIO):
    """stdout. Raises StdoutClosed and StorageError in place of OSError, which callers may take for another file's."""

    def write(self, data) -> int | None:  # type: ignore[no-untyped-def, override]  # any buffer
        try:
            return super().write(data)
        except BrokenPipeError as error:
            raise StdoutClosed("nobody reads stdout any more") from error
        except OSError as error:
            raise StorageError(f"cannot write to stdout: {error.strerror}", REMEDY) from error


class TalkFile(io.FileIO):
    """stderr. Drops what cannot be written."""

    def write(self, data) -> int:  # type: ignore[no-untyped-def, override]  # any buffer
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def prepare_streams() -> None:
    """Make sure that descriptors 0 to 2 are open and that the streams of Python treat failures as said above.

    A descriptor that is closed would be given to the next file that is opened, a checkpoint say, into which C libraries
    would then write their warnings. /dev/null takes its place, opened such that stdin cannot be read and stdout cannot
    be written: whether somebody expected data there is known only when it is used.
    """
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        open_if_closed(descriptor, mode)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  # lives as long as the process
    if sys.stdout is sys.__stdout__:  # otherwise the program that calls us has put its own in place
        sys.stdout = sys.__stdout__ = text_stream(DataFile(1, "w", closefd=False), sys.__stdout__, "surrogateescape")
    if sys.stderr is sys.__stderr__:
        sys.stderr = sys.__stderr__ = text_stream(TalkFile(2, "w", closefd=False), sys.__stderr__, "backslashreplace")


def open_if_closed(descriptor: int, mode: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, mode)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)


def text_stream(raw: io.FileIO, replaced: io.TextIOWrapper | None, errors: str) -> io.TextIOWrapper:
    """A text stream like the one that it replaces; in UTF-8 where that does not exist."""
    if replaced is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", errors)
    return io.TextIOWrapper(
        raw if replaced.write_through else io.BufferedWriter(raw),  # type: ignore[arg-type]  # as Python itself, with -u
        replaced.encoding,
        errors,
        line_buffering=replaced.line_buffering,
        write_through=replaced.write_through,
    )


def finish_stdout() -> GptcliError | None:
    """Write what is left of stdout; returns why that failed. The interpreter writes nothing more at its end."""
    try:
        sys.stdout.flush()
    except (GptcliError, BlockingIOError) as error:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
        return error if isinstance(error, GptcliError) else StorageError("cannot write to stdout: it is busy", REMEDY)
    return None
