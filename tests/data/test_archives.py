"""Members of zip archives are read like files of a folder, in bounded memory, and nothing in an archive is trusted."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from data_files import as_parquet, compress
from gptcli.data import archives, compression
from gptcli.data.archives import members, open_file
from gptcli.data.config import DataConfig
from gptcli.data.corpus import corpus_documents
from gptcli.errors import DataError


def write_zip(path: Path, content: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def texts(source: Path, **config: object) -> dict[str, str]:
    """Return the documents of a source by the names of their files; the last one if a file has several."""
    documents = corpus_documents([str(source)], DataConfig.model_validate(config), source.parent / "cache")
    return {document.source.removeprefix(f"{source}/"): document.text for document in documents}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_are_files_of_a_folder(tmp_path: Path, method: int, capsys: pytest.CaptureFixture[str]) -> None:
    content = {
        "one.txt": "größe".encode(),
        "part/two.md": b"two",
        "part/deep/rows.jsonl": b'{"text": "row"}\n',
        "columns.parquet": as_parquet(["column"]),
        "packed.txt.gz": compress(b"packed twice", ".gz"),
        "README": b"read me",
        "../../outside.txt": b"nowhere",
        "/absolute.txt": b"relative",
        "picture.png": b"\x89PNG\r\n\x1a\n",
        "inner.zip": b"PK\5\6" + bytes(18),
        ".hidden.txt": b"hidden",
    }
    path = write_zip(tmp_path / "a.zip", content, method)
    found = texts(path)
    assert found == {
        "README": "read me",
        "absolute.txt": "relative",
        "columns.parquet": "column",
        "one.txt": "größe",
        "packed.txt.gz": "packed twice",
        "part/deep/rows.jsonl": "row",
        "part/two.md": "two",
    }
    assert (
        "outside.txt: its name leads out of the archive), 2 of other kinds (1 .zip, 1 .png), 1 hidden"
        in capsys.readouterr().err
    )
    assert list(texts(path, include=("part/**",))) == ["part/deep/rows.jsonl", "part/two.md"]
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip"}, "nothing is unpacked"


def test_an_archive_in_a_folder_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write_zip(tmp_path / "folder" / "a.ZIP", {"x.txt": b"x", "y.txt": b"y"})
    assert texts(tmp_path / "folder") == {"a.ZIP/x.txt": "x", "a.ZIP/y.txt": "y"}
    assert texts(tmp_path / "folder", exclude=("a.ZIP/y.txt",)) == {"a.ZIP/x.txt": "x"}


def altered(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def test_an_error_names_an_encrypted_member(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_zip(tmp_path / "a.zip", {"secret.txt": b"x" * 50, "open.txt": b"open"})
    altered(path, lambda content: content.replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0", 1))
    assert texts(path) == {"open.txt": "open"}
    assert "secret.txt: it is encrypted" in capsys.readouterr().err


def test_a_damaged_member_is_left_out_and_a_damaged_archive_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.txt": b"first text", "b.txt": b"second text"}, zipfile.ZIP_STORED)
    altered(path, lambda content: content.replace(b"first", b"fjrst"))
    assert texts(path) == {"b.txt": "second text"}
    assert "a.txt: it is damaged: Bad CRC-32" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"a\.zip is damaged: File is not a zip file"):
        texts(altered(path, lambda content: content[:-40]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_with_the_same_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for text in ("one", "two"):
            archive.writestr("a.txt", text)
    assert [member.refusal for member in members(tmp_path / "a.zip", "a")] == [
        "its name occurs twice in the archive"
    ] * 2


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_a_compressed_file_that_expands_beyond_reason_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    pytest.importorskip("zstandard")
    monkeypatch.setattr(compression, "MAX_CONTENT_BYTES", 1 << 20)
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(compress(b"abcd" * (1 << 18), ending))
    assert sum(map(len, compression.read_bytes(path, "a"))) == 1 << 20
    path.write_bytes(compress(b"abcd" * (1 << 18) + b"e", ending))
    with pytest.raises(DataError, match="a expands to more than 1,048,576 bytes"):
        list(compression.read_bytes(path, "a"))
    path.write_bytes(compress(random.Random(0).randbytes(1 << 20) + b"e", ending))  # large, but not for what it takes
    assert sum(map(len, compression.read_bytes(path, "a"))) == (1 << 20) + 1


def test_an_archive_that_expands_beyond_reason_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_CONTENT_BYTES", 1 << 20)
    path = write_zip(tmp_path / "bomb.zip", {f"{number}.txt": bytes(1 << 19) for number in range(8)})
    with pytest.raises(DataError, match="would expand to 4,194,304 bytes, more than 200 times its size"):
        texts(path)
    write_zip(path, {"a.txt": b"x" * 100}, zipfile.ZIP_STORED)
    directory = path.read_bytes().index(b"PK\1\2")
    sizes = (5000).to_bytes(4, "little")
    altered(path, lambda content: content[: directory + 20] + sizes + content[directory + 24 :])
    with pytest.raises(DataError, match="its members overlap"):
        texts(path)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("word/document.xml", "a Word document; convert it to text: pandoc -t plain"),
        ("xl/workbook.xml", "an Excel workbook"),
        ("META-INF/container.xml", "an EPUB book"),
        ("archive/data.pkl", "a PyTorch checkpoint"),
        ("arr_0.npy", "a NumPy archive"),
    ],
)
def test_documents_in_the_form_of_archives_are_recognised(tmp_path: Path, name: str, what: str) -> None:
    path = write_zip(tmp_path / "a file", {name: b"<xml/>", "other.txt": b"text"})
    with pytest.raises(DataError, match=f"a file is {what}"):
        texts(path)


def test_a_file_below_a_file_that_is_no_archive_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({}))
    with pytest.raises(NotADirectoryError):
        open_file(tmp_path / "a.json" / "b.txt")
    with pytest.raises(FileNotFoundError):
        open_file(write_zip(tmp_path / "a.zip", {"a.txt": b""}) / "b.txt")
