"""Members of zip archives, which are named like files in a folder: `texts.zip/part/one.txt`.

A member is decompressed as it is read, in pieces of bounded size, and never written to a disk, so that its name cannot
lead anywhere. Bytes are not decoded here.
"""

from __future__ import annotations

import errno
import io
import os
import zipfile
from collections import Counter
from functools import lru_cache
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import NamedTuple, cast

from gptcli.data.filetypes import ZIP, FileType, conversion, not_text_error
from gptcli.errors import DataError
from gptcli.storage import open_regular, storage_errors

MAX_EXPANSION = 200
"""An archive or a compressed file that holds this many times its own size, and more than MAX_CONTENT_BYTES, is refused:
text is seldom compressed to a tenth. A row takes up to 16 times its bytes in memory, and the whole file may be one
row."""
MAX_CONTENT_BYTES = 1 << 26
SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
ENCRYPTED = 1
"""The bit of a member's flags that marks encryption."""
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
"""Compression methods of members that Python can read."""

DOCUMENTS = {
    "word/document.xml": FileType("a Word document", "pandoc -t plain {file} -o {text}"),
    "xl/workbook.xml": FileType("an Excel workbook", "libreoffice --headless --convert-to csv {file}"),
    "ppt/presentation.xml": FileType("a PowerPoint presentation", "libreoffice --headless --convert-to pdf {file}"),
    "META-INF/container.xml": FileType("an EPUB book", "pandoc -t plain {file} -o {text}"),
    "META-INF/manifest.xml": FileType("an OpenDocument file", "libreoffice --headless --convert-to txt {file}"),
    "META-INF/MANIFEST.MF": FileType("a Java archive"),
    "/data.pkl": FileType("a PyTorch checkpoint"),
    ".npy": FileType("a NumPy archive"),
}
"""Types of archives, by the ending of the name of a member that only such an archive has."""


class Member(NamedTuple):
    """A file in an archive, by its name there; `refusal` says why it cannot be read, if it cannot."""

    name: str
    refusal: str


class FileStatus(NamedTuple):
    """Metadata of a file, by which a change is noticed without reading the file."""

    size: int
    """In bytes."""
    mtime_ns: int
    ctime_ns: int
    """The time of the last change of content, permissions or name; unlike `mtime_ns`, no program can set it."""
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStatus:
        """Return the status from the result of os.stat."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def open_file(path: Path) -> io.BufferedReader | zipfile.ZipExtFile:
    """Open a file, or a member of an archive as if the archive were a folder, for reading bytes; it has `peek`.

    Raises:
        OSError: it does not exist, or cannot be read.
        BadZipFile: the archive is damaged.
    """
    try:
        return open_regular(path)
    except NotADirectoryError:
        archive, information = find_member(path)
        return cast("zipfile.ZipExtFile", archive.open(information))


def file_status(path: Path) -> FileStatus:
    """Return the status of a file; that of a member of an archive is the archive's, with the member's own size.

    Raises:
        OSError: it does not exist.
    """
    try:
        return FileStatus.of(path.stat())
    except NotADirectoryError:
        archive, information = find_member(path)
        return FileStatus.of(Path(str(archive.filename)).stat())._replace(size=information.file_size)


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip archive by its first bytes."""
    with storage_errors(path, "read"), open_regular(path) as file:
        return file.read(4) in SIGNATURES


def find_member(path: Path) -> tuple[zipfile.ZipFile, zipfile.ZipInfo]:
    """Return the archive and the member that `texts.zip/part/one.txt` names."""
    archive = next((parent for parent in path.parents if parent.is_file()), None)
    if archive is None or not is_archive(archive):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    opened = open_archive(archive)
    found = opened.named.get(path.relative_to(archive).as_posix())
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return opened.file, found


class OpenArchive(NamedTuple):
    """An archive, its files in the order in which they were written, and by their names as a path has them."""

    file: zipfile.ZipFile
    files: list[zipfile.ZipInfo]
    named: dict[str, zipfile.ZipInfo]


def open_archive(path: Path) -> OpenArchive:
    """Return the members of an archive, from the cache if the archive was read recently and has not changed.

    Raises:
        OSError: it does not exist.
        BadZipFile: it is damaged.
    """
    return read_directory(path, FileStatus.of(path.stat()))


@lru_cache(maxsize=4)
def read_directory(path: Path, status: FileStatus) -> OpenArchive:
    """Read the list of an archive's members; the status is a part of the cache's key."""
    file = zipfile.ZipFile(path)
    files = [member for member in file.infolist() if not member.is_dir()]
    return OpenArchive(file, files, {path_in_archive(member): member for member in files})


def path_in_archive(member: zipfile.ZipInfo) -> str:
    """Return the name of a member below the archive, as a path has it: relative and without empty parts and dots."""
    return "/".join(part for part in PurePosixPath(member.filename).parts if not part.startswith("/"))


def members(path: Path, name: str) -> list[Member]:
    """Return the files of an archive, sorted by name.

    Raises:
        DataError: it is a document or a program in the form of an archive, damaged, or claims to hold more than an
            archive of texts does.
    """
    try:
        with storage_errors(path, "read"):
            files = open_archive(path).files
            size = path.stat().st_size
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DataError(f"{name} is damaged: {error}", "fetch or write the archive again") from error
    for member in files:
        kind = next((kind for ending, kind in DOCUMENTS.items() if f"/{member.filename}".endswith(ending)), None)
        if kind is not None:
            raise not_text_error(name, kind)
    check_sizes(files, size, name)
    found = sorted(((path_in_archive(member), member) for member in files), key=itemgetter(0))
    occurrences = Counter(place for place, _ in found)
    return [
        Member(place, refusal(member) if occurrences[place] == 1 else "its name occurs twice in the archive")
        for place, member in found
    ]


def check_sizes(files: list[zipfile.ZipInfo], size: int, name: str) -> None:
    """Refuse an archive of `size` bytes whose members overlap, or hold too much for their compressed size."""
    content = sum(member.file_size for member in files)
    if content > max(MAX_CONTENT_BYTES, MAX_EXPANSION * size):
        raise DataError(
            f"{name} would expand to {content:,} bytes, more than {MAX_EXPANSION} times its size",
            f"if you trust it, unpack it and name that folder: {conversion(name, ZIP)}",
        )
    if sum(member.compress_size for member in files) > size:
        raise DataError(f"{name} is damaged: its members overlap", "fetch or write the archive again")


def refusal(member: zipfile.ZipInfo) -> str:
    """Return the reason why a member cannot be read; empty if it can."""
    if ".." in PurePosixPath(member.filename).parts:
        return "its name leads out of the archive"
    if member.flag_bits & ENCRYPTED:
        return "it is encrypted"
    return "" if member.compress_type in METHODS else f"its compression method {member.compress_type} is not supported"
