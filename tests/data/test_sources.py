"""The files of the sources that a user names."""

from __future__ import annotations

import io
import json
import os
import sys
import sysconfig
import threading
from pathlib import Path

import pytest

from gptcli.data import streams
from gptcli.data.config import DataConfig
from gptcli.data.corpus import Document, corpus_documents
from gptcli.data.decoding import Decoding
from gptcli.data.fields import FieldSelection
from gptcli.data.rows import rows_of
from gptcli.data.sources import find_files
from gptcli.errors import DataError, StorageError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "b.txt",
        "a.md",
        "sub/z.py",
        "sub/rows.jsonl.gz",
        ".hidden.txt",
        ".git/x.txt",
        "image.png",
        "c.TXT.zst",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    return tmp_path


def names(tree: Path, *sources: str) -> list[str]:
    return [file.path.relative_to(tree).as_posix() for file in find_files(sources, DataConfig(), tree / "cache").files]


def test_a_directory_gives_its_text_files_sorted_without_hidden_ones(tree: Path) -> None:
    assert names(tree, str(tree)) == ["a.md", "b.txt", "c.TXT.zst", "sub/rows.jsonl.gz", "sub/z.py"]


def test_globs_are_sorted_and_a_file_named_twice_is_taken_once(tree: Path) -> None:
    assert names(tree, f"{tree}/*.txt") == ["b.txt"]
    assert names(tree, f"{tree}/**/*.*y", f"{tree}/b.txt", str(tree / "sub"), str(tree / "sub" / ".." / "b.txt")) == [
        "sub/z.py",
        "b.txt",
        "sub/rows.jsonl.gz",
    ]


def test_a_file_named_explicitly_may_have_any_ending(tree: Path) -> None:
    assert names(tree, str(tree / "image.png"), str(tree / ".hidden.txt")) == ["image.png", ".hidden.txt"]


@pytest.mark.parametrize("source", ["nowhere.txt", "*.nothing", "hf:"])
def test_a_source_that_is_not_there_is_an_error_that_names_it(tree: Path, source: str) -> None:
    with pytest.raises(DataError, match=source.replace("*", r"\*")):
        names(tree, source)


def test_a_file_that_is_named_is_not_left_out_of_its_folder(tree: Path) -> None:
    for sources in ([tree, tree / "image.png"], [tree / "image.png", tree]):
        files, left_out = find_files(list(map(str, sources)), DataConfig(), tree / "cache")
        assert [file.path.name for file in files if not file.is_optional] == ["image.png"]
        assert not any(one.name.endswith("image.png") for one in left_out)


def test_a_directory_without_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("")
    with pytest.raises(DataError, match=r"no file that could be text: it holds 1 of other kinds \(1 .png\)"):
        find_files([str(tmp_path)], DataConfig(), tmp_path)


def test_a_name_that_the_system_refuses_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="too long"):
        find_files(["x" * 5000], DataConfig(), tmp_path)


def test_stdin_can_be_read_again_and_the_same_text_is_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("grüße\r\n".encode())))
        found += find_files(["-"], DataConfig(), tmp_path).files
    assert found[0] == found[1]
    assert found[0].name == "-"
    assert found[0].path.read_bytes() == "grüße\r\n".encode()
    assert [path.name for path in (tmp_path / "spool").iterdir()] == [found[0].path.name]


def test_a_pipe_is_copied_like_stdin(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("through a pipe",))
    writer.start()
    (found,) = find_files([str(pipe)], DataConfig(), tmp_path / "cache").files
    writer.join()
    assert found.path.read_text() == "through a pipe"


def test_a_device_without_an_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "endless.txt").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="has no end"):
        find_files([str(tmp_path / "endless.txt")], DataConfig(), tmp_path / "cache")


def test_the_standard_library_is_the_same_each_time_and_holds_no_foreign_package(tmp_path: Path) -> None:
    files = [file.path for file in find_files(["python:stdlib"], DataConfig(), tmp_path).files]
    assert files == [file.path for file in find_files(["python:stdlib"], DataConfig(), tmp_path).files]
    root = Path(sysconfig.get_paths()["stdlib"])
    parts = {part for path in files for part in path.relative_to(root).parts}
    assert {"argparse.py", "json", "asyncio"} <= parts
    assert not {"site-packages", "test", "pytest", "__pycache__"} & parts
    assert sum(path.stat().st_size for path in files) > 5_000_000


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in a local folder, which `datasets` opens like one of the Hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "set"
    folder.mkdir()
    for split, texts in (("train", ["one", "two\nlines", None, "größe"]), ("test", ["three"])):
        lines = (json.dumps({"body": text, "id": 1}) for text in texts)
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def test_a_hugging_face_data_set_is_streamed_and_kept(data_set: Path, tmp_path: Path) -> None:
    source, config = f"hf:{data_set}", DataConfig(text_field="body")
    cache = tmp_path / "cache"
    expected = [Document(text, source) for text in ("one", "two\nlines", "größe")]
    assert list(corpus_documents([source], config, cache)) == expected
    assert [document.text for document in corpus_documents([f"{source}@test"], config, cache)] == ["three"]
    (data_set / "train.jsonl").unlink()
    assert list(corpus_documents([source], config, cache)) == expected
    assert not [path for path in (cache / "spool").iterdir() if ".tmp-" in path.name]


def test_a_data_set_of_instructions_is_kept_as_what_its_template_reads(data_set: Path, tmp_path: Path) -> None:
    row = {"instruction": "Count.", "context": "abc", "response": "Three.", "category": "x"}
    (data_set / "train.jsonl").write_text(json.dumps(row))
    (document,) = corpus_documents([f"hf:{data_set}"], DataConfig(), tmp_path / "cache")
    assert document.text == "<|im_start|>user\nCount.\n\nabc<|im_end|>\n<|im_start|>assistant\nThree.<|im_end|>\n"


def test_a_copy_of_a_data_set_has_the_fields_that_its_kind_reads(data_set: Path, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "x"}], "tools": "[]", "prompt": "x", "id": 1}
    (data_set / "train.jsonl").write_text(json.dumps(row) + "\n")
    for kind, fields in (("text", ["messages"]), ("examples", ["messages", "tools"])):
        config = DataConfig(kind=kind)
        (file,) = find_files([f"hf:{data_set}"], config, tmp_path / "cache").files
        ((_, copied),) = rows_of(file, config, FieldSelection.in_rows_of(config), Decoding())
        assert sorted(copied) == fields


@pytest.mark.parametrize(
    ("suffix", "field", "message"),
    [
        ("", "text", "row 1 of .* has no field 'text'; its fields are body, id"),
        ("@validation", "body", "cannot read hf:.*validation"),
        (":german", "body", "cannot read hf:.*german"),
    ],
)
def test_an_error_names_what_a_data_set_lacks(
    data_set: Path, tmp_path: Path, suffix: str, field: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        find_files([f"hf:{data_set}{suffix}"], DataConfig(text_field=field), tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "spool").iterdir()] == [".lock"]


def test_an_interrupted_copy_of_a_data_set_continues_in_its_stream(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PART_BYTES", 100)
    texts = [f"text {number}" for number in range(50)]
    (data_set / "train.jsonl").write_text("".join(json.dumps({"body": text, "id": 1}) + "\n" for text in texts))
    source, config, cache = f"hf:{data_set}", DataConfig(text_field="body"), tmp_path / "cache"
    taken = 0
    original = streams.HubStream.__iter__

    def broken(stream: streams.HubStream):
        nonlocal taken
        for row in original(stream):
            taken += 1
            if taken == 23:
                raise DataError("the connection is lost")
            yield row

    with monkeypatch.context() as patched:
        patched.setattr(streams.HubStream, "__iter__", broken)
        with pytest.raises(DataError, match="connection is lost"):
            find_files([source], DataConfig(text_field="body"), cache)
        (work,) = (cache / "spool").glob("*.work")
        parts = sorted(path.name for path in work.glob("part-*"))
        assert parts == [f"part-{number:05d}.jsonl.zst" for number in range(len(parts))] and len(parts) > 3
        (work / parts[-1]).write_bytes(b"damaged")
    before = {path.name: path.stat().st_mtime_ns for path in sorted(work.glob("part-*"))[:-1]}
    found = find_files([source], DataConfig(text_field="body"), cache).files
    assert [document.text for document in corpus_documents([source], config, cache)] == texts
    after = {path.name: path.stat().st_mtime_ns for path, *_ in found}
    assert before.items() <= after.items() and len(after) == len(found) > len(before)
    assert found[1].name == f"{source} part 2"
    assert not list((cache / "spool").glob("*.work"))
