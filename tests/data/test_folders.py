"""The files of a folder that are read, and those that are left out and why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gptcli.data.folders import FileFilter, Walk, walk_folder, walk_glob
from gptcli.data.left_out import LeftOut, warn_of_unused


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    names = (
        "a.txt", "README", "chapter.1", "A.TXT.GZ", "rows.JSONL", "picture.png", "model.bin.gz", ".hidden.txt",
        ".git/config.txt", ".github/guide.md", "drafts/x.txt", "drafts/deep/y.md", "sub/a.txt", "sub/drafts/z.txt",
    )  # fmt: skip
    for name in names:
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    return tmp_path / "tree"


def relative(walk: Walk, tree: Path) -> list[str]:
    return [path.relative_to(tree).as_posix() for path in walk.files]


def reasons(walk: Walk, tree: Path) -> dict[str, str]:
    return {name.removeprefix(f"{tree}/"): reason for name, reason, _ in walk.left_out}


def test_endings_decide_and_files_without_one_are_read(tree: Path) -> None:
    walk = walk_folder(tree, FileFilter())
    assert relative(walk, tree) == [
        "A.TXT.GZ", "README", "a.txt", "chapter.1", "rows.JSONL",
        "drafts/x.txt", "drafts/deep/y.md", "sub/a.txt", "sub/drafts/z.txt",
    ]  # fmt: skip
    assert reasons(walk, tree) == {
        ".git/": "hidden",
        ".github/": "hidden",
        ".hidden.txt": "hidden",
        "picture.png": "another kind of file, by its ending .png",
        "model.bin.gz": "another kind of file, by its ending .bin",
    }


@pytest.mark.parametrize(
    ("include", "exclude", "read"),
    [
        (["*.md"], [], ["drafts/deep/y.md"]),
        (["*.png", "/a.txt"], [], ["a.txt", "picture.png"]),
        (["drafts/**/*.md"], [], ["drafts/deep/y.md"]),
        (["sub/**"], ["drafts"], ["sub/a.txt"]),
        ([], ["drafts", "*.GZ", "/a.txt", "README", "*.JSONL"], ["chapter.1", "sub/a.txt"]),
        ([], ["/drafts/", "sub/*.txt", "[A-Zr]*", "chapter.?"], ["a.txt", "sub/drafts/z.txt"]),
        ([".github/*.md", ".hidden.txt"], [], [".hidden.txt", ".github/guide.md"]),
        (["*.txt", "!drafts/**"], ["sub"], ["a.txt"]),
    ],
)
def test_patterns_are_those_of_gitignore(tree: Path, include: list[str], exclude: list[str], read: list[str]) -> None:
    assert relative(walk_folder(tree, FileFilter(include, exclude)), tree) == read


def test_linked_folders_are_read_once_and_nothing_else_than_files_is_named(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "e.txt").write_text("text")
    for name, target in (("linked", tmp_path / "elsewhere"), ("again", tmp_path / "elsewhere"), ("up", tmp_path)):
        (tree / name).symlink_to(target)
    (tree / "self.txt").symlink_to("self.txt")
    (tree / "gone.txt").symlink_to("nowhere")
    (tree / "zero.txt").symlink_to("/dev/zero")
    os.mkfifo(tree / "pipe.txt")
    walk = walk_folder(tree, FileFilter())
    assert [name for name in relative(walk, tree) if "e.txt" in name] == ["again/e.txt"]
    found = reasons(walk, tree)
    assert found["linked/"] == f"the same folder as {tree}/again"
    assert found["up/"] == "a link to a folder that holds this one"
    assert found["self.txt"] == found["gone.txt"] == "a link to nothing, or to itself"
    assert found["pipe.txt"] == found["zero.txt"] == "a pipe, a socket or a device"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("pattern", ["**/*.txt", "**", "*/**/*.txt"])
def test_links_in_circles_end(tree: Path, pattern: str) -> None:
    for name in ("one", "two", "sub/three"):
        (tree / name).symlink_to(tree)
    files = relative(walk_glob(f"{tree}/{pattern}", (), ()), tree)
    assert len(files) == len(set(files)) and "sub/a.txt" in files and not any("one" in name for name in files)


@pytest.mark.parametrize(
    ("pattern", "read"),
    [
        ("*.png", ["picture.png"]),
        ("[ab]*", ["a.txt"]),
        ("s*", ["sub/a.txt", "sub/drafts/z.txt"]),
        ("**/*.md", ["drafts/deep/y.md"]),
        (".h*", [".hidden.txt"]),
        ("nothing*", []),
    ],
)
def test_a_glob_names_files_whatever_their_endings(tree: Path, pattern: str, read: list[str]) -> None:
    assert relative(walk_glob(f"{tree}/{pattern}", (), ()), tree) == read
    assert walk_glob(f"{tree}/{pattern}", (), ["*"]).files == []


def test_a_folder_that_may_not_be_read_is_left_out(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def denied(path: str) -> object:
        if str(path).endswith("drafts"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    walk = walk_folder(tree, FileFilter())
    assert reasons(walk, tree)["drafts/"] == "Permission denied" and "sub/a.txt" in relative(walk, tree)


@pytest.mark.parametrize(
    ("exclude", "left_out", "is_warned"),
    [
        (["*.log,*.csv"], [LeftOut("c/.git/", "hidden")], True),
        (["*.log"], [LeftOut("c/a.log", "excluded by data.exclude")], False),
        ([".git"], [LeftOut("c/.git/", "hidden")], False),
        ([], [], False),
    ],
)
def test_patterns_that_leave_out_nothing_are_warned_of(
    exclude: list[str], left_out: list[LeftOut], is_warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_unused(exclude, left_out)
    assert ("leaves out no file" in capsys.readouterr().err) is is_warned
