"""An export appears at its place when it is whole, whatever the place is and whenever it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptcli.errors import CheckpointError
from gptcli.interop.staging import foreign_name, staged_directory, staged_file

KILLED = """
import os, signal, sys
from pathlib import Path
from gptcli.interop import staging
moves, moved, publish = int(sys.argv[2]), [], staging.publish
def counted(temporary, path):
    if len(moved) == moves:
        os.kill(os.getpid(), signal.SIGKILL)
    moved.append(path)
    publish(temporary, path)
staging.publish = counted
with staging.staged_directory(Path(sys.argv[1]), "config.json") as folder:
    for name in ("README.md", "config.json", "weights"):
        (folder / name).write_text(name)
    if moves < 0:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def fill(folder: Path) -> None:
    for name in ("config.json", "weights"):
        (folder / name).write_text("new")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("place", ["absent", "deep/absent", "empty", "link to empty", "link to nothing"])
def test_a_directory_is_written_where_the_user_says(tmp_path: Path, place: str) -> None:
    out = tmp_path / place
    if place == "empty":
        out.mkdir(mode=0o750)
    elif place.startswith("link"):
        (tmp_path / "target").mkdir(exist_ok=True)
        out.symlink_to(tmp_path / "target" / ("" if place == "link to empty" else "new"))
    before = out.stat() if out.exists() else None
    with staged_directory(out, "config.json") as folder:
        fill(folder)
        assert not (out / "config.json").exists()
    assert names_in(out) == ["config.json", "weights"]
    assert out.is_symlink() == place.startswith("link")
    if before is not None:
        assert (out.stat().st_ino, out.stat().st_mode) == (before.st_ino, before.st_mode)
    assert not [path for path in tmp_path.rglob("*") if ".tmp-" in path.name]


@pytest.mark.parametrize("moves", [-1, 0, 1, 2])
def test_an_export_into_a_directory_that_is_there_is_finished_or_begun_again_after_a_kill(
    tmp_path: Path, moves: int
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert subprocess.run([sys.executable, "-c", KILLED, str(out), str(moves)], check=False).returncode == -9
    assert not (out / "config.json").exists()
    if moves < 0:
        assert foreign_name(out) is None and names_in(out) == []
    else:
        assert foreign_name(out) == "README.md"
        assert {name: (out / name).read_text() for name in names_in(out)} == {
            name: name for name in ("README.md", "config.json", "weights")
        }


def test_what_a_killed_export_left_beside_a_new_directory_is_removed_by_the_next(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert subprocess.run([sys.executable, "-c", KILLED, str(out), "-1"], check=False).returncode == -9
    assert len(names_in(tmp_path)) == 1 and not out.exists()
    with staged_directory(out, "config.json") as folder:
        fill(folder)
    assert names_in(tmp_path) == ["out"] and names_in(out) == ["config.json", "weights"]


def test_a_second_export_that_is_being_written_is_not_taken_for_left_over(tmp_path: Path) -> None:
    with staged_directory(tmp_path, "config.json") as folder:
        assert foreign_name(tmp_path) == folder.name


def test_files_beside_a_staged_file_go_with_it_and_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "model.onnx").write_text("old")
    (tmp_path / "model.onnx").symlink_to(tmp_path / "disk" / "model.onnx")
    with staged_file(tmp_path / "model.onnx") as temporary:
        temporary.write_text("new")
        (temporary.parent / "model.onnx.data").write_text("weights")
    assert os.path.islink(tmp_path / "model.onnx")
    assert {name: (tmp_path / "disk" / name).read_text() for name in names_in(tmp_path / "disk")} == {
        "model.onnx": "new",
        "model.onnx.data": "weights",
    }


def test_errors_name_the_place_that_the_user_has_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(CheckpointError) as error, staged_directory(out, "config.json") as folder:
        raise CheckpointError(f"{folder} does not compute the same", f"do not use {folder}")
    assert str(error.value) == f"{out} does not compute the same; do not use {out}"
    assert names_in(tmp_path) == []
