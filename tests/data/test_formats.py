"""Decoding files: every fault names its place."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import zstandard

from data_files import COMPRESSIONS, TEXTS, compress, write
from gptcli.data.formats import Decoding, read_text
from gptcli.errors import DataError, StorageError


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 64])
def test_text_does_not_depend_on_where_chunks_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("gptcli.data.compression.CHUNK_BYTES", chunk)
    text = "x".join(TEXTS) + "\x00\r\n end"
    path = write(tmp_path, "a.txt", b"\xef\xbb\xbf" + text.encode())
    assert "".join(read_text(path, "a", Decoding())) == text


@pytest.mark.parametrize("compression", COMPRESSIONS)
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
                list(read_text(path, "a", Decoding()))
            replaced = content.decode(errors="replace").removeprefix("\ufeff")
            assert "".join(read_text(path, "a", Decoding("replace"))) == replaced


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
@pytest.mark.parametrize("fault", ["cut", "flip", "foreign"])
def test_damaged_compression_is_an_error(tmp_path: Path, compression: str, fault: str) -> None:
    content = compress(random.Random(0).randbytes(300).hex().encode(), compression)
    bad = {
        "cut": content[: len(content) * 3 // 4],
        "flip": bytes([content[0] ^ 8]) + content[1:],
        "foreign": b"no archive",
    }[fault]
    with pytest.raises(DataError, match="a is damaged"):
        list(read_text(write(tmp_path, f"a.txt{compression}", bad), "a", Decoding()))


def test_a_zip_bomb_is_read_in_bounded_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = write(tmp_path, "a.txt.zst", zstandard.compress(b" " * 100_000_000))
    tracemalloc.start()
    assert sum(map(len, read_text(path, "a", Decoding()))) == 100_000_000
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        list(read_text(tmp_path, "a", Decoding()))
