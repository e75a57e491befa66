"""Reading files: every format gives the same texts, every fault names its place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from gptcli.data.formats import read_rows, read_text
from gptcli.errors import DataError, StorageError

TEXTS = ["plain", "two\nlines, and a comma", 'quotes " and \ttab', "größer → 𝄞 日本語", "a\r\nb\u2028c\x0bd\x1ce", ""]


def compress(content: bytes, compression: str) -> bytes:
    if compression == ".gz":
        return gzip.compress(content)
    if compression == ".zst":  # two frames, as `cat a.zst b.zst` makes
        middle = len(content) // 2
        return zstandard.compress(content[:middle]) + zstandard.compress(content[middle:])
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


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", list(WRITERS))
def test_rows_come_back_exactly_from_every_format(tmp_path: Path, kind: str, compression: str) -> None:
    path = write(tmp_path, f"a{kind}{compression}", compress(WRITERS[kind](TEXTS), compression))
    assert list(read_rows(path, "a", "text", "strict")) == TEXTS


@pytest.mark.parametrize("kind", list(WRITERS))
@pytest.mark.parametrize("compression", ["", ".gz"])
def test_a_missing_field_is_named_with_those_there_are(tmp_path: Path, kind: str, compression: str) -> None:
    path = write(tmp_path, f"a{kind}{compression}", compress(WRITERS[kind](TEXTS), compression))
    with pytest.raises(DataError, match=r"my rows.* has no field 'body'; its fields are id, text; .*text_field"):
        list(read_rows(path, "my rows", "body", "strict"))


def test_the_row_that_lacks_the_field_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", b'{"text": "x"}\n\n{"title": "y"}\n')
    with pytest.raises(DataError, match=r"line 3 of a has no field 'text'; its fields are title"):
        list(read_rows(path, "a", "text", "strict"))
    path = write(tmp_path, "a.csv", b"id,text\n1,x\n2\n")
    with pytest.raises(DataError, match=r"row 2 of a has no field 'text'; its fields are id"):
        list(read_rows(path, "a", "text", "strict"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": 5}', "field 'text' of line 1 of a is no text but int"),
        (b'["text"]', "line 1 of a is no JSON object but list"),
        (b'{"text": ', "line 1 of a is not JSON"),
        (b"[" * 100_000, "line 1 of a is not JSON"),
        (b'{"text": ' + b"9" * 10_000 + b"}", "line 1 of a is not JSON"),
        (b'{"text": "\\ud83d"}', "line 1 of a has half a surrogate pair at character 0"),
    ],
)
def test_bad_json_rows_are_one_line_errors(tmp_path: Path, line: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_rows(write(tmp_path, "a.jsonl", line + b"\n"), "a", "text", "strict"))


def test_null_is_an_empty_text_and_half_a_pair_can_be_replaced(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", b'{"text": null}\n{"text": "x\\ud83d\\ude00\\ud83d"}')
    assert list(read_rows(path, "a", "text", "replace")) == ["", "x😀\ufffd"]


def test_parquet_columns_of_other_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "coded": pa.array(["x", "y", "x"]).dictionary_encode(),
            "nulls": pa.array([None, "a", None]),
            "large": pa.array(["p", "q", "r"], pa.large_string()),
            "bad": pa.array([b"ok", b"b\xffd", b""]),
            "number": [1, 2, 3],
            "list": [["a"], [], ["b"]],
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    assert list(read_rows(path, "a", "coded", "strict")) == ["x", "y", "x"]
    assert list(read_rows(path, "a", "nulls", "strict")) == ["", "a", ""]
    assert list(read_rows(path, "a", "large", "strict")) == ["p", "q", "r"]
    assert list(read_rows(path, "a", "bad", "replace")) == ["ok", "b\ufffdd", ""]
    with pytest.raises(DataError, match="row 2 of a is not UTF-8 at byte 1"):
        list(read_rows(path, "a", "bad", "strict"))
    with pytest.raises(DataError, match="column 'number' of a is no text but int64"):
        list(read_rows(path, "a", "number", "strict"))
    with pytest.raises(DataError, match="row 1 of a is no conversation"):
        list(read_rows(path, "a", "list", "strict"))


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 64])
def test_text_does_not_depend_on_where_chunks_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("gptcli.data.compression.CHUNK_BYTES", chunk)
    text = "x".join(TEXTS) + "\x00\r\n end"
    path = write(tmp_path, "a.txt", b"\xef\xbb\xbf" + text.encode())
    assert "".join(read_text(path, "a", "strict")) == text


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("chunk", [1, 4, 7, 1 << 18])
def test_bytes_that_are_not_utf8_are_named_by_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, compression: str
) -> None:
    """Python's own decoder of the whole file says where the fault is."""
    monkeypatch.setattr("gptcli.data.compression.CHUNK_BYTES", chunk)
    generator = random.Random(0)
    whole = "ab√日𝄞".encode() * 6
    for bad in (b"\xff", b"\xe6\x97", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf0\x9d\x84"):
        for place in (0, len(whole), generator.randrange(len(whole))):
            content = b"\xef\xbb\xbf" + whole[:place] + bad + whole[place:]
            with pytest.raises(UnicodeDecodeError) as expected:
                content.decode()
            path = write(tmp_path, f"a.txt{compression}", compress(content, compression))
            with pytest.raises(DataError, match=rf"a is not UTF-8 at byte {expected.value.start};"):
                list(read_text(path, "a", "strict"))
            replaced = content.decode(errors="replace").removeprefix("\ufeff")
            assert "".join(read_text(path, "a", "replace")) == replaced


def test_utf16_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="UTF-16: convert it"):
        list(read_text(write(tmp_path, "a.txt", "text".encode("utf-16")), "a", "strict"))


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@pytest.mark.parametrize("fault", ["cut", "flip", "foreign"])
def test_damaged_compression_is_an_error(tmp_path: Path, compression: str, fault: str) -> None:
    content = compress(random.Random(0).randbytes(300).hex().encode(), compression)
    bad = {
        "cut": content[: len(content) * 3 // 4],
        "flip": bytes([content[0] ^ 8]) + content[1:],
        "foreign": b"no archive",
    }[fault]
    with pytest.raises(DataError, match="a is damaged"):
        list(read_text(write(tmp_path, f"a.txt{compression}", bad), "a", "strict"))


def test_arrow_files_of_random_access_are_read_too(tmp_path: Path) -> None:
    table = pa.table({"text": TEXTS * 100})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    assert list(read_rows(tmp_path / "a.arrow", "a", "text", "strict")) == TEXTS * 100


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.zst", "a.arrow"])
def test_a_damaged_file_of_columns_is_an_error(tmp_path: Path, name: str) -> None:
    content = as_arrow(TEXTS)[:-30] if name == "a.arrow" else as_parquet(TEXTS)
    for bad in (compress(content[:-20], Path(name).suffix), compress(content, Path(name).suffix)[:-20]):
        with pytest.raises(DataError, match="a is damaged"):
            list(read_rows(write(tmp_path, name, bad), "a", "text", "strict"))


def test_flipped_bytes_of_an_arrow_file_are_an_error_or_other_rows_and_never_a_crash(tmp_path: Path) -> None:
    generator, faults = random.Random(0), 0
    for content in (as_arrow(TEXTS), as_arrow(["x" * 40] * 3)):
        for _ in range(300):
            damaged = bytearray(content)
            damaged[generator.randrange(len(content))] = generator.randrange(256)
            path = write(tmp_path, "a.arrow", bytes(damaged))
            try:
                assert all(isinstance(text, str) for text in read_rows(path, "a", "text", "replace"))
            except DataError:
                faults += 1
    assert 100 < faults < 600


def test_a_zip_bomb_is_read_in_bounded_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = write(tmp_path, "a.txt.zst", zstandard.compress(b" " * 100_000_000))
    tracemalloc.start()
    assert sum(map(len, read_text(path, "a", "strict"))) == 100_000_000
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        list(read_text(tmp_path, "a", "strict"))
