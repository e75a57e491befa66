"""Decoding of files: every error names its place."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import zstandard

from data_files import COMPRESSIONS, TEXTS, compress, write
from gptcli.data.decoding import Decoding, read_text
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
            with pytest.raises(DataError, match=rf"a is not UTF-8 at byte {expected.value.start}, and "):
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

    path = write(tmp_path, "a.txt.zst", zstandard.compress(b" " * 60_000_000))
    tracemalloc.start()
    assert sum(map(len, read_text(path, "a", Decoding()))) == 60_000_000
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        list(read_text(tmp_path, "a", Decoding()))


def test_files_that_are_not_text_are_refused_before_decoding(tmp_path: Path) -> None:
    """Also within a compression, and where errors would be replaced."""
    for name, content in (("a", b"%PDF-1.7"), ("a.gz", compress(b"\x89PNG\r\n\x1a\n", ".gz")), ("b", b"\0a" * 50)):
        with pytest.raises(DataError, match=r"is (a PDF document|a PNG image|text in UTF-16BE); .*convert it to text"):
            list(read_text(write(tmp_path, name, content), name, Decoding("replace")))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32-le", "cp1252", "gb18030", "shift_jis"])
@pytest.mark.parametrize("chunk", [1, 3, 1 << 18])
def test_other_encodings_are_those_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, chunk: int
) -> None:
    monkeypatch.setattr("gptcli.data.compression.CHUNK_BYTES", chunk)
    text = {"cp1252": "größe, “quoted”\r\n", "shift_jis": "すべて、abc\n"}.get(encoding, "größe 日本語\n") * 30
    path = write(tmp_path, "a.txt", text.encode(encoding))
    assert "".join(read_text(path, "a", Decoding(encoding=encoding))) == text
    with pytest.raises(DataError):
        list(read_text(path, "a", Decoding()))


def test_utf8_is_not_misread_in_another_encoding(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "größe\n".encode() * 20)
    with pytest.raises(
        DataError, match=r"a is UTF-8, and data\.encoding=cp1252 would misread it; .* CP1252 a > a-cp1252$"
    ):
        list(read_text(path, "a", Decoding(encoding="cp1252")))
    plain = write(tmp_path, "b.txt", b"plain ASCII")
    assert list(read_text(plain, "b", Decoding(encoding="cp1252"))) == ["plain ASCII"]
    with pytest.raises(DataError, match=r"a is not CP949 at byte \d+; check data.encoding"):
        list(read_text(write(tmp_path, "a.txt", b"\xff" * 9), "a", Decoding(encoding="cp949")))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_an_unknown_byte_order_is_an_error(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, "a.txt", "größe".encode(f"{encoding}-be"))
    with pytest.raises(DataError, match=f"a has no byte order mark of .*--set data.encoding={encoding}-le or"):
        list(read_text(path, "a", Decoding(encoding=encoding)))


def test_the_error_names_the_probable_encoding_or_the_damage(tmp_path: Path) -> None:
    french = "Le café était fermé à l'été. Où êtes-vous ?\n" * 20
    with pytest.raises(DataError, match=r"and probably text in CP1252 .*--set data.encoding=cp1252, .*iconv -f CP1252"):
        list(read_text(write(tmp_path, "a.txt", french.encode("latin-1")), "a", Decoding()))
    with pytest.raises(DataError, match=r"and UTF-8 elsewhere; .*encoding_errors=replace"):
        list(read_text(write(tmp_path, "a.txt", french.encode() + b"\xff" + french.encode()), "a", Decoding()))
    for content in (b"\x8b\x02\x80hello\x03", bytes(range(128))):
        with pytest.raises(DataError, match=r"(probably|is) compressed by brotli; .*brotli -dc a\.br"):
            list(read_text(write(tmp_path, "a.br", content), "a.br", Decoding()))
    noise = bytes(byte for byte in random.Random(0).randbytes(4000) if byte >= 128)
    with pytest.raises(DataError, match=r"and in no encoding that is recognised; .*data.encoding=NAME"):
        list(read_text(write(tmp_path, "a.txt", noise), "a", Decoding()))


@pytest.mark.parametrize("chunk", [1, 5, 1 << 18])
def test_replaced_characters_of_a_file_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("gptcli.data.compression.CHUNK_BYTES", chunk)
    content = b"a\xffb\xe6\x97c" + "\ufffd日".encode() + b"\xf0\x9d"
    decoding = Decoding("replace")
    text = "".join(read_text(write(tmp_path, "a.txt", content), "a", decoding))
    assert text == content.decode(errors="replace") and decoding.replaced == text.count("\ufffd") - 1


def test_many_nul_bytes_are_counted_wherever_they_are(tmp_path: Path) -> None:
    text = b"Once upon a time.\n" * 10_000
    assert sum(map(len, read_text(write(tmp_path, "a.txt", text + b"\0" * 100), "a", Decoding()))) == len(text) + 100
    with pytest.raises(DataError, match=r"a is not text: 300 of its 180,300 bytes are NUL; convert it to text: tr -d"):
        list(read_text(write(tmp_path, "a.txt", text + b"\0" * 300), "a", Decoding()))


def test_compression_is_recognised_whatever_the_name(tmp_path: Path) -> None:
    for compression in COMPRESSIONS[1:]:
        content = compress(b"text" * 1000, compression)
        assert "".join(read_text(write(tmp_path, "a.txt", content), "a", Decoding())) == "text" * 1000
        other = ".zst" if compression == ".gz" else ".gz"
        assert "".join(read_text(write(tmp_path, f"a{other}", content), "a", Decoding())) == "text" * 1000
        with pytest.raises(DataError, match=r"a is damaged: it does not begin as a \.\w+ file does; .*rename it"):
            list(read_text(write(tmp_path, f"b.txt{compression}", b"text"), "a", Decoding()))
        assert list(read_text(write(tmp_path, f"c.txt{compression}", b""), "a", Decoding())) == []
