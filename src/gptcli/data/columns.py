"""The rows of files that hold columns: .parquet, and .arrow as the `datasets` library writes it.

Only the requested columns are read, a few rows at a time. Every error names the file and the row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from gptcli.data.compression import CHUNK_BYTES, damage_error, is_compressed, read_bytes
from gptcli.data.decoding import Decoding
from gptcli.data.fields import FieldSelection
from gptcli.data.file_formats import SourceFile
from gptcli.errors import DataError
from gptcli.storage import open_regular, storage_errors

ROWS_AT_ONCE = 256


def column_rows(
    file: SourceFile, selection: FieldSelection, decoding: Decoding, start: int, stop: int | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over (place, row) pairs, with only the fields of `selection`.

    With `stop` only row groups start..stop-1 of a .parquet file are read.

    Raises:
        DataError: the file is damaged, or a text in it is not UTF-8 (if `decoding` is strict).
    """
    import pyarrow as pa

    path, name = file.path, file.name
    holds_numbers = selection.content != "text"
    with storage_errors(path, "read"), seekable(path, name) as content:
        try:
            groups, number = (None, 0) if stop is None else row_groups(content, start, stop)
            for batch in batches(content, file, selection, groups):
                fields = enumerate(batch.schema.names)
                columns = [values(batch.column(i), field, name, holds_numbers) for i, field in fields]
                for row in zip(*columns, strict=True):
                    number += 1
                    place = f"row {number} of {name}"
                    yield place, dict(zip(batch.schema.names, (decoded(v, place, decoding) for v in row), strict=True))
        except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
            raise damage_error(name, error) from error


def row_groups(file: IO[bytes], start: int, stop: int) -> tuple[list[int], int]:
    """Return the numbers of the row groups start..stop-1, and the number of rows before them."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(file)
    return list(range(start, stop)), sum(metadata.row_group(index).num_rows for index in range(start))


def batches(
    content: IO[bytes], file: SourceFile, selection: FieldSelection, groups: list[int] | None = None
) -> Iterable[Any]:
    """Iterate over pyarrow record batches of the selected columns, in the row groups `groups` of a .parquet file (None
    for all).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.format == "parquet":
        table = pq.ParquetFile(content, pre_buffer=False, buffer_size=CHUNK_BYTES)
        columns = list(selection.choose(table.schema_arrow.names, file.name))
        chosen = {} if groups is None else {"row_groups": groups}
        yield from table.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns, use_threads=False, **chosen)
        return
    begins = content.read(6)
    content.seek(0)
    if begins == b"ARROW1":  # a file of random access; `datasets` writes streams
        reader = pa.ipc.open_file(content)
        found: Iterable[Any] = (reader.get_batch(i) for i in range(reader.num_record_batches))
    else:
        reader = found = pa.ipc.open_stream(content)
    fields = list(selection.choose(reader.schema.names, file.name))
    for batch in found:
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            yield batch.select(fields).slice(start, ROWS_AT_ONCE)


def values(column: Any, field: str, name: str, holds_numbers: bool = False) -> list[Any]:
    """Return a pyarrow column as Python values, with texts as bytes, so that bad UTF-8 is found here and not within
    pyarrow; with `holds_numbers` also numbers.

    The column is validated first, since pyarrow follows offsets that lead out of a damaged file's memory.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column.validate(full=True)
        column = column.dictionary_decode()
    if pa.types.is_nested(column.type):
        try:
            column.validate(full=True)
            return list(column.to_pylist())
        except UnicodeDecodeError as error:
            raise DataError(f"column {field!r} of {name} is not UTF-8: {error}", "repair the file") from error
    if holds_numbers and (pa.types.is_primitive(column.type) or pa.types.is_null(column.type)):
        column.validate(full=True)
        return list(column.to_pylist())
    try:
        if pa.types.is_fixed_size_binary(column.type) or pa.types.is_primitive(column.type):
            raise pa.ArrowNotImplementedError
        column = column.cast(pa.large_binary())
        column.validate(full=True)
        return list(column.to_pylist())
    except pa.ArrowNotImplementedError:
        raise DataError(
            f"column {field!r} of {name} holds values of type {column.type}, not texts",
            "name another column with --set data.text_field=...",
        ) from None


def decoded(value: Any, place: str, decoding: Decoding) -> Any:
    """Return a value with bytes decoded."""
    if not isinstance(value, bytes):
        return value
    try:
        return decoding.decode_whole(value)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place} is not UTF-8 at byte {error.start:,}",
            "repair it, or put U+FFFD there with --set data.encoding_errors=replace",
        ) from error


def seekable(path: Path, name: str) -> IO[bytes]:
    """Return the file itself, or a temporary copy of its content if it is compressed or in an archive."""
    if not is_compressed(path):
        return open_regular(path)
    copy = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
    try:
        for chunk in read_bytes(path, name):
            copy.write(chunk)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy
