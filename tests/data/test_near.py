"""Similar documents lie on one side of the split, in whatever way and by however many processes they are found."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data_files import write_rows
from gptcli.data import near
from gptcli.data.config import DataConfig, DataSettings
from gptcli.data.groups import LinkedGroups
from gptcli.data.inspect import prepare
from gptcli.data.scan import CorpusScan, scan_texts
from gptcli.data.split import BLANK, CUT, DUPLICATE, OVERLAP, TRAIN, VAL
from gptcli.data.worker_pool import WorkerConfig
from gptcli.data.workspace import Workspace
from gptcli.errors import DataError, UsageError

ONE = WorkerConfig(workers=1)
ENDS = ("", "en", "ix")
WORDS = [a + b + c for a in ("ba", "co", "du", "fe", "gi") for b in ("ran", "tel", "sor", "vin") for c in ENDS]


def text_of(number: int, words: int = 200) -> list[str]:
    draw = random.Random(number)
    return [draw.choice(WORDS) for _ in range(words)]


def versions(count: int, edits: Sequence[int] = (0, 4, 8, 12)) -> list[str]:
    """Return each of `count` texts with as many of its 200 words replaced as `edits` says."""
    texts = []
    for number in range(count):
        for edited in edits:
            words = text_of(number)
            for place in random.Random(1000 * number + edited).sample(range(len(words)), edited):
                words[place] = "other"
            texts.append(" ".join(words))
    return texts


def scan(tmp_path: Path, texts: Sequence[str], workers: WorkerConfig = ONE, **settings: object) -> CorpusScan:
    source = tmp_path / "rows.jsonl"
    write_rows(source, texts)
    config = DataConfig.model_validate({"deduplicate": "near"} | settings)
    cache = tmp_path / f"cache-{workers.section_bytes}-{workers.workers}"
    return scan_texts([str(source)], Workspace(config, cache, 0, workers))


def sides(scan: CorpusScan, size: int) -> list[set[int]]:
    """Return the parts in which the documents of each text lie; there are `size` versions in a row."""
    return [set(row) for row in np.array(scan.assignment).reshape(-1, size).tolist()]


@pytest.mark.parametrize("split", ["document", "tail"])
def test_versions_of_a_text_lie_on_one_side_and_none_is_dropped(tmp_path: Path, split: str) -> None:
    alone = [" ".join(text_of(number)) for number in range(500, 560)]
    found = scan(tmp_path, [*versions(20), *alone], split=split)
    assert all(len(kinds) == 1 for kinds in sides(found, 4)[:20])
    assert set(np.array(found.assignment)) <= {TRAIN, VAL, CUT}
    assert found.grouped == 60 and found.duplicates == 0
    assert 0.03 < found.report()["val_fraction"] < 0.2


def test_exact_takes_versions_apart_and_near_leaves_no_overlap(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    write_rows(source, versions(20))
    shares = {}
    for deduplicate in ("exact", "near"):
        data = {"corpus": (str(source),), "tokenizer": "byte", "deduplicate": deduplicate}
        report = prepare(DataSettings.model_validate({"data": data}), tmp_path / "cache")
        shares[deduplicate] = report["ngram_overlap"]["share"]
    assert shares["exact"] > 0.4 and shares["near"] < 0.02


def test_unrelated_texts_stand_alone(tmp_path: Path) -> None:
    texts = [" ".join(text_of(number)) for number in range(100)]
    near_scan, exact = scan(tmp_path, texts), scan(tmp_path, texts, deduplicate="exact")
    assert near_scan.grouped == 0 and np.array_equal(near_scan.assignment, exact.assignment)


@pytest.mark.parametrize(
    "workers", [WorkerConfig(workers=1, section_bytes=9_000), WorkerConfig(workers=2, section_bytes=9_000)]
)
def test_groups_do_not_depend_on_parts_and_processes(tmp_path: Path, workers: WorkerConfig) -> None:
    texts = [*versions(12), "", " ", *versions(3), "short", "short"]
    whole, parts = scan(tmp_path, texts), scan(tmp_path, texts, workers)
    assert len(parts.jobs(9_000, tmp_path)) > 2
    assert np.array_equal(whole.assignment, parts.assignment) and whole.report() == parts.report()
    assert whole.grouped == 36 and whole.duplicates == 13 and whole.blank == 2


def test_a_long_text_is_near_another_by_one_of_its_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptcli.data.corpus.PIECE_CHARACTERS", 1500)
    folder = tmp_path / "corpus"
    folder.mkdir()
    book = text_of(1, 3000)
    for number in range(12):
        (folder / f"{number:02}.txt").write_text(" ".join(text_of(50 + number, 900)))
    (folder / "20.txt").write_text(" ".join(book))
    (folder / "30.txt").write_text(" ".join(book[:1500]))
    config = DataConfig.model_validate({"deduplicate": "near"})
    reports = []
    for size in (1 << 26, 4000):
        found = scan_texts(
            [str(folder)], Workspace(config, tmp_path / str(size), 0, WorkerConfig(workers=1, section_bytes=size))
        )
        assert found.grouped == 1 and found.assignment[12] == found.assignment[13]
        reports.append(found.report())
    assert reports[0] == reports[1]


def test_none_keeps_equal_documents_on_one_side(tmp_path: Path) -> None:
    texts = [" ".join(text_of(number, 40)) for number in range(60) for _ in range(3)]
    for split in ("document", "tail"):
        alone = [" ".join(text_of(number, 40)) for number in range(100, 130)]
        found = scan(tmp_path, [*texts, *alone, ""], deduplicate="none", split=split)
        assert all(len(kinds) == 1 for kinds in sides(CorpusScanPart(found, 180), 3))
        assert found.duplicates == 0 and found.grouped == 120 and found.blank == 1
        assert set(np.array(found.assignment)) <= {TRAIN, VAL, CUT, BLANK} and found.val.documents


class CorpusScanPart:
    """The first documents of a scan."""

    def __init__(self, whole: CorpusScan, count: int) -> None:
        self.assignment = whole.assignment[:count]


@pytest.mark.parametrize("deduplicate", ["near", "none"])
def test_where_no_document_is_unlike_all_others_the_remedy_is_named(tmp_path: Path, deduplicate: str) -> None:
    texts = versions(1) if deduplicate == "near" else [" ".join(text_of(1))] * 4
    with pytest.raises(DataError, match="no document can be validated on") as caught:
        scan(tmp_path, texts, deduplicate=deduplicate)
    assert "data.val" in caught.value.remedy
    assert scan(tmp_path, texts, deduplicate="exact").val.bytes


def test_what_is_near_the_validation_corpus_is_not_trained_on(tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    write_rows(own, [" ".join(text_of(number)) for number in range(3)])
    found = scan(tmp_path, versions(6), val=str(own))
    assert found.assignment[:3].tolist() == [VAL] * 3
    assert found.assignment[3:].tolist() == [OVERLAP] * 12 + [TRAIN] * 12 and found.overlap == 12
    kept = scan(tmp_path, versions(6), val=str(own), deduplicate="exact")
    assert kept.assignment[3:].tolist().count(OVERLAP) == 3 and DUPLICATE not in kept.assignment


def test_signatures_agree_as_often_as_sets_of_passages_are_similar() -> None:
    first, second = versions(1, (0, 8))
    sets = [set(near.passages([text], window_bytes=24, spacing_bits=2).hashes.tolist()) for text in (first, second)]
    jaccard = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    rows, signed = near.signatures_of([first, "short", second])
    assert rows.tolist() == [0, 2] and signed.shape == (2, near.BANDS * near.ROWS)
    assert (signed[0] == signed[1]).mean() == pytest.approx(jaccard, abs=0.15)
    assert 0.4 < jaccard < 0.9


def test_groups_are_the_connected_components(tmp_path: Path) -> None:
    draw = random.Random(4)
    edges = np.array([(draw.randrange(300), draw.randrange(300)) for _ in range(180)])
    found = LinkedGroups(
        tmp_path, 300, [(part[:, 0], part[:, 1]) for part in np.split(edges, 6)], keeps_duplicates=False
    )
    lowest = list(range(300))
    for _ in range(300):
        for one, other in edges.tolist():
            lowest[one] = lowest[other] = min(lowest[one], lowest[other])
    assert found.firsts(np.arange(300)).tolist() == lowest


def test_without_rensa_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(UsageError) as caught:
        scan(tmp_path, ["a text", "another text"])
    assert "gptcli[near]" in caught.value.remedy
