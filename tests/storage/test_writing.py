"""Nothing is written, emptied or removed through a link."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gptcli.errors import StorageError
from gptcli.storage import (
    allocate,
    append_file,
    atomic_directory,
    atomic_file,
    copy_file,
    copy_tree,
    create_file,
    create_text_file,
    make_directory,
    open_nofollow,
    publish,
    remove_tree,
    write_atomic,
    write_file,
)


def with_file(path: Path) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("new")


def with_directory(path: Path) -> None:
    with atomic_directory(path) as folder:
        (folder / "part").write_text("new")


def published(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("new")
    publish(other, path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "write_atomic": lambda path: write_atomic(path, "new"),
    "atomic_file": with_file,
    "atomic_directory": with_directory,
    "publish": published,
    "append_file": lambda path: append_file(path).write(b"new"),
    "create_file": lambda path: create_file(path).write(b"new"),
    "create_text_file": lambda path: create_text_file(path).write("new"),
    "write_file": lambda path: write_file(path, "new"),
    "copy_file": lambda path: copy_file(Path(__file__), path),
    "open_nofollow": lambda path: open_nofollow(path, os.O_RDWR | os.O_CREAT),
    "make_directory": make_directory,
}


def content_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("target", ["file", "folder", "nothing", "itself"])
@pytest.mark.parametrize("name", WRITERS)
def test_no_writer_follows_a_link_and_its_remedy_works(tmp_path: Path, name: str, target: str) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside of it"
    (outside / "folder").mkdir(parents=True)
    inside.mkdir()
    (outside / "file").write_text("theirs")
    (outside / "folder" / "part").write_text("theirs")
    before = content_below(outside)
    link = inside / "name"
    link.symlink_to(link if target == "itself" else outside / target)
    with pytest.raises(StorageError, match="is a symbolic link to") as error:
        WRITERS[name](link)
    assert content_below(outside) == before and os.path.lexists(link)
    command = error.value.remedy.partition(": ")[2]
    subprocess.run(["sh", "-c", command], check=True)
    assert not link.is_symlink() and content_below(outside) == before
    if target in ("file", "folder"):
        assert link.exists()


@pytest.mark.parametrize(
    "name", sorted(WRITERS.keys() - {"create_file", "create_text_file", "write_file", "copy_file"})
)
def test_a_pipe_is_neither_replaced_nor_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="not a regular file; remove it"):
        WRITERS[name](tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)


def test_the_directory_itself_may_be_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    write_atomic(tmp_path / "run" / "text", "x")
    append_file(tmp_path / "run" / "log").close()
    with_directory(tmp_path / "run" / "folder")
    make_directory(tmp_path / "run" / "deep" / "folder")
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["deep", "folder", "log", "text"]


def test_removing_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "part").write_text("theirs")
    tree = tmp_path / "tree"
    tree.mkdir()
    for link in (tmp_path / "link", tree / "link"):
        link.symlink_to(tmp_path / "outside")
    remove_tree(tmp_path / "link")
    remove_tree(tree)
    remove_tree(tmp_path / "nothing")
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (tmp_path / "outside" / "part").read_text() == "theirs"


def test_a_copied_tree_has_the_content_but_the_permissions_of_new_files(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "deep").mkdir(parents=True)
    target.mkdir()
    (source / "a").write_bytes(b"a")
    (source / "deep" / "b").write_bytes(b"b")
    (source / "a").chmod(0o644)
    before = os.umask(0o077)
    try:
        copy_tree(source, target)
    finally:
        os.umask(before)
    assert content_below(target) == content_below(source)
    assert {path.stat().st_mode & 0o077 for path in target.rglob("*")} == {0}


@pytest.mark.parametrize("error", [None, errno.EOPNOTSUPP, errno.EINVAL])
def test_room_is_allocated_on_file_systems_that_can_and_that_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    def unable(descriptor: int, start: int, size: int) -> None:
        raise OSError(error, "")

    if error is not None:
        monkeypatch.setattr(os, "posix_fallocate", unable)
    with create_file(tmp_path / "file") as file:
        allocate(file, 3_000_001)
    found = (tmp_path / "file").stat()
    assert found.st_size == 3_000_001 and found.st_blocks * 512 >= 3_000_001
    assert not any((tmp_path / "file").read_bytes())
