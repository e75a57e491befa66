"""The versions of the files of a corpus, so that results for another version of a file are not used again.

The files of a small corpus are hashed. The version of a file of a large one is its size, its inode, the time of the
last change of its content, and the time of its last change of any kind, which no program can set back.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from hashlib import sha256
from zipfile import BadZipFile

from gptcli.data.archives import FileStatus, file_status, open_file
from gptcli.data.file_formats import SourceFile
from gptcli.data.readers import ScannedFile, file_changed
from gptcli.manifest import CHUNK
from gptcli.storage import storage_errors

HASHED_BYTES, HASHED_FILES = 1 << 26, 1 << 12
"""The size of the largest corpus whose files are hashed, which takes about a tenth of a second at each start."""

RACY_NANOSECONDS = 2_000_000_000
"""A file that changed so shortly before it was looked at may change again within one tick of its clock."""


def look_at(files: Sequence[SourceFile]) -> list[ScannedFile]:
    """Return the files with their present versions.

    Raises:
        StorageError: A file cannot be read.
    """
    found = []
    for file in files:
        with storage_errors(file.name, "read"):
            found.append(file_status(file.path))
    is_small = len(found) <= HASHED_FILES and sum(status.size for status in found) <= HASHED_BYTES
    return [looked_at(file, status, is_small) for file, status in zip(files, found, strict=True)]


def looked_at(file: SourceFile, status: FileStatus, is_hashed: bool) -> ScannedFile:
    """Return a file with its version, which is its hash if `is_hashed` and it can be read."""
    digest = content_hash(file, status.size) if is_hashed else ""
    return ScannedFile(
        # The name of a link, which has the ending of the format: the names of files in the hub's cache have no ending.
        path=os.path.abspath(file.path),
        name=file.name,
        size=status.size,
        version=digest or f"inode {status.inode}, times {status.mtime_ns} and {status.ctime_ns}",
        changed_ns=0 if digest else max(status.mtime_ns, status.ctime_ns),
        format=file.format,
        is_optional=file.is_optional,
    )


def content_hash(file: SourceFile, size: int) -> str:
    """Return the hex SHA-256 of the first `size` bytes of a file; empty if they cannot be read."""
    digest = sha256()
    try:
        with open_file(file.path) as content:
            while size and (chunk := content.read(min(CHUNK, size))):
                digest.update(chunk)
                size -= len(chunk)
    except (OSError, RuntimeError, NotImplementedError, EOFError, BadZipFile, zlib.error):
        return ""
    return digest.hexdigest()


def is_settled(files: Sequence[ScannedFile], looked_ns: int) -> bool:
    """Return whether any later change of the files will give them another version.

    It will if they were looked at, `looked_ns` nanoseconds after 1970, long enough after their last change.
    """
    return looked_ns > max(file.changed_ns for file in files) + RACY_NANOSECONDS


def require_same(files: Sequence[ScannedFile]) -> None:
    """Raise FileChanged if one of the files, which have been read in the meantime, has another version now."""
    for file, now in zip(files, look_at([file.source for file in files]), strict=True):
        if now.version != file.version or now.size != file.size:
            raise file_changed(file)
