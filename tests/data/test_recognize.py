"""The format of a file or a stream is recognised by its beginning, and reported if its ending does not show it."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_files import write
from gptcli.data.config import DataConfig
from gptcli.data.corpus import corpus_documents
from gptcli.data.sources import find_files, spool

ROWS = "".join(json.dumps({"id": n, "text": f"row {n}"}) + "\n" for n in range(3))
TEXTS = ["row 0", "row 1", "row 2"]


def read_from_stdin(
    content: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: str
) -> tuple[str, list[str]]:
    """The format that stdin is read in, and the documents."""
    config = DataConfig(**settings)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))
    ((file,), _) = find_files(["-"], config, folder)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))
    return file.format, [document.text for document in corpus_documents(["-"], config, folder)]


@pytest.mark.parametrize(
    ("content", "settings", "found", "said"),
    [
        (ROWS, {}, "jsonl", "standard input is read as JSON lines, since its first row has a text"),
        ("\n \n" + ROWS, {}, "jsonl", "to read it as plain text, add --set data.format=text"),
        (ROWS.replace("text", "body"), {"text_field": "body"}, "jsonl", "standard input is read as JSON lines"),
        (json.dumps([json.loads(row) for row in ROWS.splitlines()], indent=1), {}, "json", "is read as JSON,"),
        ("id,text\n0,row 0\n1,row 1\n2,row 2\n", {}, "csv", "standard input is read as CSV"),
        ("body\tid\nrow 0\t0\nrow 1\t1\nrow 2\t2\n", {"text_field": "body"}, "tsv", "standard input is read as TSV"),
        (ROWS, {"format": "jsonl"}, "jsonl", ""),
        ("text\nrow 0\nrow 1\nrow 2\n", {"format": "csv"}, "csv", ""),
    ],
)
def test_rows_on_stdin_are_read_as_rows_with_a_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
    settings: dict[str, str],
    found: str,
    said: str,
) -> None:
    assert read_from_stdin(content, tmp_path, monkeypatch, **settings) == (found, TEXTS)
    printed = capsys.readouterr().err
    assert said in printed and bool(said) == bool(printed)


@pytest.mark.parametrize(
    ("content", "settings", "said"),
    [
        ("Once upon a time, there was a text.\n", {}, ""),
        ('{"a": 1}\n', {}, ""),
        ("[Enter a text, and a king]\n", {}, ""),
        (ROWS, {"format": "text"}, ""),
        (
            "Once upon a time\n",
            {"text_field": "body"},
            "standard input is read as plain text, since no row with the field",
        ),
        ("text\nOnce upon a time\n", {}, "add --set data.format=jsonl or --set data.format=csv"),
        ("", {}, ""),
    ],
)
def test_plain_text_on_stdin_stays_plain_text(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
    settings: dict[str, str],
    said: str,
) -> None:
    assert read_from_stdin(content, tmp_path, monkeypatch, **settings) == ("text", [content] if content else [])
    printed = capsys.readouterr().err
    assert said in printed and bool(said) == bool(printed)


def test_a_copy_of_a_stream_is_read_as_the_stream_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a training for a deadline does, which reads its corpus from the copy."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(ROWS.encode())))
    copy = spool("-", DataConfig(), tmp_path)
    assert [document.text for document in corpus_documents([str(copy)], DataConfig(), tmp_path)] == TEXTS


def test_a_text_file_that_looks_like_rows_gives_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "a.log", ROWS.encode())
    assert [document.text for document in corpus_documents([str(path)], DataConfig(), tmp_path)] == [ROWS]
    assert f"warning: {path} is read as plain text, and looks like JSON lines; " in capsys.readouterr().err
    config = DataConfig(format="jsonl")
    assert [document.text for document in corpus_documents([str(path)], config, tmp_path)] == TEXTS
    assert capsys.readouterr().err == ""


def test_a_format_holds_for_every_file_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", ROWS.encode())
    write(tmp_path, "b.jsonl.gz", gzip.compress(ROWS.encode()))
    config = DataConfig(format="jsonl")
    assert [document.text for document in corpus_documents([str(tmp_path)], config, tmp_path / ".cache")] == TEXTS * 2
    plain = [
        document.text for document in corpus_documents([str(tmp_path)], DataConfig(format="text"), tmp_path / ".cache")
    ]
    assert plain == [ROWS] * 2
