"""Files in the usual formats, which several tests of `data` write."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

COMPRESSIONS = ("", ".gz", ".bz2", ".xz", ".zst")
TEXTS = ["plain", "two\nlines, and a comma", 'quotes " and \ttab', "größer → 𝄞 日本語", "a\r\nb\u2028c\x0bd\x1ce", ""]


def compress(content: bytes, compression: str) -> bytes:
    if compression == ".gz":
        return gzip.compress(content)
    middle = len(content) // 2  # two streams, as `cat a.zst b.zst` makes
    if compression == ".zst":
        return zstandard.compress(content[:middle]) + zstandard.compress(content[middle:])
    if compression == ".bz2":
        return bz2.compress(content[:middle]) + bz2.compress(content[middle:])
    if compression == ".xz":
        return lzma.compress(content[:middle]) + bytes(8) + lzma.compress(content[middle:])
    return content


def as_jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def as_csv(texts: list[str]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerows([["id", "text"], *([1, text] for text in texts)])
    return out.getvalue().encode()


def as_parquet(texts: list[str]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"id": list(range(len(texts))), "text": texts}), out)
    return out.getvalue()


def as_arrow(texts: list[str]) -> bytes:
    """As `datasets` writes it: a stream, here of two batches."""
    out = io.BytesIO()
    table = pa.table({"id": list(range(len(texts))), "text": texts})
    with pa.ipc.new_stream(out, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=4):
            writer.write_batch(batch)
    return out.getvalue()


WRITERS = {".jsonl": as_jsonl, ".csv": as_csv, ".parquet": as_parquet, ".arrow": as_arrow}


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def write_rows(path: Path, texts: Iterable[str]) -> str:
    """Write texts as JSON lines, and return the path as a source."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)
