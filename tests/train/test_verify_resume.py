"""Proving that a resumed training is the unbroken one, and noticing when it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gptcli.errors import CheckpointError, GptcliError, UsageError
from gptcli.train.verify_resume import Trial, first_difference, verify_resume

SETTINGS = (
    "model.n_layer=1", "model.n_embd=16", "model.n_head=2", "model.context_length=16", "model.dropout=0.2",
    "data.tokenizer.name=char", "train.tokens_per_step=64", "train.batch_size=2", "train.eval_tokens=128", "device=cpu",
)  # fmt: skip


@pytest.mark.slow
def test_a_killed_training_is_the_unbroken_one_and_a_changed_or_longer_one_is_not(corpus: Path, tmp_path: Path) -> None:
    trial = Trial((str(corpus),), (), SETTINGS, steps=12, kills=2, seed=1)
    result = verify_resume(trial, tmp_path / "runs")
    assert result.difference is None and len(result.killed_after) == 2
    result.raise_if_different()
    whole, broken = tmp_path / "runs" / "whole", tmp_path / "runs" / "broken"
    logged = (broken / "metrics.jsonl").read_text()
    (broken / "metrics.jsonl").write_text(logged + '{"step": 12}\n')
    assert first_difference(whole, broken) == "13 lines instead of 12 in metrics.jsonl"
    (broken / "metrics.jsonl").write_text(logged)
    for name, key, value in (
        ("metrics.jsonl", "train_loss", 0.5),
        ("fingerprints.jsonl", "weights", "0"),
        ("fingerprints.jsonl", "batch", "0"),
    ):
        path = broken / name
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[4][key] = value
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        result.difference = first_difference(whole, broken)
        assert result.difference == f"step 5: {key} in {name}"
    with pytest.raises(CheckpointError, match="step 5: batch"):
        result.raise_if_different()


def test_a_corpus_must_be_named() -> None:
    with pytest.raises(UsageError, match="no corpus to train on; name one: gptcli verify-resume book"):
        verify_resume(Trial((), (), (), steps=3, kills=1))


def test_a_training_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(GptcliError, match="there is no corpus") as failure:
        verify_resume(Trial((str(tmp_path / "none.txt"),), (), SETTINGS, steps=3, kills=1))
    assert failure.value.exit_code == 3
