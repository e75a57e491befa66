"""Worker processes: each contender has its own for all rounds, so that programs do not affect each other.

While one runs a round, the others wait on a pipe. A program that fails is left out with one line, except gptcli and
the machine's limit, whose failure ends the bench.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import IO, Any, ClassVar, TypeVar, cast

from gptcli import strict_json
from gptcli.console import say
from gptcli.errors import GptcliError
from gptcli.report.bench.jobs import Task
from gptcli.runtime import SPIN_COUNT

Result = TypeVar("Result")

SETTLE_SECONDS = 0.25
"""Pause before another worker's round: OpenMP's threads may spin for 200 ms after their last work."""
EXIT_SECONDS = 10
"""Time that a worker has to exit before it is killed."""


class BenchError(GptcliError):
    """A measurement could not be made."""


class Worker:
    """One contender in its process, described by `facts`."""

    last: ClassVar[Worker | None] = None
    """The worker that ran the latest round."""

    def __init__(self, name: str, task: Task, threads: int) -> None:
        self.name, self.task = name, task
        self.log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed with the process)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gptcli.report.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment(threads),
        )
        self.stdin, self.stdout = cast(IO[str], self.process.stdin), cast(IO[str], self.process.stdout)
        try:
            self.facts = self.request(task.as_json())
        except BaseException:
            self.close()
            raise

    def run_round(self, **request: Any) -> dict[str, Any]:
        """Run one round and return its measurements.

        Raises:
            BenchError: the contender failed.
        """
        if Worker.last is not self:
            time.sleep(SETTLE_SECONDS)
        Worker.last = self
        return self.request(request)

    def request(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send one message and wait for its answer.

        Raises:
            BenchError: the contender failed; the message is its own.
        """
        try:
            self.stdin.write(strict_json.dumps(message) + "\n")
            self.stdin.flush()
            line = self.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": self.reason_of_exit()}
        if "error" in answer:
            raise BenchError(f"{self.name} failed: {answer['error']}")
        return answer

    def reason_of_exit(self) -> str:
        """Return why the process ended without an answer: its last line on stderr, or its exit status."""
        status = self.process.wait()
        self.log.seek(0)
        return last_line(self.log.read()) or f"its process ended with status {status}"

    def close(self) -> None:
        """End the process; one that does not exit by itself is killed."""
        with suppress(BrokenPipeError):  # it has exited already, with something unread
            self.stdin.close()
        try:
            self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.stdout.close()
        self.log.close()


@contextmanager
def started(tasks: Mapping[str, Task], threads: int) -> Iterator[dict[str, Worker]]:
    """Start a worker for each task, one after the other, and end them all with the block.

    Raises:
        BenchError: gptcli or the machine's limit fails; another program that fails is left out.
    """
    workers: dict[str, Worker] = {}
    try:
        for name, task in tasks.items():
            say(f"starting {name}")
            worker = unless_it_fails(task.is_essential, partial(Worker, name, task, threads))
            if worker is not None:
                workers[name] = worker
        yield workers
    finally:
        for worker in workers.values():
            worker.close()


def last_line(output: str) -> str:
    """Return the last line that a program printed, or an empty string if it printed nothing."""
    return "".join(output.strip().splitlines()[-1:])


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a contender's process: the user's, with the number of threads.

    What `runtime.prepare` has set is removed; gptcli's own workers set it again.
    """
    variables = dict(os.environ)
    if variables.get("GOMP_SPINCOUNT") == SPIN_COUNT:
        del variables["GOMP_SPINCOUNT"]
    return variables | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))


def rounds(worker: Worker, **request: Any) -> Callable[[], dict[str, Any] | None]:
    """Return a function that runs one round of the worker; it returns None if a program that may fail has failed."""
    return lambda: unless_it_fails(worker.task.is_essential, lambda: worker.run_round(**request))


def unless_it_fails(is_essential: bool, action: Callable[[], Result]) -> Result | None:
    """Return what `action` returns, or None, with one line about it, if it fails and is not essential."""
    try:
        return action()
    except BenchError as error:
        if is_essential:
            raise
        say(f"{error}; left out")
        return None
