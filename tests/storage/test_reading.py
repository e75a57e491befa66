"""Only regular files are opened, no opening waits, and nothing is read without a bound."""

from __future__ import annotations

import io
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gptcli.errors import StorageError
from gptcli.storage import UnsuitableFileError, open_regular, read_at_most, read_named, read_regular, storage_errors


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # the names of sockets are short


OTHERS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a directory": Path.mkdir,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_path_that_is_not_a_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    OTHERS[kind](tmp_path / "file")
    for read in (open_regular, read_regular):
        with pytest.raises(UnsuitableFileError, match=f"it is {kind}, not a regular file"):
            read(tmp_path / "file")
    with (
        pytest.raises(StorageError, match=f"cannot read .*file: it is {kind}"),
        storage_errors(tmp_path / "file", "read"),
    ):
        read_regular(tmp_path / "file")


def test_links_lead_to_regular_files_or_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "target").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "circle").symlink_to("circle")
    assert read_regular(tmp_path / "link") == b"abc"
    monkeypatch.chdir(tmp_path)
    make_socket(tmp_path / "socket")
    for name in ("circle", "socket", "nothing"):
        with pytest.raises(OSError):
            read_regular(tmp_path / name)


def test_a_file_may_have_as_many_bytes_as_the_bound_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3_000_000))
    assert read_regular(path, 3_000_000) == read_named(path, 3_000_000) == bytes(3_000_000)
    for read in (read_regular, read_named):
        with pytest.raises(UnsuitableFileError, match="larger than 2,999,999 bytes"):
            read(path, 2_999_999)
    assert read_at_most(io.BytesIO(b"abc"), 3) == b"abc"
    with pytest.raises(UnsuitableFileError):
        read_at_most(io.BytesIO(b"abc"), 2)


def test_a_device_that_the_user_names_is_read_up_to_the_bound_and_a_pipe_to_its_end(tmp_path: Path) -> None:
    with pytest.raises(UnsuitableFileError, match="larger than 1,000 bytes"):
        read_named(Path("/dev/zero"), 1000)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"from a pipe",))
    writer.start()
    assert read_named(pipe) == b"from a pipe"
    writer.join()
