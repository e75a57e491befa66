"""Reading of rows: every format gives the same texts, and every error names its place."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_files import TEXTS, WRITERS, as_arrow, as_parquet, compress, write
from gptcli.data.config import DataConfig
from gptcli.data.decoding import Decoding
from gptcli.data.file_formats import SourceFile, format_by_ending
from gptcli.data.rows import read_rows
from gptcli.errors import DataError


def rows_in(path: Path, field: str = "text", name: str = "a", errors: str = "strict") -> Iterator[str]:
    config = DataConfig(text_field=field, encoding_errors=errors)
    return read_rows(SourceFile(path, name, format_by_ending(path)), config, Decoding.of(config))


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", list(WRITERS))
def test_rows_come_back_exactly_from_every_format(tmp_path: Path, kind: str, compression: str) -> None:
    path = write(tmp_path, f"a{kind}{compression}", compress(WRITERS[kind](TEXTS), compression))
    assert list(rows_in(path)) == TEXTS


@pytest.mark.parametrize("kind", list(WRITERS))
@pytest.mark.parametrize("compression", ["", ".gz"])
def test_a_missing_field_is_named_with_those_there_are(tmp_path: Path, kind: str, compression: str) -> None:
    path = write(tmp_path, f"a{kind}{compression}", compress(WRITERS[kind](TEXTS), compression))
    with pytest.raises(DataError, match=r"my rows.* has no field 'body'; its fields are id, text; .*text_field"):
        list(rows_in(path, "body", "my rows", "strict"))


def test_the_row_that_lacks_the_field_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", b'{"text": "x"}\n\n{"title": "y"}\n')
    with pytest.raises(DataError, match=r"line 3 of a has no field 'text'; its fields are title"):
        list(rows_in(path))


def test_parquet_columns_of_other_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "coded": pa.array(["x", "y", "x"]).dictionary_encode(),
            "nulls": pa.array([None, "a", None]),
            "large": pa.array(["p", "q", "r"], pa.large_string()),
            "bad": pa.array([b"ok", b"b\xffd", b""]),
            "number": [1, 2, 3],
            "list": [["a"], [], ["b"]],
            "nested": [{"body": "a"}] * 3,
            "map": pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64())),
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    assert list(rows_in(path, "coded")) == ["x", "y", "x"]
    assert list(rows_in(path, "nulls")) == ["", "a", ""]
    assert list(rows_in(path, "large")) == ["p", "q", "r"]
    assert list(rows_in(path, "bad", errors="replace")) == ["ok", "b\ufffdd", ""]
    with pytest.raises(DataError, match="row 2 of a is not UTF-8 at byte 1"):
        list(rows_in(path, "bad"))
    for column, message in (
        ("number", "column 'number' of a holds values of type int64, not texts; name another"),
        ("list", "field 'list' of row 1 of a holds a list of texts, not a text"),
        ("nested", "field 'nested' of row 1 of a holds an object with the fields body, not a text"),
        ("map", "field 'map' of row 1 of a holds a list, not a text"),
    ):
        with pytest.raises(DataError, match=message):
            list(rows_in(path, column))


def test_arrow_files_of_random_access_are_read_too(tmp_path: Path) -> None:
    table = pa.table({"text": TEXTS * 100})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    assert list(rows_in(tmp_path / "a.arrow")) == TEXTS * 100


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.zst", "a.arrow"])
def test_a_damaged_file_of_columns_is_an_error(tmp_path: Path, name: str) -> None:
    content = as_arrow(TEXTS)[:-30] if name == "a.arrow" else as_parquet(TEXTS)
    for bad in (compress(content[:-20], Path(name).suffix), compress(content, Path(name).suffix)[:-20]):
        with pytest.raises(DataError, match="a is damaged"):
            list(rows_in(write(tmp_path, name, bad)))


def test_flipped_bytes_of_an_arrow_file_are_an_error_or_other_rows_and_never_a_crash(tmp_path: Path) -> None:
    generator, faults = random.Random(0), 0
    for content in (as_arrow(TEXTS), as_arrow(["x" * 40] * 3)):
        for _ in range(300):
            damaged = bytearray(content)
            damaged[generator.randrange(len(content))] = generator.randrange(256)
            path = write(tmp_path, "a.arrow", bytes(damaged))
            try:
                assert all(isinstance(text, str) for text in rows_in(path, errors="replace"))
            except DataError:
                faults += 1
    assert 100 < faults < 600
