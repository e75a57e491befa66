"""Files of tokens that other programs wrote: nanoGPT's bare .bin, and the .bin with a header of llm.c and its kin.

    nanoGPT             uint16 tokens and nothing else
    llm.c, GPT-2        256 int32 (20240520, 1, count, 0 ...), then uint16 tokens
    llm.c, Llama 3      256 int32 (20240801, 7, count, 0 ...), then uint32 tokens

All are little-endian. Such a file does not say which tokenizer made it.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptcli.data.file_formats import SourceFile
from gptcli.data.stored_files import MappedFile
from gptcli.errors import DataError
from gptcli.storage import open_regular, storage_errors

ENDING = ".bin"
HEADER_BYTES, HEADER = 1024, struct.Struct("<3i")
HEADERS: dict[tuple[int, int], np.dtype[Any]] = {(20240520, 1): np.dtype("<u2"), (20240801, 7): np.dtype("<u4")}
"""The types of tokens by magic number and version, as in llm.c's dev/data/data_common.py."""
EXAMPLES_MAGIC = 20240522
CHUNK_TOKENS = 1 << 22


@dataclass(frozen=True)
class TokenFile:
    """`tokens` tokens of `dtype`, which begin at byte `offset` of a file of `size` bytes."""

    path: Path
    name: str
    dtype: np.dtype[Any]
    size: int
    offset: int
    tokens: int


class Stretch(NamedTuple):
    """Tokens first..first+length-1 of a file."""

    file: TokenFile
    first: int
    length: int

    @property
    def offset(self) -> int:
        """The byte of the file at which they begin."""
        return self.file.offset + self.first * self.file.dtype.itemsize

    def chunks(self) -> Iterator[np.ndarray]:
        """Iterate over the tokens in arrays of some million, from the mapped file."""
        mapped = MappedFile(self.file.path, self.file.dtype, self.file.size, self.offset, self.length)
        for start in range(0, self.length, CHUNK_TOKENS):
            mapped.check()
            yield mapped.array[start : start + CHUNK_TOKENS]


def is_token_file(source: str) -> bool:
    """Return whether a source, which may be a pattern, names such files by their ending."""
    return source.lower().endswith(ENDING)


def open_token_file(file: SourceFile) -> TokenFile:
    """Return a description of a file, from its header if it has one.

    Raises:
        DataError: it is empty, truncated, or of an unknown form.
    """
    path, name = file.path, file.name
    with storage_errors(path, "read"), open_regular(path) as opened:
        size = os.fstat(opened.fileno()).st_size
        header = opened.read(HEADER.size) if size >= HEADER_BYTES else bytes(HEADER.size)
    magic, version, count = HEADER.unpack(header)
    if magic == EXAMPLES_MAGIC:
        raise DataError(f"{name} holds questions with answers for llm.c, not a text", "name a file of tokens")
    if any(magic == known for known, _ in HEADERS):
        dtype = HEADERS.get((magic, version))
        if dtype is None:
            raise DataError(
                f"{name} has a header of version {version}, which is not supported", "write it again as version 1 or 7"
            )
        if count < 1:
            raise DataError(f"the header of {name} declares {count:,} tokens", "fetch or write it again")
        wanted = HEADER_BYTES + count * dtype.itemsize
        if size != wanted:
            raise DataError(f"{name} has {size:,} bytes, but its header declares {wanted:,}", "fetch or write it again")
        return TokenFile(path, name, dtype, size, HEADER_BYTES, count)
    dtype = np.dtype("<u2")
    if not size or size % dtype.itemsize:
        raise DataError(f"{name} has {size:,} bytes, not a whole number of 16-bit tokens", "fetch or write it again")
    return TokenFile(path, name, dtype, size, 0, size // dtype.itemsize)


def validation_beside(files: Sequence[SourceFile]) -> list[SourceFile]:
    """Return the files beside these for validation: val.bin beside train.bin, x_val_000000.bin beside
    x_train_000001.bin.
    """
    found: dict[str, SourceFile] = {}
    for path, *_ in files:
        head, train, tail = path.name.rpartition("train")
        if train:
            pattern = re.compile(re.escape(head) + "val" + re.sub(r"\d+", r"\\d+", re.escape(tail)))
            with storage_errors(path.parent, "read"):
                beside = sorted(other for other in path.parent.iterdir() if pattern.fullmatch(other.name))
            found |= {os.path.realpath(other): SourceFile(other, str(other)) for other in beside}
    return list(found.values())


def cut(files: Sequence[TokenFile], start: int, stop: int) -> list[Stretch]:
    """Return tokens start..stop-1 of the concatenated files."""
    found, position = [], 0
    for file in files:
        first, last = max(start - position, 0), min(stop - position, file.tokens)
        if first < last:
            found.append(Stretch(file, first, last - first))
        position += file.tokens
    return found
