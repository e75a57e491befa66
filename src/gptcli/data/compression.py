"""Files as bytes: what is in them by their ending, and decompression in pieces of bounded size. Knows no text."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gptcli.errors import DataError
from gptcli.storage import storage_errors

CHUNK_BYTES = 1 << 18
ZSTD_INPUT_BYTES = 1 << 8
"""Compressed bytes given to zstd at once: it returns all that they hold, up to 32,768 times as much."""
COMPRESSIONS = (".gz", ".zst")


def format_of(path: Path) -> str:
    """The ending that says what is in the file, without the compression: `.jsonl` for `a.jsonl.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def read_bytes(path: Path, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """The content of a file, decompressed, in chunks; with `stop` bytes start..stop-1 of one that is not compressed.

    Raises:
        StorageError: the file cannot be read.
        DataError: its compression is damaged or ends too early.
    """
    suffix = path.suffix.lower()
    reader = {".gz": gunzip, ".zst": unzstd}.get(suffix, plain_chunks)
    with storage_errors(path, "read"), path.open("rb") as file:
        if stop is None:
            yield from reader(file, name)
            return
        file.seek(start)
        while start < stop and (chunk := file.read(min(stop - start, CHUNK_BYTES))):
            yield chunk
            start += len(chunk)


def plain_chunks(file: IO[bytes], name: str) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def gunzip(file: IO[bytes], name: str) -> Iterator[bytes]:
    try:
        with gzip.open(file) as unzipped:
            yield from plain_chunks(unzipped, name)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise damaged(name, error) from error


def unzstd(file: IO[bytes], name: str) -> Iterator[bytes]:
    """zstandard's own reader takes a file that was cut off for a whole one, so the frames' ends are watched here."""
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
        raise damaged(name, error) from error
    if frame is not None:
        raise damaged(name, "it ends too early")


def damaged(name: str, reason: object) -> DataError:
    return DataError(f"{name} is damaged: {reason}", "fetch or write the file again")
