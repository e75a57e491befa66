"""The facts on a model are those of the model and of its run, and hold no path of the machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.data.source_names import corpora, public_name
from gptcli.serve.model_facts import facts_of, losses, size
from gptcli.session import ModelRequest, Session, open_session
from tiny_base import write_tiny_base

RUN_TOML = """\
[data]
corpus = ["/home/me/secret/book.txt", "hf:someone/tales", "-"]
[train]
init_from = "/home/me/runs/base"
"""
SUMMARY = {"val_loss": 2.104318, "val_loss_interval": [2.09, 2.118], "val_bits_per_byte": 0.41592}
DATA = {"train": {"bytes": 1796369}, "train_tokens": 521417, "examples": {"train": {"examples": 576}}}


@pytest.fixture
def session(tmp_path: Path, capsys: pytest.CaptureFixture) -> Session:
    return open_session(ModelRequest(str(write_tiny_base(tmp_path / "tiny")), device="cpu"))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.toml").write_text(RUN_TOML)
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    (folder / "data.json").write_text(json.dumps(DATA))
    return RunDirectory(folder)


def with_run(session: Session, run: RunDirectory) -> Session:
    """The session as if its model had been trained in `run`."""
    object.__setattr__(session, "run", run)
    object.__setattr__(session, "step", 2000)
    return session


def test_a_model_that_is_no_run_is_described_by_itself(session: Session) -> None:
    facts = facts_of(session, session.stop_ids)
    assert facts.parameters == session.model.parameter_count() and facts.context == 16 and not facts.chat
    assert facts.description == f"A language model with {facts.parameters:,} parameters that continues text."
    assert facts.stop_tokens == ("<|endoftext|>",) and set(facts.stop_ids) == session.stop_ids
    assert facts.corpus == () and facts.bits_per_byte is facts.base is facts.training_bytes is None


def test_a_run_tells_what_it_was_trained_on_and_how_well_but_no_path(session: Session, run: RunDirectory) -> None:
    facts = facts_of(with_run(session, run), session.stop_ids)
    assert facts.corpus == ("book.txt", "hf:someone/tales", "standard input") and facts.base == "base"
    assert (facts.bits_per_byte, facts.validation_loss) == (0.4159, 2.104), "digits beyond the interval say nothing"
    assert (facts.training_bytes, facts.training_tokens, facts.examples) == (1796369, 521417, 576)
    assert facts.step == 2000
    assert facts.description.endswith(
        "that continues text, trained on book.txt, hf:someone/tales and standard input, starting from base."
    )
    assert "/" not in facts.model_dump_json().replace("hf:someone/tales", "")


def test_a_run_whose_records_are_missing_or_broken_still_has_facts(session: Session, run: RunDirectory) -> None:
    (run.path / "summary.json").write_text("{")
    (run.path / "data.json").unlink()
    facts = facts_of(with_run(session, run), ())
    assert facts.bits_per_byte is facts.validation_loss is facts.training_bytes is None
    assert facts.corpus[0] == "book.txt"


@pytest.mark.parametrize(
    ("parameters", "words"),
    [(802_816, "802,816"), (1_328_512, "1.3 million"), (124_439_808, "124 million"), (1_557_611_200, "1.6 billion")],
)
def test_sizes_are_in_words(parameters: int, words: str) -> None:
    assert size(parameters) == words


def test_a_mix_names_each_corpus_once() -> None:
    mix = [{"corpus": ["/a/x.txt", "/b/y"], "weight": 1.0}, {"corpus": ["/a/x.txt"], "weight": 2.0}]
    assert list(corpora({"data": {"mix": mix}})) == ["x.txt", "y"]


def test_sources_are_named_without_their_folders() -> None:
    names = [public_name(source) for source in ("/home/me/book.txt", "book/", ".", "python:stdlib")]
    assert names == ["book.txt", "book", "a folder", "python:stdlib"]


def test_a_loss_without_an_interval_has_two_digits() -> None:
    assert losses({"val_loss": 1.23456, "val_bits_per_byte": 0.98765}) == (1.2, 0.99)
    assert losses({"val_loss": 1.23456, "val_bits_per_byte": None}) == (1.2, None)
    assert losses({}) == (None, None)
