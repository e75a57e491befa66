"""Temporary names, and who owns them: what a killed process left half-written is removed, what a living one writes is
not, also where a directory is shared by containers or machines.

    NAME.tmp-PID-START-MACHINE-RANDOM

START is when the process began, in clock ticks since the system was started, and MACHINE two hashes: of the boot id of
the kernel, and of the process's pid namespace. Only a process of the same two can be looked up by its number. A
temporary directory is also locked while its owner lives, which every process under the same kernel can see.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from gptcli.storage.writing import remove_tree

TEMPORARY_MARK = ".tmp-"
"""Part of every temporary name."""
UNKNOWN_SECONDS = 7 * 24 * 3600.0
"""Seconds since the last change after which a temporary is removed although nothing is known about its owner."""
FRESH_SECONDS = 60.0
"""A directory that was made so recently may not be locked yet."""
HASH_DIGITS = 8

Excluded = Literal["nobody", "this machine", "everyone"]
"""The other processes that a lock, which is held, keeps from writing: all under the same kernel, or all there are."""


class Owner(NamedTuple):
    """A process, as a temporary name tells of it."""

    pid: int
    start: int
    """0 where the system does not say."""
    boot: str
    namespace: str

    @classmethod
    def of_name(cls, name: str) -> Owner | None:
        """The owner of a temporary; None where the name does not say enough, as those of earlier versions."""
        parts = name.rpartition(TEMPORARY_MARK)[2].split("-")
        if len(parts) != 4 or not parts[0].isdecimal() or len(parts[2]) != 2 * HASH_DIGITS:
            return None
        try:
            start = int(parts[1], 16)
        except ValueError:
            return None
        return cls(int(parts[0]), start, parts[2][:HASH_DIGITS], parts[2][HASH_DIGITS:])

    def label(self) -> str:
        return f"{self.pid}-{self.start:x}-{self.boot}{self.namespace}"

    def is_of_this_boot(self) -> bool:
        return self.boot == current_owner().boot

    def is_in_sight(self) -> bool:
        """Whether its process number means here what it meant to itself."""
        return (self.boot, self.namespace) == current_owner()[2:]

    def is_alive(self) -> bool:
        """Whether a process that is in sight still runs. Another one that has got its number began at another time."""
        if not process_is_alive(self.pid):
            return False
        state, start = process_status(str(self.pid)) if proc_is_ours() else ("", 0)
        return state not in ("Z", "X") and not (start and self.start and start != self.start)


def current_owner() -> Owner:
    """This process."""
    return owner_with_pid(os.getpid())


@lru_cache(maxsize=1)
def owner_with_pid(pid: int) -> Owner:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux
        boot, namespace = os.uname().nodename, ""
    return Owner(pid, process_status("self")[1], short_hash(boot), short_hash(namespace))


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def process_status(pid: str) -> tuple[str, int]:
    """State and start time of a process, as /proc has them; ("", 0) where it says nothing."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return "", 0


def proc_is_ours() -> bool:
    """Whether /proc has the numbers of this process's own namespace."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def process_is_alive(pid: int) -> bool:
    """Whether a process of that number runs in this pid namespace (also one of another user)."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def temporary_name(path: Path) -> Path:
    """A sibling of `path` that no other process uses and that clean_temporaries recognises."""
    return path.with_name(f"{path.name}{TEMPORARY_MARK}{current_owner().label()}-{secrets.token_hex(4)}")


@contextmanager
def held_directory(path: Path) -> Iterator[None]:
    """Make a temporary directory and lock it for the block."""
    path.mkdir()
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def is_let_go(path: Path) -> bool:
    """Whether the owner of a temporary directory, a process under the same kernel, holds its lock no more."""
    try:
        if time.time() - path.lstat().st_mtime < FRESH_SECONDS:
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # a file, which is not locked
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def clean_temporaries(directory: Path, name: str | None = None, *, excluded: Excluded = "nobody") -> list[Path]:
    """Remove what processes that no longer run left half-written in `directory`; returns what was removed.

    A temporary whose owner may live is left alone: that of a process that runs, and that of another machine, an earlier
    boot or an earlier version, or a locked one of another pid namespace, unless nothing in it has changed for a week.
    What cannot be removed, such as another user's, stays.

    Args:
        name: only temporaries for a file or directory of that name.
        excluded: the processes that the caller's lock keeps from making such temporaries, so that theirs are left over.
    """
    return [path for path in leftovers(directory, name, excluded=excluded) if is_removed(path)]


def leftovers(directory: Path, name: str | None = None, *, excluded: Excluded = "nobody") -> list[Path]:
    """The paths that `clean_temporaries` would remove, sorted."""
    return [path for path in temporaries(directory, name) if is_left_over(path, excluded)]


def temporaries(directory: Path, name: str | None) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(os.listdir(directory)):
            target, mark, _ = entry.rpartition(TEMPORARY_MARK)
            if mark and name in (None, target):
                yield directory / entry


def is_left_over(path: Path, excluded: Excluded) -> bool:
    owner = Owner.of_name(path.name)
    if owner is not None and owner.is_in_sight():
        return not owner.is_alive()
    is_of_this_boot = owner is not None and owner.is_of_this_boot()
    if excluded == "everyone" or (is_of_this_boot and (excluded == "this machine" or is_let_go(path))):
        return True
    return time.time() - last_change(path) > UNKNOWN_SECONDS


def last_change(path: Path) -> float:
    """When something in a file or directory was last written, in seconds since 1970; now if it is being removed."""
    try:
        times = [path.lstat().st_mtime]
        for folder, folders, files in os.walk(path):
            times += [os.lstat(os.path.join(folder, entry)).st_mtime for entry in (*folders, *files)]
    except OSError:
        return time.time()
    return max(times)


def is_removed(path: Path) -> bool:
    with contextlib.suppress(OSError):
        remove_tree(path)
    return not os.path.lexists(path)
