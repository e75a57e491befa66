"""`gptcli generate --check-copies` and the figures of a report name what stands in the training text, and where."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from command import gptcli
from gptcli.errors import DataError
from gptcli.report.copies import CopyFinder, copy_report
from gptcli.session import ModelRequest, Session, open_session
from gptcli.storage import default_cache_dir

WORDS = ("lamp", "river", "goat", "seven", "under", "cold", "bread", "window", "sings", "never", "blue", "walks")


def text_of(seed: int, documents: int) -> str:
    rng = np.random.default_rng(seed)
    return "\n\n\n".join(" ".join(rng.choice(WORDS, size=60)) + "." for _ in range(documents))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps; its corpus lies beside it."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "corpus.txt").write_text(text_of(0, 200))
    keys = {
        "model.n_layer": 1, "model.n_head": 2, "model.n_embd": 16, "model.context_length": 64, "train.seq_len": 64,
        "train.max_steps": 2, "train.tokens_per_step": 128, "device": "cpu", "data.tokenizer.name": "byte",
        "data.document_separator": r"\n\n\n",
    }  # fmt: skip
    settings = [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
    done = gptcli("train", folder / "corpus.txt", "--out", folder / "run", *settings)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def session(trained: Path) -> Session:
    return open_session(ModelRequest(str(trained), device="cpu"))


def test_a_planted_copy_is_found_with_the_text_around_it(session: Session) -> None:
    finder = CopyFinder.of(session, default_cache_dir())
    document = finder.data.train.parts[0].document(5)
    planted = session.tokenizer.decode(document[100:180].tolist())
    spans = finder.examine([session.tokenizer.encode(f"Zzz {planted} zzZ")]).spans[0]
    (found,) = map(finder.locate, spans)
    assert found.document == 5 and planted in found.text and found.corpus.endswith("corpus.txt")
    text = session.tokenizer.decode(document.tolist())
    assert found.before + found.text + found.after in text


def test_the_command_prints_the_copies_and_json_has_them(trained: Path) -> None:
    arguments = ("generate", trained, "lamp", "--check-copies", "--max-new-tokens", "20", "--device", "cpu")
    plain, with_json = gptcli(*arguments), gptcli(*arguments, "--json")
    assert "stand in the training text in spans of" in plain.stderr and "stand in" not in plain.stdout
    report = json.loads(with_json.stdout)
    assert report["copies"]["texts"]["tokens"] == len(report["completions"][0]["tokens"])
    assert report["completions"][0]["copies"] == [] and report["copies"]["validation"]["tokens"] > 0


def test_a_report_has_a_row_for_each_kind_of_prompt_and_temperature(session: Session) -> None:
    finder = CopyFinder.of(session, default_cache_dir())
    rows = copy_report(session, finder, samples=2, new_tokens=8)["rows"]
    kinds = {(row["prompts"], row["temperature"]) for row in rows}
    assert kinds == {(kind, heat) for kind in ("training", "validation", "free") for heat in (0.0, 0.8, 1.2)}
    assert all(row["texts"]["tokens"] and 0 <= row["excess"] <= 1 for row in rows)


def test_a_text_that_has_changed_is_refused(session: Session, trained: Path) -> None:
    corpus = trained.parent / "corpus.txt"
    whole = corpus.read_text()
    corpus.write_text(whole + "\n\n\nAnother document.")
    try:
        with pytest.raises(DataError, match="has changed since it was trained"):
            CopyFinder.of(session, default_cache_dir())
    finally:
        corpus.write_text(whole)
