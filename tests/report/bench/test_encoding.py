"""Which texts are encoded and how results are shown; `tests/scripts/bench` compares libraries."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptcli.errors import DataError
from gptcli.report.bench.encoding import EncodingRequest, read_corpus, summary, tables

TEXT = "".join(
    f"Line {n}: the {('cat', 'dog', 'owl')[n % 3]}'s count is {n * n},  naïve 東京 ½!\n\n" for n in range(300)
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three documents of about 15 kB each."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.txt").write_text(f"{name}: {TEXT}")
    return folder


def test_other_ids_are_reported() -> None:
    ours = [{"bytes_per_second": 9.0, "cores": 1.0, "tokens": 5, "ids": "a"}]
    theirs = [{"bytes_per_second": 3.0, "cores": 1.0, "tokens": 6, "ids": "b"}]
    contenders = {"gptcli": summary(ours, ours), "other": summary(theirs, ours)}
    assert contenders["other"]["ours_over_this"]["median"] == 3.0
    batches = {"seq_len": 2, "batch_size": 1, "tokens_per_second": {"median": 1e6}}
    [table] = tables(
        {"corpus": "x", "documents": 1, "bytes": 9, "vocab_size": 300, "contenders": contenders, "batches": batches}
    )
    assert [row[-1] for row in table.rows] == ["yes", "no"]


def test_whole_documents_are_taken_until_there_is_enough(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = len(f"a: {TEXT}".encode()) / 1e6
    assert [text[0] for text in read_corpus(EncodingRequest((str(corpus),), megabytes=1.5 * size))] == ["a", "b"]
    assert "the first" in capsys.readouterr().err
    assert len(read_corpus(EncodingRequest((str(corpus),), megabytes=size / 10))) == 1, "at least one"
    assert len(read_corpus(EncodingRequest((str(corpus),)))) == 3


def test_texts_that_are_blank_are_refused(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(DataError, match="holds no text"):
        read_corpus(EncodingRequest((str(tmp_path / "blank.txt"),)))
