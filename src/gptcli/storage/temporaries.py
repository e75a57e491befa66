"""Temporary names that identify their owner: what a killed process left half-written is removed, and what a living
process writes is not, even if containers or machines share the directory.

    NAME.tmp-PID-START-MACHINE-RANDOM

START is the time at which the process began, in clock ticks since boot. MACHINE consists of two hashes: of the kernel's
boot id and of the process's pid namespace. A process can be looked up by its number only if both are the same. A
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
"""Seconds since the last change after which a temporary with an unknown owner is removed."""
FRESH_SECONDS = 60.0
"""Seconds after its creation in which a directory may not be locked yet."""
HASH_DIGITS = 8

Excluded = Literal["nobody", "this machine", "everyone"]
"""The other processes that the caller's lock keeps from writing: none, all under the same kernel, or all."""


class Owner(NamedTuple):
    """The process that a temporary name identifies."""

    pid: int
    start: int
    """0 if the system does not say."""
    boot: str
    namespace: str

    @classmethod
    def of_name(cls, name: str) -> Owner | None:
        """Return the owner of a temporary, or None if the name does not identify one, as in earlier versions."""
        parts = name.rpartition(TEMPORARY_MARK)[2].split("-")
        if len(parts) != 4 or not parts[0].isdecimal() or len(parts[2]) != 2 * HASH_DIGITS:
            return None
        try:
            start = int(parts[1], 16)
        except ValueError:
            return None
        return cls(int(parts[0]), start, parts[2][:HASH_DIGITS], parts[2][HASH_DIGITS:])

    def label(self) -> str:
        """Return the owner as it is written in a temporary name."""
        return f"{self.pid}-{self.start:x}-{self.boot}{self.namespace}"

    def is_of_this_boot(self) -> bool:
        """Return whether the process runs, or ran, under the kernel of this one since its last boot."""
        return self.boot == current_owner().boot

    def is_visible(self) -> bool:
        """Return whether its process number has the same meaning in this process."""
        return (self.boot, self.namespace) == current_owner()[2:]

    def is_alive(self) -> bool:
        """Return whether a visible process still runs. A later process with the same number has another start time."""
        if not process_is_alive(self.pid):
            return False
        state, start = process_status(str(self.pid)) if proc_is_ours() else ("", 0)
        return state not in ("Z", "X") and not (start and self.start and start != self.start)


def current_owner() -> Owner:
    """Return this process."""
    return owner_with_pid(os.getpid())


@lru_cache(maxsize=1)
def owner_with_pid(pid: int) -> Owner:
    """Return the owner for this process, whose number is the key of the cache: a fork has another."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        boot, namespace = os.uname().nodename, ""
    return Owner(pid, process_status("self")[1], short_hash(boot), short_hash(namespace))


def short_hash(text: str) -> str:
    """Return the first digits of the hex SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def process_status(pid: str) -> tuple[str, int]:
    """Return the state and the start time of a process from /proc, or ("", 0) if they are not there."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return "", 0


def proc_is_ours() -> bool:
    """Return whether /proc shows the process numbers of this process's own namespace."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def process_is_alive(pid: int) -> bool:
    """Return whether a process with that number runs in this pid namespace, even if another user owns it."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def temporary_name(path: Path) -> Path:
    """Return a sibling of `path` that no other process uses and that `clean_temporaries` recognises."""
    return path.with_name(f"{path.name}{TEMPORARY_MARK}{current_owner().label()}-{secrets.token_hex(4)}")


@contextmanager
def held_directory(path: Path) -> Iterator[None]:
    """Create a temporary directory and lock it for the block."""
    path.mkdir()
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def is_unlocked(path: Path) -> bool:
    """Return whether a temporary directory, whose owner runs or ran under the same kernel, is no longer locked."""
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
    """Remove what processes that no longer run left half-written in `directory`, and return the removed paths.

    A temporary is kept if its owner may live: if its process runs, if it belongs to another machine, an earlier boot or
    an earlier version, or if it is locked from another pid namespace. One whose owner cannot be looked up is removed
    once nothing in it has changed for a week. What cannot be removed, such as another user's, is kept.

    Args:
        name: only temporaries for a file or directory of that name.
        excluded: the processes that the caller's lock keeps from creating such temporaries, so that theirs are
            abandoned.
    """
    return [path for path in leftovers(directory, name, excluded=excluded) if remove(path)]


def leftovers(directory: Path, name: str | None = None, *, excluded: Excluded = "nobody") -> list[Path]:
    """Return the paths that `clean_temporaries` would remove, sorted."""
    return [path for path in temporaries(directory, name) if is_left_over(path, excluded)]


def temporaries(directory: Path, name: str | None) -> Iterator[Path]:
    """Iterate over the temporaries in a directory, or over those for the file or directory `name`."""
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(os.listdir(directory)):
            target, mark, _ = entry.rpartition(TEMPORARY_MARK)
            if mark and name in (None, target):
                yield directory / entry


def is_left_over(path: Path, excluded: Excluded) -> bool:
    """Return whether the owner of a temporary has certainly or very probably ended."""
    owner = Owner.of_name(path.name)
    if owner is not None and owner.is_visible():
        return not owner.is_alive()
    is_of_this_boot = owner is not None and owner.is_of_this_boot()
    if excluded == "everyone" or (is_of_this_boot and (excluded == "this machine" or is_unlocked(path))):
        return True
    return time.time() - last_change(path) > UNKNOWN_SECONDS


def last_change(path: Path) -> float:
    """Return when something in a file or directory was last written, in seconds since 1970; the current time if it is
    being removed.
    """
    try:
        times = [path.lstat().st_mtime]
        for folder, folders, files in os.walk(path):
            times += [os.lstat(os.path.join(folder, entry)).st_mtime for entry in (*folders, *files)]
    except OSError:
        return time.time()
    return max(times)


def remove(path: Path) -> bool:
    """Remove a file or directory if possible, and return whether it is gone."""
    with contextlib.suppress(OSError):
        remove_tree(path)
    return not os.path.lexists(path)
