"""Where prepared data is kept between runs, and how two processes that prepare the same data keep apart.

    spool/       copies of what can be read only once: stdin, hf: data sets
    scans/       what one reading of a corpus found, by the files' paths, sizes and times
    tokenizers/  learnt tokenizers, by the training text and the tokenizer's settings
    tokens/      token shards of both splits, by their text and the tokenizer

An entry that is made in parts has them in NAME.work beside it until it is whole, so that what is finished is not done
again. Everything here can be deleted at any time. Knows nothing of what the entries hold.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptcli import strict_json
from gptcli.console import say
from gptcli.storage import clean_temporaries, make_directory, open_own, require_own, storage_errors

CACHE_VERSION = 4
"""Part of every key: raise it when the form or the meaning of an entry changes."""


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME/gptcli, or ~/.cache/gptcli."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gptcli"


def cache_key(*parts: Any) -> str:
    """A name made of everything that decides what an entry holds (values that JSON can write)."""
    text = strict_json.dumps([CACHE_VERSION, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextmanager
def only_writer(entry: Path) -> Iterator[None]:
    """Hold the right to write `entry`; a second process waits here and then finds what the first one wrote.

    The lock ends with the process that holds it, however that ends. Not every file system shows it to other machines,
    so their temporaries are left alone until they are old.

    Raises:
        StorageError: the entry cannot be written, or is a link, as is something that belongs to it.
    """
    make_directory(entry.parent)
    lock = entry.with_name(f"{entry.name}.lock")
    with storage_errors(entry), os.fdopen(open_own(lock, os.O_RDWR | os.O_CREAT), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is writing {entry}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        require_own(entry)
        clean_temporaries(entry.parent, entry.name, excluded="this machine")
        clean_temporaries(entry.parent)
        yield


@contextmanager
def unfinished(entry: Path) -> Iterator[Path]:
    """The directory for finished parts of an entry that is being made, which goes once the entry is whole. The lock of
    the entry must be held.

    What a process that no longer runs left half-written in it is removed.

    Raises:
        StorageError: the directory is a link, or holds one.
    """
    work = entry.with_name(f"{entry.name}.work")
    require_own(work)
    if work.is_dir():
        say(f"going on with what an earlier command has finished of {entry}")
        for path in work.rglob("*"):
            require_own(path)
        for folder in (work, *work.iterdir()):
            if folder.is_dir():
                clean_temporaries(folder, excluded="this machine")
    yield work
    shutil.rmtree(work, ignore_errors=True)
