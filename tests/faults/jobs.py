"""`gptcli train` with several ranks: its processes, so that one of them can be lost."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self


class Job:
    """The launcher on one machine and the ranks that it starts there. Use in a `with` block: none outlives it."""

    def __init__(
        self,
        arguments: Sequence[object],
        folder: Path,
        *,
        nproc: int = 2,
        environment: Mapping[str, str] | None = None,
        inside: Sequence[str] = (),
    ) -> None:
        """
        Args:
            arguments: of `gptcli`, but for --nproc.
            inside: a command that runs the launcher elsewhere, such as `ip netns exec NAME`, and becomes it.
        """
        self.talk = folder / f"talk-{time.monotonic_ns()}"
        command = [*inside, sys.executable, "-m", "gptcli", *map(str, arguments), f"--nproc={nproc}"]
        with self.talk.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=stderr, env={**os.environ, **(environment or {})}
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.lose()

    def ranks(self) -> dict[int, int]:
        """rank -> process number, of those that run now."""
        found = {}
        for pid in children(self.process.pid):
            rank = environment_of(pid).get("RANK")
            if rank is not None:
                found[int(rank)] = pid
        return found

    def is_running(self) -> bool:
        return self.process.poll() is None

    def wait(self, seconds: float = 240) -> int:
        """The exit code. Raises TimeoutError, having killed everything."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        self.lose()
        raise TimeoutError(f"after {seconds} s:\n{self.said}")

    def wait_for(self, happened: Callable[[], bool], seconds: float = 240) -> bool:
        """Wait until it has happened; False: the job ended before. Raises TimeoutError, having killed everything."""
        end = time.monotonic() + seconds
        while self.is_running():
            if happened():
                return True
            if time.monotonic() > end:
                self.lose()
                raise TimeoutError(f"after {seconds} s:\n{self.said}")
            time.sleep(0.005)
        return False

    def lose(self) -> None:
        """What becomes of a machine that loses its power: launcher and ranks are gone at once."""
        ranks = children(self.process.pid) if self.is_running() else []
        for pid in [self.process.pid, *ranks]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    @property
    def said(self) -> str:
        """What launcher and ranks wrote to stderr."""
        return self.talk.read_text(errors="replace")


def children(pid: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    with contextlib.suppress(OSError):
        lists = [(task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
        return [int(child) for text in lists for child in text.split() if state_of(int(child)) != "Z"]
    return []


def state_of(pid: int) -> str:
    """The letter by which the system says what a process does: Z is one that has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


def pending_signals(pid: int) -> set[int]:
    """Signals that were sent to a process that it has not taken yet."""
    with contextlib.suppress(OSError):
        fields = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        masks = int(fields["ShdPnd"], 16) | int(fields["SigPnd"], 16)
        return {number for number in range(1, 65) if masks >> (number - 1) & 1}
    return set()


def environment_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty where it is gone."""
    with contextlib.suppress(OSError):
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        return dict(entry.split("=", 1) for entry in entries if "=" in entry)
    return {}
