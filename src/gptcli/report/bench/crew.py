"""The contenders' processes: each has its own, which lives through all rounds, so that nothing of theirs mixes.

While one plays, the others wait on a pipe. A peer that fails is left out with one line; ours may not fail.
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
from typing import Any, ClassVar, TypeVar

from gptcli import strict_json
from gptcli.console import say
from gptcli.errors import GptcliError
from gptcli.report.bench.jobs import ESSENTIAL, Task
from gptcli.runtime import SPIN_COUNT

Result = TypeVar("Result")

OURS, LIMIT = "gptcli", "limit"
"""What ours, and the machine at its best, are called among the contenders."""
SETTLE_SECONDS = 0.25
"""Pause before another worker plays: OpenMP's threads may spin for 200 ms after their last work."""
GOODBYE_SECONDS = 10


class BenchError(GptcliError):
    """A measurement could not be made."""


class Worker:
    """One contender in its process. `facts` says what it is; `play(**request)` is one round."""

    last: ClassVar[Worker | None] = None
    """Who has played last."""

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
        try:
            self.facts = self.ask(task.as_json())
        except BaseException:
            self.close()
            raise

    def play(self, **request: Any) -> dict[str, Any]:
        if Worker.last is not self:
            time.sleep(SETTLE_SECONDS)
        Worker.last = self
        return self.ask(request)

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send one message and wait for its answer.

        Raises:
            BenchError: the contender failed; one line with its own words.
        """
        try:
            self.process.stdin.write(strict_json.dumps(message) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": self.last_words()}
        if "error" in answer:
            raise BenchError(f"{self.name} failed: {answer['error']}")
        return answer

    def last_words(self) -> str:
        """Why the process ended without an answer: its last line on stderr, or its exit status."""
        status = self.process.wait()
        self.log.seek(0)
        lines = self.log.read().strip().splitlines()
        return lines[-1] if lines else f"its process ended with status {status}"

    def close(self) -> None:
        """End the process; one that does not end by itself is killed."""
        with suppress(BrokenPipeError):  # it has ended already, with something unread
            self.process.stdin.close()
        try:
            self.process.wait(GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()


@contextmanager
def crew(tasks: Mapping[str, Task], threads: int) -> Iterator[dict[str, Worker]]:
    """Start a worker for every task, one after the other, and end them all with the block.

    Raises:
        BenchError: ours cannot take part, or the machine's limit; a peer that cannot is left out.
    """
    workers: dict[str, Worker] = {}
    try:
        for name, task in tasks.items():
            say(f"starting {name}")
            worker = unless_it_fails(task.module, lambda name=name, task=task: Worker(name, task, threads))
            if worker is not None:
                workers[name] = worker
        yield workers
    finally:
        for worker in workers.values():
            worker.close()


def environment(threads: int) -> dict[str, str]:
    """What a contender's process gets: the user's environment, the number of threads, and nothing of `runtime.prepare`,
    which is ours and which ours does for itself.
    """
    variables = dict(os.environ)
    if variables.get("GOMP_SPINCOUNT") == SPIN_COUNT:
        del variables["GOMP_SPINCOUNT"]
    return variables | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))


def rounds(worker: Worker, **request: Any) -> Callable[[], dict[str, Any] | None]:
    """What plays a round of the worker: its answer to the request, or none where a peer fails."""
    return lambda: unless_it_fails(worker.task.module, lambda: worker.play(**request))


def unless_it_fails(module: str, action: Callable[[], Result]) -> Result | None:
    """What `action` returns; where that of a peer (named by its module) fails, one line about it and none."""
    try:
        return action()
    except BenchError as error:
        if module in ESSENTIAL:
            raise
        say(f"{error}; left out")
        return None
