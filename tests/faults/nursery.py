"""A process that has imported everything and forks into `gptcli` commands, so that a trial costs no import.

Each child is the real command in a process of its own, with its own signals, limits and files; only what Python has
loaded is shared. Run as a script, it takes one JSON object a line and answers each with one:

    {"start": {"arguments", "directory", "environment", "stdout", "stderr", "hook", ...}}  ->  {"pid"}
    {"wait": pid, "now": bool}                                      ->  {"code", "peak_bytes", "cpu_seconds"}
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent
IMPORTED = (
    "gptcli.cli.app",
    "gptcli.train.run",
    "gptcli.cli.generate",
    "gptcli.generate.text",
    "gptcli.evaluate.requests",
)


class Nursery:
    """Starts commands; use it in a `with` block."""

    def __init__(self, environment: Mapping[str, str] | None = None, also_imported: Sequence[str] = ()) -> None:
        self.environment = {**os.environ, **(environment or {})}
        self.also_imported = also_imported

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), *self.also_imported],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        return self

    def __exit__(self, *error: object) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(
        self,
        arguments: Sequence[object],
        directory: Path,
        *,
        environment: Mapping[str, str] | None = None,
        file_size: int | None = None,
        memory: int | None = None,
        hook: str | None = None,
        ends_at_once: bool = False,
        terminal: str | None = None,
    ) -> Command:
        """Start `gptcli ARGUMENTS` in `directory`.

        Args:
            environment: variables beside those that the nursery was started with.
            file_size: no file may grow beyond so many bytes (RLIMIT_FSIZE).
            memory: bytes that the address space may grow by (RLIMIT_AS).
            hook: `module:function argument`, called before the command: how a fault gets in.
            ends_at_once: leave out what the interpreter does at its end, which takes longer than a short command.
            terminal: the device that stdout is, instead of a file.
        """
        talk = directory / f"talk-{time.monotonic_ns()}"
        request = {
            "arguments": [str(argument) for argument in arguments],
            "directory": str(directory),
            "environment": dict(environment or {}),
            "stdout": terminal or f"{talk}.out",
            "stderr": f"{talk}.err",
            "file_size": file_size,
            "memory": memory,
            "hook": hook,
            "ends_at_once": ends_at_once,
        }
        os.mkfifo(request["stderr"])  # a pipe, to which no limit of a file's size applies
        return Command(self, self.ask({"start": request})["pid"], Path(f"{talk}.out"), Path(f"{talk}.err"))

    def run(self, arguments: Sequence[object], directory: Path, **options: Any) -> Command:
        """Start a command and wait for its end."""
        command = self.start(arguments, directory, **options)
        command.wait()
        return command


class Command:
    """A command that was started. `code`: its exit code, or minus the signal that ended it; None while it runs."""

    def __init__(self, nursery: Nursery, pid: int, stdout: Path, stderr: Path) -> None:
        self.nursery, self.pid, self.stdout_path = nursery, pid, stdout
        self.code: int | None = None
        self.heard: list[str] = []
        self.listener = threading.Thread(target=self.listen, args=(stderr,), daemon=True)
        self.listener.start()

    def listen(self, pipe: Path) -> None:
        with pipe.open(errors="replace", newline="") as stderr:
            self.heard.extend(stderr)
        pipe.unlink()

    def is_running(self) -> bool:
        if self.code is None:
            answer = self.nursery.ask({"wait": self.pid, "now": True})
            self.code, self.peak_bytes = answer["code"], answer["peak_bytes"]
            self.cpu_seconds: float = answer["cpu_seconds"]
        return self.code is None

    def wait(self, seconds: float = 120.0) -> int:
        """Raises TimeoutError, having killed it."""
        while self.is_running():
            ended = os.pidfd_open(self.pid)
            is_over = bool(select.select([ended], [], [], seconds)[0])
            os.close(ended)
            if not is_over:
                self.kill()
                raise TimeoutError(self.said)
        return self.code

    def send(self, signum: int) -> None:
        if self.is_running():
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.wait()

    @property
    def said(self) -> str:
        """All of stderr, once it has ended."""
        self.listener.join(10)
        return "".join(self.heard)

    @property
    def last_line(self) -> str:
        """Of stderr."""
        lines = self.said.strip().splitlines()
        return lines[-1] if lines else ""


def serve() -> None:
    from gptcli.runtime import prepare

    prepare()
    for name in (*IMPORTED, *sys.argv[1:]):
        importlib.import_module(name)
    sys.path.insert(0, str(HERE.parent))
    gc.collect()
    gc.freeze()  # or every child looks through all of it at its end, which takes half a second
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            pid = os.fork()
            if pid == 0:
                become(request["start"])
            print(json.dumps({"pid": pid}), flush=True)
        else:
            pid, status, used = os.wait4(request["wait"], os.WNOHANG if request["now"] else 0)
            code = os.waitstatus_to_exitcode(status) if pid else None
            seconds = used.ru_utime + used.ru_stime
            answer = {"code": code, "peak_bytes": used.ru_maxrss * 1024, "cpu_seconds": seconds}
            print(json.dumps(answer), flush=True)


def become(request: Mapping[str, Any]) -> None:
    """In a forked child: be the command, to the end of the interpreter."""
    os.dup2(os.open(request["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 1)
    os.dup2(os.open(request["stderr"], os.O_WRONLY), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["directory"])
    os.environ.update(request["environment"])
    if request["file_size"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], request["file_size"]))
    if request["memory"] is not None:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + request["memory"], taken + request["memory"]))
    if request["hook"]:
        target, _, argument = request["hook"].partition(" ")
        module, _, function = target.partition(":")
        getattr(importlib.import_module(module), function)(argument)
    from gptcli.cli.app import main

    sys.argv = ["gptcli", *request["arguments"]]
    if not request["ends_at_once"]:
        main()
        sys.exit(0)
    code = 1
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
