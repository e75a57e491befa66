"""A part of a corpus: the size asked for, whole documents, from all over it, and the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gptcli.data.config import DataConfig
from gptcli.data.decoding import Decoding
from gptcli.data.scan import CorpusScan
from gptcli.data.sources import find_files
from gptcli.data.workspace import Workspace
from gptcli.train.planning.subset import drawn_texts, scan_subset


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(50):
        (folder / f"{number:02}.txt").write_text(f"File {number} says {number * number}.\n" * 40)
    rows = (json.dumps({"text": f"Row {number} of a larger file, {number**3}."}) for number in range(500))
    (folder / "rows.jsonl").write_text("\n".join(rows))
    return folder


def drawn(folder: Path, size: int, seed: int = 1) -> list[str]:
    files = find_files([str(folder)], DataConfig(), folder.parent / "cache").files
    return list(drawn_texts(files, DataConfig(), size, seed, Decoding(), []))


def test_a_subset_holds_documents_of_the_corpus_the_last_one_cut_to_the_bytes_that_were_asked(corpus: Path) -> None:
    whole, part = set(drawn(corpus, 10**9)), drawn(corpus, 12_000)
    assert set(part[:-1]) < whole
    assert any(text.startswith(part[-1]) for text in whole)
    assert sum(map(len, part)) == 12_000


def test_a_subset_comes_from_all_over_the_corpus_not_from_its_beginning(corpus: Path) -> None:
    numbers = sorted(int(text.split()[1]) for text in drawn(corpus, 12_000) if text.startswith("File"))
    assert len(numbers) >= 5 and numbers != list(range(len(numbers)))


def test_a_subset_is_the_same_every_time_and_another_with_another_seed(corpus: Path) -> None:
    assert drawn(corpus, 12_000) == drawn(corpus, 12_000)
    assert drawn(corpus, 12_000) != drawn(corpus, 12_000, seed=2)


def test_a_corpus_that_is_moved_gives_the_same_subset(corpus: Path) -> None:
    before = drawn(corpus, 12_000)
    assert drawn(corpus.rename(corpus.parent / "elsewhere"), 12_000) == before


def test_one_long_document_gives_its_beginning(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("".join(f"Sentence number {n}.\n" for n in range(200_000)))
    assert "".join(drawn(book, 1_500_000)) == book.read_text()[:1_500_000]


def test_a_character_is_never_cut(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("\u4e2d\u6587" * 1000)
    assert drawn(book, 1_000) == [book.read_text()[:333]]


def scanned(corpus: Path, size: int | None) -> CorpusScan:
    (scan,) = scan_subset(Workspace(DataConfig(corpus=(str(corpus),)), corpus.parent / "cache", 1), size).scans
    return scan


def test_a_subset_is_scanned_like_any_corpus_and_kept(corpus: Path) -> None:
    scan = scanned(corpus, 12_000)
    assert scan.train.bytes + scan.val.bytes == 12_000 and scan.val.bytes > 0
    assert scan.fingerprint == scanned(corpus, 12_000).fingerprint
    assert len(list((corpus.parent / "cache" / "excerpts").glob("*/excerpt.jsonl"))) == 1


def test_a_subset_larger_than_the_corpus_is_all_of_it(corpus: Path) -> None:
    part, whole = scanned(corpus, 10**9), scanned(corpus, None)
    assert part.train.bytes + part.val.bytes == whole.train.bytes + whole.val.bytes


def test_a_file_that_has_changed_is_drawn_from_anew(corpus: Path) -> None:
    before = scanned(corpus, 10**9)
    (corpus / "00.txt").write_text("Something else altogether, and longer than it was.\n" * 60)
    assert scanned(corpus, 10**9).fingerprint != before.fingerprint


def test_what_cannot_be_read_is_left_out_of_a_subset_and_reported(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(40):
        (corpus / f"bad{number}.txt").write_bytes(b"%PDF-1.7")
    (corpus / "picture.png").write_text("")
    scan = scanned(corpus, 12_000)
    assert scan.train.bytes + scan.val.bytes <= 12_000 and not any("PDF" in piece.text for piece in scan.pieces())
    assert scan.refused and all("bad" in one.name and one.reason == "it is a PDF document" for one in scan.refused)
    assert scan.report()["left_out"]["reasons"]["unreadable"] == len(scan.refused)
    assert "1 of other kinds (1 .png)" in capsys.readouterr().err
