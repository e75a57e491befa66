"""Processes that do pieces of work one after another, and give the results in the order of the work.

They are forked from a server that has loaded what they need and nothing else, so that each takes little memory and no
time to start. A process that dies, an error in one and a signal end them all. Knows nothing of the work.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gptcli.data.sections import SECTION_BYTES
from gptcli.errors import OutOfMemoryError, Stopped
from gptcli.manifest import usable_cores

Job = TypeVar("Job")
Result = TypeVar("Result")

MAX_WORKERS = 6
"""Processes that stay below a gigabyte together."""
SHARED_BYTES, OWN_BYTES = 760_000_000, 140_000_000
"""What all processes may come to take together beside the one that started them, and what each takes at least."""
WORTH_STARTING = 3
"""Pieces of work from which on it pays to start processes."""


@dataclass(frozen=True)
class Means:
    """How work is divided: among how many processes, and in parts of about how many bytes of text."""

    workers: int = 0
    """0: one for each core, MAX_WORKERS at most."""
    section_bytes: int = SECTION_BYTES

    @property
    def processes(self) -> int:
        return self.workers or min(usable_cores(), MAX_WORKERS)

    @property
    def process_bytes(self) -> int:
        """How large one process may become."""
        return max(OWN_BYTES, SHARED_BYTES // self.processes)


ALL_CORES = Means()


def in_order(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """function(job) of each job, in the order of `jobs`, computed by so many processes.

    One worker is this process, which also does the work where the jobs are few.

    Raises:
        OutOfMemoryError: a process was killed.
        Whatever the function raises, when that job's turn comes.
    """
    if workers <= 1 or len(jobs) < WORTH_STARTING:
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    before = multiprocessing.active_children()
    executor = ProcessPoolExecutor(min(workers, len(jobs)), context, obey)
    try:
        with one_thread_each():
            futures = [executor.submit(function, job) for job in jobs]
        for future in futures:
            yield future.result()
        executor.shutdown()
    except BrokenProcessPool as error:
        raise OutOfMemoryError(
            "a process that prepares the corpus was killed, as the system does when memory runs out",
            "run the same command again, which goes on where it stopped, with fewer --workers",
        ) from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process not in before:
                process.kill()


def resident_bytes() -> int:
    """Memory that this process has now; 0 where the system does not say."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else 0


def give_back_freed() -> None:
    """Give memory that has been freed back to the system, where its C library can."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Have the processes that are started use one thread each: there is one for each core."""
    names = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    given = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in given.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def obey() -> None:
    """In a new process: leave Ctrl-C to the one that started it, and end with that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@contextlib.contextmanager
def stop_by_signal(remedy: str = "the same command goes on with what is finished") -> Iterator[None]:
    """Turn SIGINT and SIGTERM into Stopped, wherever they arrive; `remedy` is the remedy of that error."""

    def stop(signum: int, frame: object) -> None:
        raise Stopped(f"stopped by {signal.Signals(signum).name}", signum, remedy)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
