"""An evaluation says how much of its text the run was trained on, and nothing where that is not known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.data.corpus import Document
from gptcli.data.sketch import SKETCH, SketchBuilder
from gptcli.evaluate.contamination import Contamination, ContaminationCounter, validation_contamination

READ = " ".join(f"read{number}" for number in range(2000))
NEW = " ".join(f"new{number * number}" for number in range(1700))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    builder = SketchBuilder(len(READ))
    builder.add([READ])
    builder.merge().save(tmp_path / SKETCH)
    return RunDirectory(tmp_path)


def seen(run: RunDirectory | None, *documents: Document) -> Contamination:
    counter = ContaminationCounter(run)
    assert list(counter.watch(iter(documents))) == list(documents)
    return counter.contamination()


def test_the_share_is_told_in_all_and_of_each_file(run: RunDirectory) -> None:
    found = seen(run, Document(READ[500:9000], "a.txt"), Document(NEW[:4000], "b.txt"), Document(NEW[4000:], "b.txt"))
    assert found.files == {"a.txt": 1, "b.txt": 0}
    assert found.is_much and 0.2 < (found.share or 0) < 0.8
    assert found.warning().count("a.txt") == 1 and "b.txt" not in found.warning()
    assert found.as_json()["share"] == found.found / found.sampled and found.as_json()["reason"] is None


def test_new_text_is_not_warned_of_and_one_read_file_among_many_is(run: RunDirectory) -> None:
    new = [Document(NEW, f"{number}.txt") for number in range(9)]
    assert seen(run, *new).share == 0 and not seen(run, *new).is_much
    among = seen(run, *new, Document(READ[:2000], "known.txt"))
    assert (among.share or 0) < 0.2 and among.is_much and "known.txt" in among.warning()


@pytest.mark.parametrize(
    ("text", "has_sketch", "reason"),
    [(READ[:300], True, "too short"), (READ, False, "no sketch"), (NEW, False, "no sketch")],
)
def test_what_cannot_be_told_is_not_known(run: RunDirectory, text: str, has_sketch: bool, reason: str) -> None:
    for one in [run] if has_sketch else [None, RunDirectory(run.path / "older")]:
        found = seen(one, Document(text, "a.txt"))
        assert found.share is None and not found.is_much
        assert "not known" in found.words() and reason in found.words() and reason in str(found.as_json()["reason"])


def test_the_validation_split_is_known_by_its_overlap(run: RunDirectory) -> None:
    assert validation_contamination(run).share is None
    overlap = {"share": 0.75, "ngram_tokens": 13, "sampled": 400, "found": 300}
    (run.path / "data.json").write_text(json.dumps({"ngram_overlap": overlap}))
    found = validation_contamination(run)
    assert found.share == 0.75 and found.is_much and "sequences of 13 tokens" in found.warning()
    (run.path / "data.json").write_text(json.dumps({"ngram_overlap": overlap | {"share": None}}))
    assert validation_contamination(run).share is None
