"""Work on untrusted data in a separate process with resource limits: data that makes it hang, grow or crash leaves this
process intact.

The process is Python in safe-path mode, which imports nothing from the working directory. It runs `limits.py`, which
sets the limits before it imports anything, imports the module that does the work, and then lowers the limit of the
address space to what those imports took plus an allowance. torch alone maps half a gigabyte, or several with CUDA: a
single limit would either stop the import or hardly bound the work after it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

MAX_OUTPUT_BYTES = 64 * 2**20
"""Longest stdout that `run` returns."""
MAX_REASON_BYTES = 4096
"""Bytes at the end of stderr in which `run` looks for the reason of a failure."""
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
"""Each library uses one thread: stacks of threads count as address space, and would make the limit depend on the
machine."""


@dataclass(frozen=True)
class ProcessLimits:
    """Resource limits of a process.

    Attributes:
        memory_bytes: address space beyond what its own modules take (on Linux).
        cpu_seconds: processor time, imports included; 0 for no limit, if the process calls `limits.allow_cpu_seconds`
            before each piece of its work.
        file_bytes: size of the largest file that it may write; stdout of `run` is such a file.
        open_files: number of descriptors open at once.
    """

    memory_bytes: int
    cpu_seconds: int = 0
    file_bytes: int = MAX_OUTPUT_BYTES
    open_files: int = 256

    def argument(self) -> str:
        """Return the limits as limits.py reads them from its command line."""
        return f"{self.cpu_seconds},{self.memory_bytes},{self.file_bytes},{self.open_files}"


class LimitedProcessError(Exception):
    """The reason why a process gave no result: a clause such as "it takes more memory than is allowed"."""


def start(
    module: str,
    arguments: Sequence[str],
    limits: ProcessLimits,
    stdin: int | IO[bytes] = subprocess.PIPE,
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a process that calls `main(arguments)` of one of our modules. The caller ends it.

    The module must import everything that it needs at its top, before the tight limit of memory holds.
    """
    command = [sys.executable, "-P", "-m", "gptcli.limits", limits.argument(), module, *arguments]
    environment = {**os.environ, **THREADS, "TOKENIZERS_PARALLELISM": "false", "PYTHONSAFEPATH": "1"}
    environment.pop("PYTHONINSPECT", None)  # or Python would run the rest of stdin as a program
    return subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, env=environment)


def run(module: str, arguments: Sequence[str], limits: ProcessLimits, wall_seconds: float, stdin: bytes = b"") -> bytes:
    """Call `main(arguments)` of one of our modules in a separate process, and return what it wrote to stdout.

    Input and output go through temporary files, so that neither side waits for the other. `main` gives its own reason
    for a failure by sys.exit("it ...").

    Raises:
        LimitedProcessError: it failed, was ended by a limit, or took more than `wall_seconds`.
        OSError: the process cannot be started, or a temporary file cannot be written.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        with start(module, arguments, limits, given, out, err) as process:
            try:
                process.wait(wall_seconds)
            except subprocess.TimeoutExpired as error:
                raise LimitedProcessError(f"it takes more than {wall_seconds:g} s") from error
            finally:
                process.kill()
        if process.returncode:
            err.seek(max(0, err.seek(0, os.SEEK_END) - MAX_REASON_BYTES))
            raise LimitedProcessError(failure_reason(process.returncode, err.read()))
        out.seek(0)
        return out.read(MAX_OUTPUT_BYTES)


def failure_reason(code: int, stderr: bytes) -> str:
    """Return why a process ended with this code, as a clause."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()] or ["it failed"]
    if code > 0:
        return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in lines[-1])
    name = signal.Signals(-code).name
    if -code in (signal.SIGXCPU, signal.SIGKILL):
        return f"it takes too much time or memory (ended by {name})"
    if any("memory" in line for line in lines):  # the message of Rust before it aborts
        return "it takes more memory than is allowed"
    return f"it crashed ({name})"
