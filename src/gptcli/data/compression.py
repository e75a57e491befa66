"""The content of files: the compression is recognised by the first bytes, and content is decompressed in bounded
pieces.

The ending of a name, below that of the compression, gives the format of a file.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gptcli.data.archives import MAX_CONTENT_BYTES, MAX_EXPANSION, file_status, open_file
from gptcli.data.filetypes import BZIP2, GZIP, HEAD_BYTES, XZ, ZSTD, FileType, signature
from gptcli.errors import DataError
from gptcli.storage import storage_errors

CHUNK_BYTES = 1 << 18
ZSTD_INPUT_BYTES = 1 << 8
"""Compressed bytes given to zstd at once: it returns their whole content, up to 32,768 times as much."""
XZ_MEMORY_BYTES = 1 << 30
"""Limit of the memory that xz may use to decompress: its largest preset uses 65 MiB."""
COMPRESSIONS = (".gz", ".bz2", ".xz", ".lzma", ".zst")


def format_of(path: Path) -> str:
    """Return the ending that gives the format of a file, without that of the compression: `.jsonl` for `a.jsonl.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_compressed(path: Path) -> bool:
    """Return whether bytes of the file are not bytes of its content: it is compressed, or in an archive."""
    with storage_errors(path, "read"), open_file(path) as file:
        return not path.is_file() or compression_of(path, str(path), file.peek(HEAD_BYTES)) is not None


def read_bytes(path: Path, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Iterate over the decompressed content of a file in chunks; with `stop` over bytes start..stop-1 of one that is
    not compressed.

    Raises:
        StorageError: the file cannot be read.
        DataError: the compressed data is damaged, ends too early, or holds far more than text would.
    """
    with storage_errors(path, "read"), damage_of(name), open_file(path) as file:
        if stop is None:
            compression = compression_of(path, name, file.peek(HEAD_BYTES))
            if compression is None:
                yield from plain_chunks(file, name)
            else:
                size = file_status(path).size
                yield from bounded(READERS[compression](file, name), max(MAX_CONTENT_BYTES, MAX_EXPANSION * size), name)
            return
        file.seek(start)
        while start < stop and (chunk := file.read(min(stop - start, CHUNK_BYTES))):
            yield chunk
            start += len(chunk)


def compression_of(path: Path, name: str, head: bytes) -> FileType | None:
    """Return the compression of a file that begins with `head`; None if it is not compressed.

    Raises:
        DataError: the name ends like that of a compressed file, and the content is not compressed.
    """
    found = signature(head)
    if found in READERS:
        return found
    if head and path.suffix.lower() in COMPRESSIONS:
        raise damage_error(name, f"it does not begin as a {path.suffix} file does", "; if it is plain text, rename it")
    return None


def bounded(chunks: Iterator[bytes], most: int, name: str) -> Iterator[bytes]:
    """Iterate over chunks of at most `most` bytes in all.

    Raises:
        DataError: there are more.
    """
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > most:
            raise DataError(
                f"{name} expands to more than {most:,} bytes, more than {MAX_EXPANSION} times its size",
                "decompress it yourself if you trust it, and name the file that it gives",
            )
        yield chunk


def plain_chunks(file: io.BufferedIOBase, name: str) -> Iterator[bytes]:
    """Iterate over a file in chunks."""
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


@contextmanager
def damage_of(name: str) -> Iterator[None]:
    """Turn errors of decompressors about the content of `name` into a DataError."""
    try:
        yield
    except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise damage_error(name, error) from error
    except OSError as error:  # bz2 raises one without a number
        if error.errno is not None:
            raise
        raise damage_error(name, error) from error


def gunzip(file: io.BufferedIOBase, name: str) -> Iterator[bytes]:
    """Iterate over the content of a file compressed by gzip."""
    with gzip.open(file) as unzipped:
        yield from plain_chunks(unzipped, name)


def unzstd(file: io.BufferedIOBase, name: str) -> Iterator[bytes]:
    """Iterate over the content of a file compressed by zstd.

    zstandard's own reader accepts a truncated file as a whole one, so the ends of frames are checked here.
    """
    import zstandard

    decompressor = zstandard.ZstdDecompressor()
    frame = None
    try:
        while chunk := file.read(ZSTD_INPUT_BYTES):
            while chunk:
                frame = frame or decompressor.decompressobj()
                if content := frame.decompress(chunk):
                    yield content
                chunk = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise damage_error(name, error) from error
    if frame is not None:
        raise damage_error(name, "it ends too early")


def bunzip2(file: io.BufferedIOBase, name: str) -> Iterator[bytes]:
    """Iterate over the content of a file compressed by bzip2."""
    return streams(file, name, bz2.BZ2Decompressor)


def unxz(file: io.BufferedIOBase, name: str) -> Iterator[bytes]:
    """Iterate over the content of a file compressed by xz."""
    return streams(file, name, lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES))


def streams(
    file: io.BufferedIOBase, name: str, new: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]
) -> Iterator[bytes]:
    """Iterate over the content of all bzip2 or xz streams in a file, one after another, as `cat a.xz b.xz` makes them.

    The readers of the standard library treat whatever follows a stream, and is not another, as the end of the file.
    """
    decompressor, held = new(), b""
    while True:
        if decompressor.eof:
            held = decompressor.unused_data.lstrip(b"\0")  # xz pads its streams
            while not held and (chunk := file.read(CHUNK_BYTES)):
                held = chunk.lstrip(b"\0")
            if not held:
                return
            decompressor = new()
        elif decompressor.needs_input and not (held := file.read(CHUNK_BYTES)):
            raise EOFError("it ends too early")
        if content := decompressor.decompress(held, CHUNK_BYTES):
            yield content
        held = b""


READERS = {GZIP: gunzip, ZSTD: unzstd, BZIP2: bunzip2, XZ: unxz}


def damage_error(name: str, reason: object, remedy: str = "") -> DataError:
    """Return the error for a file whose compressed data is damaged."""
    return DataError(f"{name} is damaged: {reason}", f"fetch or write the file again{remedy}")
