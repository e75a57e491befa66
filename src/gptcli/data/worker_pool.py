"""A pool of processes that do pieces of work and return the results in the order of the work.

The processes are forked from a server that has loaded what they need and nothing else, so that each takes little memory
and no time to start. An error in one of them, its death or a signal ends them all.
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
"""The number of processes that stay below a gigabyte together."""
SHARED_BYTES, OWN_BYTES = 760_000_000, 140_000_000
"""The memory that all processes beside the one that started them may take together, and the least that each takes."""
WORTH_STARTING = 3
"""The number of pieces of work from which on starting processes pays."""


@dataclass(frozen=True)
class WorkerConfig:
    """The division of work among processes, in parts of about `section_bytes` of text."""

    workers: int = 0
    """The number of processes; 0 means one for each core, MAX_WORKERS at most."""
    section_bytes: int = SECTION_BYTES

    @property
    def processes(self) -> int:
        """The number of processes that `workers` stands for."""
        return self.workers or min(usable_cores(), MAX_WORKERS)

    @property
    def process_bytes(self) -> int:
        """The memory that one process may take."""
        return max(OWN_BYTES, SHARED_BYTES // self.processes)


ALL_CORES = WorkerConfig()


def in_order(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """Yield function(job) for each of `jobs`, in their order, computed by `workers` processes.

    With one worker, or few jobs, this process does the work. An error that the function raises is raised here when the
    result of its job is due.

    Raises:
        OutOfMemoryError: A process was killed.
    """
    if workers <= 1 or len(jobs) < WORTH_STARTING:
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    before = multiprocessing.active_children()
    executor = ProcessPoolExecutor(min(workers, len(jobs)), context, follow_parent)
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
    """Return the memory that this process has now; 0 if the system does not say."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else 0


def return_freed_memory() -> None:
    """Return memory that has been freed to the system, if its C library can."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl lacks it
        if trim is not None:
            trim(0)


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Limit the processes that are started in the block to one thread each, since there is one for each core."""
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


def follow_parent() -> None:
    """Make a new process leave Ctrl-C to the one that started it, and end when that one ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def end_with_parent() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=end_with_parent, daemon=True).start()


@contextlib.contextmanager
def stop_by_signal(remedy: str = "the same command goes on with what is finished") -> Iterator[None]:
    """Raise Stopped, with this remedy, where SIGINT or SIGTERM arrives in the block."""

    def stop(signum: int, frame: object) -> None:
        raise Stopped(f"stopped by {signal.Signals(signum).name}", signum, remedy)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
