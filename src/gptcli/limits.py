"""The child's side of `limited_process.py`: `python -P -m gptcli.limits LIMITS MODULE [ARGUMENT ...]`.

Limits this process, imports MODULE, limits the memory to what that took and the allowance, then calls MODULE.main with
the arguments. Nothing but `resource` is imported before the limits hold. The last line on stderr says why it failed.
"""

from __future__ import annotations

import resource
import sys

IMPORT_BYTES = 2**36
"""Address space while our own modules are imported. A build of torch with all its CUDA libraries maps about a tenth of
it; what is foreign is read later, under the tighter limit."""
GRACE_SECONDS = 5
"""Processor seconds between SIGXCPU, which can be named as the cause, and SIGKILL."""


def main() -> None:
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
        limit_memory(taken_bytes() + memory_bytes)
        sys.modules[module].main(arguments)
    except MemoryError:
        sys.exit("it takes more memory than is allowed")
    except SystemExit:
        raise
    except BaseException as error:  # Rust libraries raise their panics outside of Exception
        sys.exit(" ".join(f"{type(error).__name__}: {error}".split())[:300])


def limit(which: int, value: int) -> None:
    """Set a limit for good, or keep the one that the process was given if that is lower."""
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def limit_memory(size: int) -> None:
    """Limit the address space, where the system can: macOS cannot, and is left with the other limits."""
    if sys.platform == "linux":
        limit(resource.RLIMIT_AS, size)


def taken_bytes() -> int:
    """Address space that this process has now; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm") as status:
        return int(status.read().split()[0]) * resource.getpagesize()


def allow_cpu_seconds(seconds: int) -> None:
    """Allow the process so many more seconds of the processor, from now on; SIGXCPU ends it when they are used up."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


if __name__ == "__main__":
    main()
