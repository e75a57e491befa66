"""How a process is set up before torch is loaded, so that the same work takes less time. Imports no torch.

Both settings change no number, only speed; either stands back where the user has set it through the environment.
"""

from __future__ import annotations

import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""
SPIN_COUNT = "10000"
"""Turns of a waiting loop, about 0.1 to 0.5 ms: longer than the pause between two operations of a training step."""


def prepare() -> None:
    """Keep freed memory, and let waiting threads sleep soon. To be called before torch is imported."""
    if sys.platform == "linux":
        keep_freed_memory()
        wait_briefly()


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
