"""Files that are not text are recognised by their first bytes, and texts are never mistaken for them."""

from __future__ import annotations

import io
import lzma
import pickle
import shlex
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from data_files import as_arrow, as_parquet, compress
from gptcli.data.filetypes import SIGNATURES, UNMISTAKABLE, file_type, not_text_error

PROSE = {
    "english": "Once upon a time, there was a fox.\nIt ran. " * 20,
    "russian": "Все люди рождаются свободными и равными, сказал он.\n" * 20,
    "chinese": "人人生而自由，在尊严和权利上一律平等。\n一二三四五六七八九十。" * 20,
    "japanese": "すべての人間は、生まれながらにして自由であり。\n" * 20,
}
WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")


@pytest.mark.parametrize("language", list(PROSE))
@pytest.mark.parametrize("encoding", WIDE)
def test_utf16_and_utf32_are_distinguished_with_and_without_a_byte_order_mark(language: str, encoding: str) -> None:
    kind = file_type(PROSE[language].encode(encoding)[:1000])
    assert kind is not None and kind.encoding == encoding


@pytest.mark.parametrize("encoding", WIDE)
def test_the_command_for_another_encoding_makes_the_text(tmp_path: Path, encoding: str) -> None:
    name = "my notes' $(x).txt"
    (tmp_path / name).write_bytes(PROSE["russian"].encode(encoding))
    kind = file_type((tmp_path / name).read_bytes())
    assert kind is not None
    command = not_text_error(name, kind).remedy.partition("convert it to text: ")[2]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert (tmp_path / "my notes' $(x)-text.txt").read_text(encoding="utf-8").removeprefix("\ufeff") == PROSE["russian"]


@pytest.mark.parametrize("text", [*PROSE.values(), "", "x", "a\0b", "\x1b[1mbold\x1b[0m\n" * 50, "N\bNA\bAM\bM\f" * 99])
def test_a_text_is_no_other_file(text: str) -> None:
    assert file_type(text.encode()) is None
    assert file_type(text.encode("utf-16-le"), "utf-16-le") is None


@pytest.mark.parametrize("mark", [mark for mark in SIGNATURES if mark.isascii() and mark.decode().isprintable()])
def test_a_text_may_begin_with_the_name_of_a_format(mark: bytes) -> None:
    text = mark.decode() + " is how such a file begins.\n"
    kind = file_type(text.encode())
    assert kind is None or mark in UNMISTAKABLE


def database() -> bytes:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table texts (text)")
        return connection.serialize()


def array() -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros(3))
    return out.getvalue()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return out.getvalue()


FILES = {
    "a PDF document": b"%PDF-1.7\n1 0 obj",
    "an RTF document": b"{\\rtf1\\ansi Hello \\b world\\b0}",
    "a PostScript document": b"%!PS-Adobe-3.0\n",
    "a JPEG image": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "a PNG image": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "a GIF image": b"GIF89a\1\0\1\0\0\0",
    "a WebP image": b"RIFF\x24\0\0\0WEBPVP8 ",
    "an MP3 recording": b"ID3\3\0\0\0\0",
    "an MP4 or HEIC file": b"\0\0\0\x18ftypmp42",
    "an old Microsoft Office document": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0",
    "a 7z archive": b"7z\xbc\xaf\x27\x1c\0\4",
    "a RAR archive": b"Rar!\x1a\x07\1\0",
    "compressed by xz": lzma.compress(b"x"),
    "compressed by gzip": compress(b"x", ".gz"),
    "compressed by bzip2": compress(b"x", ".bz2"),
    "compressed by zstd": compress(b"x" * 9, ".zst"),
    "compressed by lz4": b"\x04\x22\x4d\x18\x64\x40",
    "a Python pickle": pickle.dumps({"a": [1]}),
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "an SQLite database": database(),
    "a NumPy array": array(),
    "a tar archive": tar(),
    "a safetensors file": safetensors.numpy.save({"a": np.zeros(3)}),
    "a Parquet file": as_parquet(["x"]),
    "an ELF program": Path(sys.executable).resolve().read_bytes()[:8192],
}


@pytest.mark.parametrize("what", list(FILES))
def test_types_of_files_that_are_not_text_are_recognised(what: str) -> None:
    kind = file_type(FILES[what])
    assert kind is not None and kind.what == what
    assert "encoding_errors" not in str(not_text_error("a", kind))


def test_bytes_without_a_signature_are_counted() -> None:
    kind = file_type(bytes(range(128)) * 10)
    assert kind is not None and "not text: 260 of its first 1,280 bytes are control characters" in kind.what
    assert file_type(as_arrow(["x"] * 5)) is not None


@pytest.mark.parametrize("name", ["a b.pdf", "-", "x/y's.pdf.gz", "noending"])
def test_commands_are_quoted_for_the_shell(name: str) -> None:
    kind = file_type(b"%PDF-1.7")
    assert kind is not None
    command = not_text_error(name, kind, is_packed=name.endswith(".gz")).remedy.partition("convert it to text: ")[2]
    program, source, target = shlex.split(command)
    expected = {"-": ("FILE", "FILE-text.txt"), "x/y's.pdf.gz": ("x/y's.pdf", "x/y's.txt")}
    default = (name, name.replace(".pdf", ".txt") if "." in name else f"{name}-text.txt")
    assert program == "pdftotext" and (source, target) == expected.get(name, default)
