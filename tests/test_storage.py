"""Files and directories are whole or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gptcli.errors import StorageError
from gptcli.storage import TEMPORARY_MARK, atomic_directory, atomic_file, clean_temporaries, sha256_file, write_atomic


def test_a_written_file_holds_the_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "deep" / "file", b"one")
    write_atomic(tmp_path / "deep" / "file", "two")
    assert [path.read_bytes() for path in (tmp_path / "deep").iterdir()] == [b"two"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "file", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"needs 3 bytes, [\d,]+ are free\); free some disk space"):
        write_atomic(tmp_path / "file", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def test_a_directory_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_directory(tmp_path / "made") as folder:
        (folder / "part").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with atomic_directory(tmp_path / "made") as folder:
        (folder / "part").write_text("x")
        assert not (tmp_path / "made").exists()
    assert (tmp_path / "made" / "part").read_text() == "x"


def test_a_directory_is_replaced_by_the_new_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with atomic_directory(tmp_path / "made") as folder:
            (folder / text).write_text(text)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["new"]


def test_only_the_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    mine = tmp_path / f"a{TEMPORARY_MARK}{os.getpid()}-00"
    dead = tmp_path / f"b{TEMPORARY_MARK}{2**22 + 1}-00"  # above the largest process number of Linux
    mine.mkdir()
    dead.mkdir()
    (dead / "part").write_text("x")
    assert clean_temporaries(tmp_path) == [dead]
    assert mine.exists() and not dead.exists()


def test_the_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_file_written_by_another_program_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.bin"
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert not list(path.parent.iterdir())
    with atomic_file(path) as temporary:
        temporary.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole" and list(path.parent.iterdir()) == [path]
    with pytest.raises(StorageError, match=r"cannot write .*model\.bin"), atomic_file(path) as temporary:
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_bytes() == b"whole" and list(path.parent.iterdir()) == [path]
