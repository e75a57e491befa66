"""A step made again: the same numbers as in the run, and the run is left as it is."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from gptcli.errors import DivergedError, UsageError
from gptcli.storage import default_cache_dir
from gptcli.train.replay import replay, report
from gptcli.train.run import TrainRequest, train
from gptcli.train.step import Stepper

SETTINGS = (
    "model.n_layer=1", "model.n_embd=32", "model.n_head=2", "model.context_length=16", "model.dropout=0.1",
    "data.tokenizer.name=char", "train.max_steps=9", "train.tokens_per_step=128", "train.batch_size=3",
    "train.eval_every_steps=4", "train.eval_tokens=256", "train.checkpoint_every_steps=4", "train.log_every_steps=1",
    "train.keep_every_steps=4", "train.sample_every_steps=0", "device=cpu",
)  # fmt: skip


def trained(corpus: Path, *more: str) -> Path:
    run = corpus.parent / "run"
    train(TrainRequest(corpus=(str(corpus),), assignments=(*SETTINGS, *more), out=run))
    return run


def contents(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("step", [1, 4, 5, 7, 9])
def test_a_replayed_step_has_the_loss_and_gradient_of_the_run(corpus: Path, step: int) -> None:
    run = trained(corpus)
    before = contents(run)
    found = replay(run, step, default_cache_dir())
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[step - 1])
    assert found["loss"] == line["train_loss"] and found["grad_norm"] == line["grad_norm"] and found["lr"] == line["lr"]
    assert found["checkpoint"] == max(saved for saved in (0, 4, 8) if saved < step)
    assert contents(run) == before


def test_the_worst_sequences_come_with_their_text(corpus: Path) -> None:
    found = replay(trained(corpus), 6, default_cache_dir(), top=3)
    losses = [sequence["loss"] for sequence in found["sequences"]]
    assert len(losses) == 3 and losses == sorted(losses, reverse=True)
    text = corpus.read_text()
    assert all(sequence["text"] in text and len(sequence["text"]) == 16 for sequence in found["sequences"])
    assert list(found["gradients"].values()) == sorted(found["gradients"].values(), reverse=True)
    assert found["bad_weights"] == found["bad_gradients"] == []


def test_a_step_that_a_run_does_not_have_is_named(corpus: Path) -> None:
    with pytest.raises(UsageError, match="1 to 9"):
        replay(trained(corpus), 10, default_cache_dir())


def poison(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """The losses of the steps from `first` on are not numbers."""
    original, steps = Stepper.backpropagate, itertools.count(1)

    def backpropagate(stepper: Stepper, *arguments: object) -> tuple[torch.Tensor, int]:
        loss, tokens = original(stepper, *arguments)
        return (loss * math.nan if next(steps) >= first else loss), tokens

    monkeypatch.setattr(Stepper, "backpropagate", backpropagate)


def test_a_run_that_diverges_leaves_the_texts_of_its_bad_steps(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = corpus.parent / "run"
    with monkeypatch.context() as patch, pytest.raises(DivergedError, match=f"gptcli replay {run} 7") as failure:
        poison(patch, first=6)
        trained(corpus, "train.max_bad_steps=2")
    assert failure.value.exit_code == 6
    kept = sorted((run / "bad-steps").iterdir())
    record = json.loads(kept[0].read_text())
    assert record["reason"] == "the loss is not finite" and record["loss"] == "NaN"
    assert len(record["texts"]) == 8 and all(text in corpus.read_text() for text in record["texts"])
    found = replay(run, record["step"], default_cache_dir(), top=8)
    assert sorted(sequence["text"] for sequence in found["sequences"]) == sorted(record["texts"])
    assert "largest gradients" in report(found)
