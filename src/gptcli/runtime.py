"""Setup of a process before torch is loaded: its import path, and settings for speed. This module imports no torch.

The settings for speed change no number, and a setting that the user has made in the environment takes precedence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""
SPIN_COUNT = "10000"
"""Iterations of a waiting loop, about 0.1 to 0.5 ms: longer than the pause between two operations of a training
step."""
SEARCHED = ("PATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH")
"""Variables with folders in which programs, libraries and headers are searched: torch.compile runs a C++ compiler."""


def prepare() -> None:
    """Set up this process and those that it will start. Call it before torch is imported."""
    exclude_working_directory()
    if sys.platform == "linux":
        keep_freed_memory()
        limit_openmp_spinning()


def exclude_working_directory() -> None:
    """Import and run nothing from the working directory, in this process and in every process that it starts.

    A folder with a corpus may hold anybody's `random.py`. An empty entry, which `PYTHONPATH=$PYTHONPATH:/mine` leaves
    if the variable was not set, also means the working directory, and a relative entry of PATH leads below it. A
    relative entry of PYTHONPATH that names another folder is kept.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    for name in SEARCHED:
        keep_entries(name, os.path.isabs)
    if not sys.flags.safe_path and sys.path[:1] == [os.path.dirname(os.path.realpath(sys.argv[0]))]:
        del sys.path[0]  # the folder of the script `gptcli`, with whatever else people keep in it
    unwanted = {"", os.path.realpath("")} if keep_entries("PYTHONPATH", names_another_folder) else {""}
    sys.path[:] = [entry for entry in sys.path if entry not in unwanted]
    ours = os.path.dirname(os.path.dirname(__file__))
    if ours not in sys.path:  # gptcli itself was found in the working directory
        sys.path.append(ours)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), ours)))


def keep_entries(name: str, is_wanted: Callable[[str], bool]) -> bool:
    """Keep some entries of a variable that lists folders, if it is set, and return whether any were dropped."""
    value = os.environ.pop(name, "")
    kept = os.pathsep.join(entry for entry in value.split(os.pathsep) if is_wanted(entry))
    if kept:  # an empty variable may mean the working directory
        os.environ[name] = kept
    return kept != value


def names_another_folder(entry: str) -> bool:
    """Return whether an entry of a path is not the working directory."""
    return os.path.normpath(entry or os.curdir) != os.curdir


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next allocation, as a rule that of the same operation in the next step.

    By default it returns large blocks to the kernel at once, which must clear them page by page when the next step
    allocates them again: more than a fifth of the time of a step of GPT-2 on two cores. The process stays as large as
    it ever was, which in a training loop is no larger than at every step.
    """
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):  # musl has no such allocator
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def limit_openmp_spinning() -> None:
    """Make OpenMP's threads spin for a moment, not for milliseconds, before they sleep until there is work.

    GNU's threads spin for 300,000 iterations. If another program uses one of the cores, each wait then lasts until the
    kernel preempts the waiting thread, and a step takes many times longer than with one thread.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
