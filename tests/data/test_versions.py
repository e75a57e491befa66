"""Versions of the files of a corpus: every change of the content is noticed, even if size and time stay the same."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from gptcli.data import versions
from gptcli.data.config import DataConfig
from gptcli.data.file_formats import SourceFile
from gptcli.data.scan import scan_texts
from gptcli.data.versions import is_settled, look_at, require_same
from gptcli.data.workspace import Workspace
from gptcli.errors import DataError

SIZES = ["hashed", "large"]


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the corpora of the test are small enough to be hashed."""
    if request.param == "large":
        monkeypatch.setattr(versions, "HASHED_BYTES", 0)
    return request.param


def put_back(path: Path, status: os.stat_result) -> None:
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def edit_in_place(path: Path, content: bytes) -> None:
    """Edit a file without a change of its size, and restore its time."""
    status = path.stat()
    path.write_bytes(content)
    put_back(path, status)


def edit_by_rename(path: Path, content: bytes) -> None:
    """Replace a file as `rsync -t` does."""
    status = path.stat()
    path.with_name("other").write_bytes(content)
    put_back(path.with_name("other"), status)
    path.with_name("other").replace(path)


def texts_of(sources: list[Path], cache: Path, **settings: object) -> set[str]:
    found = scan_texts([str(path) for path in sources], Workspace(DataConfig(**settings), cache))
    return {*found.train_texts(), *found.val_texts()}


@pytest.mark.parametrize("edit", [edit_in_place, edit_by_rename])
def test_an_edit_of_equal_size_whose_time_is_put_back_is_noticed(tmp_path: Path, size: str, edit) -> None:
    paths = [tmp_path / f"{name}.txt" for name in "abc"]
    for path in paths:
        path.write_text(f"the old text {path.name}")
    assert "the old text b.txt" in texts_of(paths[:2], tmp_path / "cache", val=str(paths[2]))
    for path in paths[1:]:  # one to train on and the one to validate on
        edit(path, f"the NEW text {path.name}".encode())
    expected = {"the old text a.txt", "the NEW text b.txt", "the NEW text c.txt"}
    assert texts_of(paths[:2], tmp_path / "cache", val=str(paths[2])) == expected


def test_an_archive_that_is_replaced_is_noticed(tmp_path: Path, size: str) -> None:
    archive = tmp_path / "texts.zip"

    def write(text: str) -> bytes:
        with zipfile.ZipFile(tmp_path / "new.zip", "w") as file:
            file.writestr("one.txt", text)
            file.writestr("two.txt", "another text")
        return (tmp_path / "new.zip").read_bytes()

    archive.write_bytes(write("the old text"))
    texts_of([archive], tmp_path / "cache")
    edit_by_rename(archive, write("the NEW text"))
    assert "the NEW text" in texts_of([archive], tmp_path / "cache")


def test_a_small_corpus_whose_files_are_touched_or_moved_in_place_is_the_same_version(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a text")
    before = look_at([SourceFile(path, "a")])
    os.utime(path)
    edit_by_rename(path, b"a text")
    assert look_at([SourceFile(path, "a")]) == before
    assert is_settled(before, 0) is False and is_settled(before, 3_000_000_000)


def test_what_is_read_must_be_the_same_at_the_end(tmp_path: Path, size: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a text")
    found = look_at([SourceFile(path, "a")])
    require_same(found)
    edit_in_place(path, b"b text")
    with pytest.raises(DataError, match="a changed while it was being read"):
        require_same(found)


def test_a_file_that_cannot_be_hashed_has_the_version_of_its_status(tmp_path: Path) -> None:
    archive = tmp_path / "texts.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("one.txt", "some text " * 100)
    content = bytearray(archive.read_bytes())
    content[42] ^= 0xFF  # within the compressed text
    archive.write_bytes(bytes(content))
    (found,) = look_at([SourceFile(archive / "one.txt", "one")])
    assert found.version.startswith("inode") and found.size == 1000
