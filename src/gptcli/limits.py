"""The child's side of `limited_process.py`: `python -P -m gptcli.limits LIMITS MODULE [ARGUMENT ...]`.

It limits this process, imports MODULE, lowers the limit of memory to what the import took plus the allowance, and calls
MODULE.main with the arguments. Nothing but `resource` is imported before the limits hold. The last line on stderr gives
the reason of a failure.
"""

from __future__ import annotations

import resource
import sys

IMPORT_BYTES = 2**36
"""Address space while our own modules are imported. A build of torch with all its CUDA libraries maps about a tenth of
it; untrusted data is read later, under the tighter limit."""
GRACE_SECONDS = 5
"""Processor seconds between SIGXCPU, which can be named as the cause, and SIGKILL."""


def main() -> None:
    """Set the limits that the command line gives, and run the module."""
    cpu_seconds, memory_bytes, file_bytes, open_files = map(int, sys.argv[1].split(","))
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, file_bytes)
    limit(resource.RLIMIT_NOFILE, open_files)
    limit_memory(IMPORT_BYTES + memory_bytes)
    if cpu_seconds:
        limit(resource.RLIMIT_CPU, cpu_seconds + GRACE_SECONDS)
        allow_cpu_seconds(cpu_seconds)
    module, arguments = sys.argv[2], sys.argv[3:]
    try:
        __import__(module)
        limit_memory(mapped_bytes() + memory_bytes)
        sys.modules[module].main(arguments)
    except MemoryError:
        sys.exit("it takes more memory than is allowed")
    except SystemExit:
        raise
    except BaseException as error:  # Rust libraries raise their panics outside of Exception
        sys.exit(" ".join(f"{type(error).__name__}: {error}".split())[:300])


def limit(which: int, value: int) -> None:
    """Set a limit permanently, or keep the present one if it is lower."""
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def limit_memory(size: int) -> None:
    """Limit the address space on Linux. macOS cannot; only the other limits hold there."""
    if sys.platform == "linux":
        limit(resource.RLIMIT_AS, size)


def mapped_bytes() -> int:
    """Return the size of this process's address space, or 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm") as status:
        return int(status.read().split()[0]) * resource.getpagesize()


def allow_cpu_seconds(seconds: int) -> None:
    """Allow the process this much more processor time from now on; SIGXCPU ends it when the time is used up."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


if __name__ == "__main__":
    main()
