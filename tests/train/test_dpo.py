"""A training by preferences: its figures and its best checkpoint, and that nothing about it is left to chance."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gptcli.config.load import with_origin
from gptcli.errors import CheckpointError, ConfigError, GptcliError, Stopped, UsageError
from gptcli.evaluate.requests import TextsRequest, evaluate_texts
from gptcli.nn import loss
from gptcli.session import ModelRequest
from gptcli.train import reference
from gptcli.train.example_inspection import inspect_examples
from gptcli.train.replay import replay
from gptcli.train.request import TrainRequest
from gptcli.train.run import train
from train.preference_runs import base_in, request, write_preferences
from train.test_train import stop_after

FIGURES = ("reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy", "kl")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, preferences beside it, and a finished training on them in `dpo`; no test changes them."""
    folder = tmp_path_factory.mktemp("preferences")
    write_preferences(folder / "preferences.jsonl")
    base = base_in(folder)
    train(request(base, folder / "dpo"))
    return base


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def timeless(run: Path) -> list[dict[str, Any]]:
    changing = ("time", "elapsed_seconds", "stepping_seconds", "tokens_per_second", "memory_bytes")
    return [{key: value for key, value in line.items() if key not in changing} for line in lines(run)]


def test_the_figures_of_preferences_are_logged_and_the_best_checkpoint_is_chosen_by_their_loss(base: Path) -> None:
    run = base.parent / "dpo"
    logged, summary = lines(run), json.loads((run / "summary.json").read_text())
    for line in logged:
        assert line["reward_margin"] == pytest.approx(line["reward_chosen"] - line["reward_rejected"], abs=1e-6)
        assert 0 <= line["reward_accuracy"] <= 1 and line["kl"] >= 0
    evaluated = [line for line in logged if line["val_loss"] is not None]
    assert [line["step"] for line in evaluated] == [4, 8]
    best = min(evaluated, key=lambda line: line["val_loss"])
    assert summary["best_step"] == best["step"] and summary["val_loss"] == pytest.approx(best["val_loss"], rel=1e-6)
    for name in FIGURES:
        assert summary[f"val_{name}"] == pytest.approx(best[f"val_{name}"], rel=1e-6)
    assert best["val_loss"] < math.log(2) and best["val_reward_accuracy"] > 0.6, "it has learnt"
    assert summary["val_bits_per_byte"] is None and "pairs of answers" in summary["val_bits_per_byte_withheld"]


def test_before_the_first_step_the_model_is_its_reference(base: Path, tmp_path: Path) -> None:
    train(request(base, tmp_path / "run", "optim.lr=1e-12", "train.max_steps=1", "train.log_every_steps=1"))
    [line] = lines(tmp_path / "run")
    assert line["train_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert [line[name] for name in ("reward_chosen", "reward_rejected", "reward_margin", "kl")] == pytest.approx(
        [0] * 4, abs=1e-6
    )


def test_the_reference_is_computed_once_and_again_if_the_cache_is_lost(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(reference, "reference_nats", never)
        train(request(base, tmp_path / "one", "train.max_steps=1"))
    cache = tmp_path / "cache"
    train(replace(request(base, tmp_path / "two", "train.max_steps=1"), cache_dir=cache))
    (nats,) = {path.read_bytes() for path in cache.glob("references/*/nats.bin") if len(path.read_bytes()) > 10_000}
    assert nats in {path.read_bytes() for path in base.parent.glob("cache/references/*/nats.bin")}
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("adapter", [(), ("adapter.name=lora", "train.max_steps=4")], ids=["full", "lora"])
def test_eval_measures_what_the_training_did(base: Path, tmp_path: Path, adapter: tuple[str, ...]) -> None:
    """On the validation pairs, against the copy of the initial model or the base of the adapter."""
    run = base.parent / "dpo"
    if adapter:
        run = tmp_path / "lora"
        train(request(base, run, *adapter))
    summary = json.loads((run / "summary.json").read_text())
    request_of = partial(TextsRequest, ModelRequest(str(run), device="cpu"), answers=0)
    found = evaluate_texts(request_of()).as_dict()["preferences"]
    assert found["loss"] == pytest.approx(summary["val_loss"], abs=1e-5)
    for name in FIGURES:
        assert found[name] == pytest.approx(summary[f"val_{name}"], abs=1e-4)
    low, high = found["reward_accuracy_interval"]
    assert low <= found["reward_accuracy"] <= high
    whole = evaluate_texts(request_of((str(base.parent / "preferences.jsonl"),)))
    assert whole.as_dict()["preferences"]["pairs"] == 30 and whole.as_dict()["examples"] == 30
    assert "against" in whole.text() and "chosen answers" in whole.text()
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "A colour?", "completion": "Red."}\n')
    answered = evaluate_texts(request_of((str(rows),))).as_dict()
    assert answered["examples"] == 1 and answered["preferences"] is None


@pytest.mark.slow
def test_a_stopped_run_resumes_with_the_same_bytes_also_without_its_cache(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(5, patch)
        train(replace(request(base, tmp_path / "run"), cache_dir=cache))
    shutil.rmtree(cache)
    train(TrainRequest(out=tmp_path / "run", resume=True, cache_dir=cache))
    whole, found = (load_file(run / "model.safetensors") for run in (base.parent / "dpo", tmp_path / "run"))
    assert all(torch.equal(whole[name], found[name]) for name in whole)
    assert timeless(base.parent / "dpo") == timeless(tmp_path / "run")


def test_pairs_are_shown_as_the_base_learns_them_without_naming_the_objective(base: Path) -> None:
    data = {"kind": "preferences", "corpus": [str(base.parent / "preferences.jsonl")]}
    (report,) = inspect_examples(with_origin({"data": data}, "test"), str(base), base.parent / "cache", 2)
    assert report["loss_on"] == "answers" and report["train"]["examples"] + report["val"]["examples"] == 30
    assert all(one["tokens_in_loss"] for one in report["shown"])


def test_replay_repeats_a_step_of_preferences(base: Path) -> None:
    run = base.parent / "dpo"
    found = replay(run, 6, base.parent / "cache")
    logged = {line["step"]: line for line in lines(run)}
    assert found["checkpoint"] == 4 and found["grad_norm"] == pytest.approx(logged[6]["grad_norm"], rel=1e-5)


def test_an_ordinary_loss_of_a_base_that_is_not_finite_ends_before_the_first_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loss.token_losses
    monkeypatch.setattr(loss, "token_losses", lambda *arguments: original(*arguments) * math.nan)
    with pytest.raises(CheckpointError, match="not finite"):
        train(replace(request(base, tmp_path / "run"), cache_dir=tmp_path / "cache"))


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (("data.kind=examples",), ConfigError, "add --set data.kind=preferences"),
        (("objective.name=cross_entropy",), ConfigError, "add --set objective.name=dpo"),
        (("objective.beta=0",), ConfigError, "beta"),
        (("objective.label_smoothing=0.5",), ConfigError, "label_smoothing"),
        (("train.seq_len=48", "train.tokens_per_step=96"), GptcliError, "too long"),
    ],
)
def test_settings_that_do_not_fit_preferences_are_one_line(
    base: Path, tmp_path: Path, changes: tuple[str, ...], error: type[GptcliError], said: str
) -> None:
    with pytest.raises(error) as raised:
        train(request(base, tmp_path / "run", *changes))
    assert said in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_preferences_need_a_model_to_start_from(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name the one to start from"):
        train(replace(request(base, tmp_path / "run"), init_from=None))
