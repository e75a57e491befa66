"""metrics.jsonl: one JSON object a line, appended during a run. The only metric known here is `step`."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from gptcli import strict_json
from gptcli.errors import CheckpointError
from gptcli.storage import append_file, open_regular, refuse_special_file, storage_errors, write_atomic


class MetricsLog:
    """An append-only log that survives a kill at any moment: a torn last line is dropped.

    Numbers that are not finite are written as the strings "NaN", "Infinity" and "-Infinity". Two threads may use it.

    Attributes:
        held: lines that could not be written yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.held = b""
        self.in_use = threading.Lock()

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line, which then outlives the process (though not a power cut, see `sync`).

        Raises:
            StorageError: the disk is full or the file cannot be written. The line is written with the next one.
        """
        with self.in_use:
            self.held += (strict_json.dumps(dict(line), ensure_ascii=False) + "\n").encode()
            self.write_held()

    def write_held(self) -> None:
        """Append all held lines, or none of them."""
        data = self.held
        with storage_errors(self.path, needed=len(data)), append_file(self.path) as file:
            end = end_of_last_line(file)
            file.truncate(end)
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(end)
                raise
        self.held = b""

    def sync(self) -> None:
        """Flush to the disk. Call this before a checkpoint is saved, so that no step it covers is missing here.

        Raises:
            StorageError: held lines cannot be written.
        """
        with self.in_use:
            if self.held:
                self.write_held()
            if self.path.exists():
                with storage_errors(self.path), open_regular(self.path) as file:
                    os.fsync(file.fileno())

    def truncate_after(self, step: int) -> None:
        """Drop a torn last line and the lines of steps after `step`, all of which are written again on resume."""
        refuse_special_file(self.path)
        if self.path.exists():
            kept = [line for line in self.read() if line.get("step", step) <= step]
            write_atomic(self.path, "".join(strict_json.dumps(line, ensure_ascii=False) + "\n" for line in kept))

    def read(self) -> list[dict[str, Any]]:
        """Return all whole lines in order; an empty list if there is no file.

        Raises:
            CheckpointError: a line is not a JSON object, or its step is no integer; the message names it.
        """
        if not self.path.exists():
            return []
        with storage_errors(self.path, "read"), open_regular(self.path) as file:
            lines = file.read(end_of_last_line(file)).splitlines()
        return [self.parse(number, line) for number, line in enumerate(lines, start=1)]

    def last_step(self) -> int:
        """Return the step of the last line, or 0."""
        lines = self.read()
        step: int = lines[-1].get("step", 0) if lines else 0
        return step

    def parse(self, number: int, line: bytes) -> dict[str, Any]:
        """Return the object in line `number`; raises CheckpointError as `read`."""
        try:
            value = strict_json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.path} line {number} is damaged: not a JSON object", "remove that line")
        if not isinstance(value.get("step", 0), int):
            raise CheckpointError(f"{self.path} line {number} is damaged: its step is no integer", "remove that line")
        return value


def end_of_last_line(file: BinaryIO) -> int:
    """Return the bytes up to and including the last newline, after which a line is torn, and rewind the file."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(0, end - 65_536)
        file.seek(begin)
        newline = file.read(end - begin).rfind(b"\n")
        if newline >= 0:
            end = begin + newline + 1
            break
        end = begin
    file.seek(0)
    return end
