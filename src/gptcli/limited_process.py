"""Work on foreign data in a process of its own, with limits: what hangs, grows or crashes there leaves this one whole.

The process is Python in safe-path mode, which imports nothing from the working directory. `limits.py`, which it runs,
sets the limits before it imports anything, then imports the module that does the work, then limits the address space
once more, to what those imports took and the allowance: torch alone maps half a gigabyte or, with CUDA, several, so
that one limit for both would either stop the import or hardly bound what comes after it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

MAX_OUTPUT_BYTES = 64 * 2**20
"""Longest stdout that `run` returns."""
MAX_REASON_BYTES = 4096
"""End of stderr in which the reason of a failure is looked for."""
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
"""One thread each: stacks of threads count as address space, and would make the limit depend on the machine."""


@dataclass(frozen=True)
class ProcessLimits:
    """Limits on the resources of a limited process.

    Attributes:
        memory_bytes: address space beyond what its own modules take (on Linux).
        cpu_seconds: of the processor, imports included; 0: no limit, for a process that calls
            `limits.allow_cpu_seconds` before each piece of its work.
        file_bytes: size of the largest file that it may write; stdout of `run` is one.
        open_files: descriptors at once.
    """

    memory_bytes: int
    cpu_seconds: int = 0
    file_bytes: int = MAX_OUTPUT_BYTES
    open_files: int = 256

    def argument(self) -> str:
        """Return the limits as limits.py reads them from its command line."""
        return f"{self.cpu_seconds},{self.memory_bytes},{self.file_bytes},{self.open_files}"


class LimitedProcessError(Exception):
    """Why a limited process gave no result: a clause such as "it takes more memory than is allowed"."""


def start(
    module: str,
    arguments: Sequence[str],
    limits: ProcessLimits,
    stdin: object = subprocess.PIPE,
    stdout: object = subprocess.PIPE,
    stderr: object = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a process that calls `main(arguments)` of one of our modules. The caller ends it.

    What the module needs it imports at its top, where the tight limit of memory does not hold yet.
    """
    command = [sys.executable, "-P", "-m", "gptcli.limits", limits.argument(), module, *arguments]
    environment = {**os.environ, **THREADS, "TOKENIZERS_PARALLELISM": "false", "PYTHONSAFEPATH": "1"}
    environment.pop("PYTHONINSPECT", None)  # Python would go on with what is left on stdin as a program
    return subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, env=environment)


def run(module: str, arguments: Sequence[str], limits: ProcessLimits, wall_seconds: float, stdin: bytes = b"") -> bytes:
    """Call `main(arguments)` of one of our modules in a process of its own; returns what it wrote to stdout.

    Its input and output go through temporary files, so that neither side waits for the other. `main` gives a reason of
    its own by sys.exit("it ...").

    Raises:
        LimitedProcessError: it failed, was ended by a limit, or took more than `wall_seconds`.
        OSError: no process can be started, or no temporary file written.
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
            raise LimitedProcessError(reason(process.returncode, err.read()))
        out.seek(0)
        return out.read(MAX_OUTPUT_BYTES)


def reason(code: int, stderr: bytes) -> str:
    """Why a process ended with this code, as a clause."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()] or ["it failed"]
    if code > 0:
        return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in lines[-1])
    name = signal.Signals(-code).name
    if -code in (signal.SIGXCPU, signal.SIGKILL):
        return f"it takes too much time or memory (ended by {name})"
    if any("memory" in line for line in lines):  # what Rust says before it aborts
        return "it takes more memory than is allowed"
    return f"it crashed ({name})"
