"""Which version of each file of a corpus lies on the disk, so that what was found in another version is not used again.

The files of a small corpus are hashed. Those of a large one are told apart by what the file system records: size,
inode, the time of the last change of the content, and the time of the last change of any kind, which no program can
set back. Knows nothing of what the files hold.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from hashlib import sha256
from zipfile import BadZipFile

from gptcli.data.archives import FileStatus, file_status, open_file
from gptcli.data.file_formats import SourceFile
from gptcli.data.passes import ScannedFile, changed
from gptcli.manifest import CHUNK
from gptcli.storage import storage_errors

HASHED_BYTES, HASHED_FILES = 1 << 26, 1 << 12
"""The largest corpus whose files are hashed, which takes about a tenth of a second at each start."""

RACY_NANOSECONDS = 2_000_000_000
"""A file changed so shortly before it was looked at may change again within its clock's tick."""


def look_at(files: Sequence[SourceFile]) -> list[ScannedFile]:
    """The files with their versions as they are now.

    Raises:
        StorageError: one cannot be read.
    """
    found = []
    for file in files:
        with storage_errors(file.name, "read"):
            found.append(file_status(file.path))
    is_small = len(found) <= HASHED_FILES and sum(status.size for status in found) <= HASHED_BYTES
    return [looked_at(file, status, is_small) for file, status in zip(files, found, strict=True)]


def looked_at(file: SourceFile, status: FileStatus, is_hashed: bool) -> ScannedFile:
    digest = content_hash(file, status.size) if is_hashed else ""
    return ScannedFile(
        # Of a link the name stays, whose ending says what is in it: in the hub's cache the file's own name has none.
        path=os.path.abspath(file.path),
        name=file.name,
        size=status.size,
        version=digest or f"inode {status.inode}, times {status.mtime_ns} and {status.ctime_ns}",
        changed_ns=0 if digest else max(status.mtime_ns, status.ctime_ns),
        format=file.format,
        is_optional=file.is_optional,
    )


def content_hash(file: SourceFile, size: int) -> str:
    """Hex SHA-256 of the first `size` bytes of a file; empty where they cannot be read, which the reader says."""
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
    """Whether the files were looked at, `looked_ns` nanoseconds after 1970, long enough after their last change to have
    another version if they should change again."""
    return looked_ns > max(file.changed_ns for file in files) + RACY_NANOSECONDS


def require_same(files: Sequence[ScannedFile]) -> None:
    """Raise FileChanged if one of the files, which have been read meanwhile, has another version now."""
    for file, now in zip(files, look_at([file.source for file in files]), strict=True):
        if now.version != file.version or now.size != file.size:
            raise changed(file)
