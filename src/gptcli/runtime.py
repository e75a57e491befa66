"""Setup of a process before torch is loaded: where it may import from, and settings for speed. Imports no torch.

The settings for speed change no number; either stands back where the user has set it through the environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""
SPIN_COUNT = "10000"
"""Turns of a waiting loop, about 0.1 to 0.5 ms: longer than the pause between two operations of a training step."""
SEARCHED = ("PATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH")
"""Variables with folders in which programs, libraries and headers are searched: torch.compile runs a C++ compiler."""


def prepare() -> None:
    """Set up this process and those that it will start. To be called before torch is imported."""
    forget_working_directory()
    if sys.platform == "linux":
        keep_freed_memory()
        wait_briefly()


def forget_working_directory() -> None:
    """Import and run nothing from the working directory, here and in every process that comes from this one.

    A folder with a corpus may hold a `random.py` of anybody. An empty entry, which `PYTHONPATH=$PYTHONPATH:/mine`
    leaves where the variable was not set, means the working directory too, and a relative entry of PATH leads below it.
    A relative entry of PYTHONPATH that names another folder stays.
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
    """Keep some entries of a variable that lists folders, if it is set; returns whether any were dropped."""
    value = os.environ.pop(name, "")
    kept = os.pathsep.join(entry for entry in value.split(os.pathsep) if is_wanted(entry))
    if kept:  # an empty variable may mean the working directory
        os.environ[name] = kept
    return kept != value


def names_another_folder(entry: str) -> bool:
    return os.path.normpath(entry or os.curdir) != os.curdir


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next allocation (of the same step of the next round, as a rule).

    It gives large blocks back to the kernel at once, which must then clear them again page by page when the next step
    asks for them: more than a fifth of the time of a step of GPT-2 on two cores. The process stays as large as it ever
    was, which for a training loop is no larger than it is at every step.
    """
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):  # musl has no such allocator
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def wait_briefly() -> None:
    """Have OpenMP's threads spin for a moment, not for milliseconds, before they sleep until there is work.

    GNU's spin for 300,000 turns: where another program holds one of the cores, each wait then lasts until the kernel
    takes the core away from the one who waits, and a step takes many times longer than with one thread.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
