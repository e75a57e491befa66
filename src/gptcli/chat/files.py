"""Transcripts in files, which are never written over those of others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gptcli.errors import UsageError
from gptcli.storage import expanded, read_regular, refuse_special_file, storage_errors, write_atomic

OF_ROWS = (".json", ".jsonl")
"""Endings of files whose rows other commands read."""


class SavedFiles:
    """The files that one chat has written. It may write them again as long as nobody else has changed them."""

    def __init__(self) -> None:
        self.written: dict[Path, bytes] = {}

    def save(self, name: str, content: str, suffixes: Sequence[str]) -> None:
        """Write a new file: after a crash at any moment it is whole or absent.

        Args:
            name: the file, as the user wrote it.
            content: the transcript.
            suffixes: the endings that it may have; none allows all but those of rows.

        Raises:
            UsageError: the file exists, or has an ending by which it would be read as something else.
            StorageError: it cannot be written, or is a link.
        """
        if suffixes and not name.endswith(tuple(suffixes)):
            raise UsageError(f"{name} is no name for rows of JSON", f"write /save {Path(name).stem}{suffixes[0]}")
        if not suffixes and name.endswith(OF_ROWS):
            raise UsageError(f"{name} is no name for a text", f"write /save {Path(name).stem}.txt")
        path, data = expanded(name).absolute(), content.encode()
        refuse_special_file(path)
        if os.path.lexists(path) and not self.is_own(path):
            raise UsageError(f"{name} exists already", "give another name")
        write_atomic(path, data)
        self.written[path] = data

    def is_own(self, path: Path) -> bool:
        """Return whether a file is as this chat has written it."""
        with storage_errors(path, "read"):
            return path in self.written and read_regular(path, len(self.written[path]) + 1) == self.written[path]
