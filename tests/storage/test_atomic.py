"""Files and directories are whole or absent."""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import tempfile
from pathlib import Path

import pytest

from gptcli.errors import Stopped, StorageError
from gptcli.storage import append_file, atomic_directory, atomic_file, sha256_file, write_atomic


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


def test_an_error_of_any_class_names_the_directory_that_the_user_knows(tmp_path: Path) -> None:
    with pytest.raises(Stopped) as error, atomic_directory(tmp_path / "made") as folder:
        raise Stopped(f"stopped while writing {folder}", signal.SIGTERM, f"write {folder} again")
    assert str(error.value) == f"stopped while writing {tmp_path / 'made'}; write {tmp_path / 'made'} again"
    assert (error.value.exit_code, error.value.signum) == (143, signal.SIGTERM)
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


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_that_the_umask_leaves_whatever_a_library_gives(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "text", "x")
        with atomic_file(tmp_path / "model") as temporary:
            private = Path(tempfile.mkstemp(dir=temporary.parent)[1])  # 0600, and renamed, as safetensors does
            private.replace(temporary)
        with atomic_directory(tmp_path / "folder") as folder:
            (folder / "inner").mkdir(mode=0o700)
            (folder / "inner" / "part").touch(mode=0o600)
            (folder / "loose").write_text("x")
            (folder / "loose").chmod(0o777)
        append_file(tmp_path / "log").close()
    finally:
        os.umask(before)
    found = {str(path.relative_to(tmp_path)): mode_of(path) for path in tmp_path.rglob("*")}
    files, folders = 0o666 & ~mask, 0o777 & ~mask
    names = ("text", "model", "folder/inner/part", "folder/loose", "log")
    assert found == dict.fromkeys(names, files) | {"folder": folders, "folder/inner": folders}


def test_a_library_sees_the_real_name_and_what_it_leaves_beside_the_file_goes(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "model.bin") as temporary:
        assert temporary.name == "model.bin"
        (temporary.parent / ".tmpAbC").write_text("of a library")
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


def test_a_log_with_a_second_name_becomes_a_copy_before_it_grows(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("one\n")
    os.link(tmp_path / "log", tmp_path / "backup")
    with append_file(tmp_path / "log") as log:
        log.write(b"two\n")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    assert (tmp_path / "backup").read_text() == "one\n"


def test_an_error_in_a_directory_names_the_path_that_it_was_to_have_and_the_room_that_it_took(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as error, atomic_directory(tmp_path / "made") as folder:
        (folder / "part").write_bytes(bytes(10_000))
        raise OSError(errno.ENOSPC, "No space left on device")
    assert re.search(
        r"cannot write \S+/made: No .* \(it needs more than 1\d,\d{3} bytes, [\d,]+ are free\)", str(error.value)
    )
    with pytest.raises(StorageError) as error, atomic_directory(tmp_path / "made") as folder:
        os.symlink("nowhere", folder / "part")
        write_atomic(folder / "part", "x")
    assert str(error.value).startswith(f"{tmp_path}/made/part is a symbolic link") and not list(tmp_path.iterdir())
