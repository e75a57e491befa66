"""`train.patience` ends a run after evaluations without improvement, at the same step however often it was stopped."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.errors import Stopped
from gptcli.train.events import Evaluate
from gptcli.train.loop import Trainer
from gptcli.train.run import TrainRequest, train
from gptcli.train.train_state import TrainState
from gptcli.train.validation import Validation, Validator

SETTINGS = (
    "model.n_layer=1", "model.n_embd=32", "model.n_head=2", "model.context_length=16", "data.tokenizer.name=byte",
    "train.max_steps=20", "train.tokens_per_step=64", "train.batch_size=4", "train.eval_every_steps=2",
    "train.eval_tokens=64", "train.checkpoint_every_steps=5", "train.log_every_steps=1", "train.sample_every_steps=0",
    "train.patience=2", "device=cpu",
)  # fmt: skip
LOSSES = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.4, 10: 1.0}
"""The lowest of the first four is at step 4, so that the run ends with step 8."""


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations on the way find LOSSES, whatever the model; 9 where they say nothing."""
    evaluate, measure = Evaluate.run, Validator.measure

    def evaluated(event: Evaluate) -> None:
        def found(*arguments: Any) -> Validation:
            return measure(*arguments)._replace(loss=LOSSES.get(event.state.step, 9.0))

        with monkeypatch.context() as patch:
            patch.setattr(Validator, "measure", found)
            evaluate(event)

    monkeypatch.setattr(Evaluate, "run", evaluated)


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(RunDirectory(run).checkpoint_path(step) / "model.safetensors")


def lines(run: Path) -> list[tuple[Any, ...]]:
    found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["train_loss"], line["val_loss"], line["lr"]) for line in found]


@pytest.mark.parametrize("step", [3, 7, 8])
def test_a_stopped_run_ends_at_the_same_step(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: int
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    summary = train(TrainRequest(corpus=(str(corpus),), assignments=SETTINGS, out=whole))
    assert (summary["steps"], summary["ended"], summary["best_step"]) == (8, "patience", 4)
    said = capsys.readouterr().err
    assert "The run ended at step 8 of 20: 2 evaluations in a row brought no lower validation loss" in said
    step_of, stops = Trainer.step, iter([signal.SIGTERM])

    def stepping(trainer: Trainer) -> None:
        step_of(trainer)
        if trainer.state.step == step:
            signal.raise_signal(next(stops))

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Trainer, "step", stepping)
        train(TrainRequest(corpus=(str(corpus),), assignments=SETTINGS, out=broken))
    resumed = train(TrainRequest(out=broken, resume=True))
    assert (resumed["steps"], resumed["ended"]) == (8, "patience")
    assert lines(broken) == lines(whole)
    expected, found = weights(whole, 8), weights(broken, 8)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_that_ran_out_of_patience_stays_there_until_it_has_more(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(TrainRequest(corpus=(str(corpus),), assignments=SETTINGS, out=run))
    again = train(TrainRequest(out=run, resume=True))
    assert (again["steps"], again["ended"]) == (8, "patience")
    more = train(TrainRequest(out=run, resume=True, assignments=("train.patience=3",)))
    assert (more["steps"], more["ended"], more["best_step"]) == (16, "patience", 10)
    all_of_it = train(TrainRequest(out=run, resume=True, assignments=("train.patience=0",)))
    assert (all_of_it["steps"], all_of_it["ended"]) == (20, "max_steps")


def test_patience_counts_what_is_no_number_as_no_improvement() -> None:
    state = TrainState()
    found = []
    for loss in (3.0, float("nan"), 3.0, 2.9, 3.1):
        state.evaluated(loss)
        found.append((state.evaluations_without_improvement, state.is_out_of_patience(2)))
    assert found == [(0, False), (1, False), (2, True), (0, False), (1, False)]
    assert not state.is_out_of_patience(0)
