"""The servers that are compared, each a process of its own with the same weights in fp32."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.memory import memory_of
from bench.serving.client import HOST, ask
from bench.serving.model import ServedModel
from gptcli.console import say
from gptcli.errors import UsageError
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.workers import BenchError, environment, last_line

START_SECONDS, STOP_SECONDS = 180, 60
PAUSE_SECONDS = 0.2
OURS = "gptcli"
OFFLINE = {"HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Program:
    """A program that serves completions.

    Attributes:
        arguments: (model, a scratch folder, its options, port) -> the arguments of Python that start it.
        fields: what the body of a request needs besides OpenAI's fields that all know.
        distribution: the name of its package in the registry.
        imports: what its Python must be able to import.
        remedy: the command that installs that.
    """

    name: str
    arguments: Callable[[ServedModel, Path, BenchOptions, int], Sequence[str]]
    fields: Mapping[str, Any]
    distribution: str
    imports: str
    remedy: str
    python: str = sys.executable

    def version(self) -> str:
        """Return its version.

        Raises:
            UsageError: its Python cannot be run, or lacks the package.
        """
        code = f"import {self.imports}\nfrom importlib.metadata import version\nprint(version('{self.distribution}'))"
        try:
            done = subprocess.run([self.python, "-c", code], capture_output=True, text=True)
        except OSError as error:
            raise UsageError(f"{self.python} cannot be run: {error.strerror}", "name a Python interpreter") from None
        if done.returncode:
            raise UsageError(
                f"{self.name} is not installed for {self.python}: {last_line(done.stderr)}",
                f"{self.remedy}, or name the Python that has it: --peer {self.name}=PYTHON",
            )
        return last_line(done.stdout)


def gptcli_arguments(model: ServedModel, scratch: Path, options: BenchOptions, port: int) -> list[str]:
    place = ["--host", HOST, "--port", str(port), "--device", options.device]
    return ["-P", "-m", "gptcli", "serve", f"bench={model.directory}", "--log", "none", *place]


def transformers_arguments(model: ServedModel, scratch: Path, options: BenchOptions, port: int) -> list[str]:
    place = ["--host", HOST, "--port", str(port), "--device", options.device, "--log-level", "error"]
    return ["-m", "transformers.cli.transformers", "serve", str(model.directory), *place, "--dtype", "float32"]


def batching_arguments(model: ServedModel, scratch: Path, options: BenchOptions, port: int) -> list[str]:
    return [*transformers_arguments(model, scratch, options, port), "--continuous-batching"]


def llama_cpp_arguments(model: ServedModel, scratch: Path, options: BenchOptions, port: int) -> list[str]:
    path = model.write_gguf(scratch / "model.gguf")
    settings = {
        "model": path,
        "host": HOST,
        "port": port,
        "n_ctx": model.context,
        "n_threads": options.threads,
        "n_threads_batch": options.threads,
        "n_gpu_layers": 0 if options.device == "cpu" else -1,
        "interrupt_requests": False,  # or each request would end the one before it
        "logits_all": False,
        "verbose": False,
    }
    return ["-m", "llama_cpp.server", *(part for name, value in settings.items() for part in (f"--{name}", str(value)))]


SERVING = "pip install 'transformers[serving]'"
PROGRAMS = {
    program.name: program
    for program in (
        Program(OURS, gptcli_arguments, {"stream_options": {"include_usage": True}}, "gptcli", "gptcli", ""),
        Program("transformers", transformers_arguments, {}, "transformers", "fastapi, openai, transformers", SERVING),
        Program(
            "transformers-batching", batching_arguments, {}, "transformers", "fastapi, openai, transformers", SERVING
        ),
        Program(
            "llama-cpp",
            llama_cpp_arguments,
            {"repeat_penalty": 1.0},
            "llama-cpp-python",
            "llama_cpp.server.app",
            "pip install 'llama-cpp-python[server]'",
        ),
    )
}
"""By name. `transformers` answers one request at a time; `transformers-batching` has its --continuous-batching."""


def choose_programs(wanted: Sequence[str]) -> dict[str, Program]:
    """Return gptcli and the peers that the user names as NAME or NAME=PYTHON, with their Python.

    Raises:
        UsageError: a name is unknown.
    """
    chosen = {OURS: PROGRAMS[OURS]}
    for text in wanted:
        name, _, python = text.partition("=")
        if name not in PROGRAMS or name == OURS:
            known = ", ".join(other for other in PROGRAMS if other != OURS)
            raise UsageError(f"server {name!r} is unknown", f"choose from {known}")
        found = PROGRAMS[name]
        chosen[name] = Program(**{**vars(found), "python": shutil.which(python) or python}) if python else found
    return chosen


class Server:
    """A program that serves a model in a process of its own.

    Attributes:
        port: the port at 127.0.0.1 at which it listens.
    """

    def __init__(self, program: Program, model: ServedModel, options: BenchOptions) -> None:
        self.program, self.port = program, free_port()
        self.scratch = tempfile.TemporaryDirectory(prefix="gptcli-bench-")
        self.log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed with the process)
        arguments = program.arguments(model, Path(self.scratch.name), options, self.port)
        self.process = subprocess.Popen(
            [program.python, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            env=environment(options.threads) | OFFLINE,
        )

    def body(self, prompt: str, max_tokens: int, **fields: Any) -> dict[str, Any]:
        """Return the body of a request for a greedy completion in a stream."""
        common = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0, "stream": True}
        return common | dict(self.program.fields) | fields

    def wait_until_ready(self) -> None:
        """Wait for a first answer.

        Raises:
            BenchError: the process ended, or gave none in time.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            answer = asyncio.run(ask(self.port, self.body("a b c", 2)))
            if answer.is_whole:
                return
            if self.process.poll() is not None:
                raise BenchError(f"{self.program.name} ended with status {self.process.returncode}: {self.said()}")
            time.sleep(PAUSE_SECONDS)
        raise BenchError(f"{self.program.name} gave no answer: {answer.error or answer.status}; {self.said()}")

    def said(self) -> str:
        """Return the last line that the process printed."""
        self.log.seek(0)
        return last_line(self.log.read())

    def resident_bytes(self) -> int:
        """Return the resident memory of the process and all that it started."""
        return memory_of(self.process.pid)[1]

    def stop(self) -> int:
        """End the process by SIGTERM and return its status; one that does not end is killed."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.scratch.cleanup()
        return self.process.returncode


@contextlib.contextmanager
def serving(programs: Sequence[Program], model: ServedModel, options: BenchOptions) -> Iterator[dict[str, Server]]:
    """Start a server for each program, one after the other, and end them all with the block.

    A program other than gptcli that fails to start is left out with one line.

    Raises:
        BenchError: gptcli failed.
    """
    servers: dict[str, Server] = {}
    try:
        for program in programs:
            say(f"starting {program.name}")
            server = Server(program, model, options)
            try:
                server.wait_until_ready()
            except BaseException as error:
                server.stop()
                if program.name == OURS or not isinstance(error, BenchError):
                    raise
                say(f"{error}; left out")
                continue
            servers[program.name] = server
        yield servers
    finally:
        for server in servers.values():
            server.stop()


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])
