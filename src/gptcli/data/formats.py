"""From one file to its text: decompression, UTF-8 decoding, and the rows of .jsonl, .csv and .parquet files.

Everything is read in pieces of bounded size. Knows nothing of documents, splits or tokens; every error names the file
and the place in it.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import json
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from gptcli.data.chat import CHATML, ChatRenderer
from gptcli.errors import DataError
from gptcli.storage import storage_errors

CHUNK_BYTES = 1 << 18
ZSTD_INPUT_BYTES = 1 << 8
"""Compressed bytes given to zstd at once: it returns all that they hold, up to 32,768 times as much."""
MAX_ROW_CHARACTERS = 1 << 30
COMPRESSIONS = (".gz", ".zst")
ROW_FORMATS = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".parquet"})


def format_of(path: Path) -> str:
    """The ending that says what is in the file, without the compression: `.jsonl` for `a.jsonl.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def read_bytes(path: Path, name: str) -> Iterator[bytes]:
    """The content of a file, decompressed, in chunks.

    Raises:
        StorageError: the file cannot be read.
        DataError: its compression is damaged or ends too early.
    """
    suffix = path.suffix.lower()
    reader = {".gz": gunzip, ".zst": unzstd}.get(suffix, plain_chunks)
    with storage_errors(path, "read"), path.open("rb") as file:
        yield from reader(file, name)


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


def read_text(path: Path, name: str, errors: str) -> Iterator[str]:
    """The text of a UTF-8 file in chunks, without its byte order mark; line ends stay as they are.

    `errors` is `strict` or `replace`.

    Raises:
        DataError: a byte is not UTF-8; the message says where it is (counted from 0, after decompression).
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    offset, is_start = 0, True
    for chunk in read_bytes(path, name):
        text = decode(decoder, chunk, False, offset, name)
        offset += len(chunk)
        if text:
            yield text.removeprefix("\ufeff") if is_start else text
            is_start = False
    if text := decode(decoder, b"", True, offset, name):
        yield text


def decode(decoder: codecs.IncrementalDecoder, chunk: bytes, final: bool, offset: int, name: str) -> str:
    """Decode `chunk`, which starts at byte `offset`; bytes of a character begun before are held by the decoder."""
    held, _ = decoder.getstate()
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        place = offset - len(held) + error.start
        is_utf16 = place == 0 and chunk[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        remedy = (
            "it looks like UTF-16: convert it (iconv -f UTF-16 -t UTF-8)"
            if is_utf16
            else "convert the file, or put U+FFFD there with --set data.encoding_errors=replace"
        )
        raise DataError(f"{name} is not UTF-8 at byte {place:,}", remedy) from error


def read_rows(path: Path, name: str, text_field: str, errors: str, chat_template: str = CHATML) -> Iterator[str]:
    """The text field of every row of a .jsonl, .csv or .parquet file; a null is an empty text.

    Where a row of JSON has a list there, it is a conversation, and the template makes its text.

    Raises:
        DataError: a row cannot be read, lacks the field (the message lists those it has), or has no text in it.
    """
    kind = format_of(path)
    if kind == ".parquet":
        yield from parquet_texts(path, name, text_field, errors)
        return
    lines = split_lines(read_text(path, name, errors), name)
    rows = csv_rows(lines, name) if kind == ".csv" else json_rows(lines, name)
    renderer: ChatRenderer | None = None
    with contextlib.ExitStack() as stack:
        for place, row in rows:
            if text_field not in row:
                raise missing_field(place, text_field, row)
            value = row[text_field]
            if isinstance(value, list):
                renderer = renderer or stack.enter_context(ChatRenderer(chat_template))
                value = renderer.render(value, place)
            if not isinstance(value, str | None):
                raise DataError(f"field {text_field!r} of {place} is no text but {type(value).__name__}")
            yield without_surrogates(value or "", place, errors)


def missing_field(place: str, text_field: str, fields: Iterable[str]) -> DataError:
    return DataError(
        f"{place} has no field {text_field!r}; its fields are {', '.join(map(str, fields))}",
        "name one with --set data.text_field=...",
    )


def without_surrogates(text: str, place: str, errors: str) -> str:
    r"""JSON can write half a character ("\ud83d"), which no UTF-8 text can hold."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if errors == "strict":
            raise DataError(
                f"{place} has half a surrogate pair at character {error.start:,}",
                "mend the row, or put U+FFFD there with --set data.encoding_errors=replace",
            ) from error
        return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
    return text


def split_lines(chunks: Iterable[str], name: str) -> Iterator[str]:
    r"""Lines with their "\n", and nothing else taken for a line end, as JSON lines and csv want it."""
    held = ""
    for chunk in chunks:
        held += chunk
        if "\n" in chunk:
            *lines, held = held.split("\n")
            for line in lines:
                yield line + "\n"
        if len(held) > MAX_ROW_CHARACTERS:
            raise DataError(f"{name} has a row of more than {MAX_ROW_CHARACTERS:,} characters", "is it a text file?")
    if held:
        yield held


def json_rows(lines: Iterable[str], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"line {number} of {name}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place} is not JSON: {error}", "write one JSON object a line") from error
        if not isinstance(row, dict):
            raise DataError(f"{place} is no JSON object but {type(row).__name__}", "write one JSON object a line")
        yield place, row


def csv_rows(lines: Iterable[str], name: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows by the names in the first line; rows are counted from 1 after it."""
    csv.field_size_limit(MAX_ROW_CHARACTERS)
    reader = csv.reader(lines)
    number = 0
    try:
        header = next(reader, [])
        for values in reader:
            if values:
                number += 1
                yield f"row {number} of {name}", dict(zip(header, values, strict=False))
    except csv.Error as error:
        raise DataError(f"row {number + 1} of {name} is not CSV: {error}", "mend the file") from error


def parquet_texts(path: Path, name: str, text_field: str, errors: str) -> Iterator[str]:
    """The column `text_field`, a few rows at a time; a compressed file is unpacked first, for parquet needs seeking."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with storage_errors(path, "read"), seekable(path, name) as file:
        try:
            table = pq.ParquetFile(file, pre_buffer=False, buffer_size=CHUNK_BYTES)
            fields = table.schema_arrow.names
            if text_field not in fields:
                raise missing_field(name, text_field, fields)
            for batch in table.iter_batches(batch_size=256, columns=[text_field], use_threads=False):
                for value in as_binary(batch.column(0), text_field, name).to_pylist():
                    number += 1
                    yield decode_row(value or b"", f"row {number} of {name}", errors)
        except (pa.ArrowException, OSError) as error:
            raise damaged(name, error) from error


def as_binary(column: Any, text_field: str, name: str) -> Any:
    """A pyarrow column of texts as bytes, so that bad UTF-8 is met here and not within pyarrow."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        if pa.types.is_fixed_size_binary(column.type) or pa.types.is_primitive(column.type):
            raise pa.ArrowNotImplementedError
        return column.cast(pa.large_binary())
    except pa.ArrowNotImplementedError:
        raise DataError(
            f"column {text_field!r} of {name} is no text but {column.type}",
            "name another with --set data.text_field=...",
        ) from None


def decode_row(value: bytes, place: str, errors: str) -> str:
    try:
        return value.decode(errors=errors)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place} is not UTF-8 at byte {error.start:,}",
            "mend it, or put U+FFFD there with --set data.encoding_errors=replace",
        ) from error


def seekable(path: Path, name: str) -> IO[bytes]:
    """The file itself, or a temporary copy of what it holds when it is compressed."""
    if path.suffix.lower() not in COMPRESSIONS:
        return path.open("rb")
    copy = tempfile.TemporaryFile()  # noqa: SIM115 the caller closes it
    try:
        for chunk in read_bytes(path, name):
            copy.write(chunk)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy
