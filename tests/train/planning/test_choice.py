"""A run under a deadline: it ends with its time, can be repeated to the last bit, and goes on after a stop."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.config import merge, parse_assignment, validate
from gptcli.errors import ConfigError, Stopped, UsageError
from gptcli.train.clock import Clock
from gptcli.train.config import RunConfig
from gptcli.train.loop import Trainer
from gptcli.train.planning import choice, plan
from gptcli.train.planning.zero_config import CorpusFacts, zero_config
from gptcli.train.run import TrainRequest, train
from numbered_lines import numbered_lines
from train.planning.ticking import set_ticking

SETTINGS = (
    "model.n_layer=2", "model.n_embd=32", "model.n_head=2", "model.context_length=16", "model.dropout=0.1",
    "data.tokenizer.name=char", "train.tokens_per_step=128", "train.batch_size=3", "train.sample_tokens=8",
    "device=cpu",
)  # fmt: skip


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(numbered_lines(900))
    return path


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by a twentieth of a second whenever it is read, and steps that are measured as taking that
    long, so that a busy machine changes nothing."""
    set_ticking(monkeypatch, 0.05)


def request(corpus: Path, out: Path, *more: str, seconds: float = 14.0, **options: Any) -> TrainRequest:
    return TrainRequest(corpus=(str(corpus),), assignments=(*SETTINGS, *more), out=out, max_seconds=seconds, **options)


def made(run: Path) -> dict[str, Any]:
    return tomllib.loads((run / "run.toml").read_text())["train"]


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def same_bytes(one: Path, two: Path) -> bool:
    last = made(one)["max_steps"]
    steps = [RunDirectory(run).checkpoint_path(last) for run in (one, two)]
    names = ("model.safetensors", "optimizer.safetensors")
    return all((steps[0] / name).read_bytes() == (steps[1] / name).read_bytes() for name in names)


@pytest.mark.slow
def test_a_run_ends_with_its_time_and_its_run_toml_repeats_it_to_the_last_bit(
    corpus: Path, tmp_path: Path, ticking: None
) -> None:
    summary = train(request(corpus, tmp_path / "timed"))
    settings = made(tmp_path / "timed")
    assert "max_seconds" not in settings and settings["max_steps"] == summary["steps"]
    assert " " in settings["pace"], "the clock was read, and the plan changed"
    repeated = train(TrainRequest(config_files=(str(tmp_path / "timed" / "run.toml"),), out=tmp_path / "repeated"))
    assert same_bytes(tmp_path / "timed", tmp_path / "repeated")
    assert repeated["val_loss"] == summary["val_loss"]  # of the same best checkpoint
    lines = [
        [(line["step"], line["lr"], line["val_loss"]) for line in metrics(run)]
        for run in (tmp_path / "timed", tmp_path / "repeated")
    ]
    assert lines[0] == lines[1]


def test_the_learning_rate_is_near_its_end_when_the_time_is_up(corpus: Path, tmp_path: Path, ticking: None) -> None:
    train(request(corpus, tmp_path / "run", "train.log_every_steps=1"))
    rates = [line["lr"] for line in metrics(tmp_path / "run")]
    assert rates[-1] < 0.05 * max(rates)
    peak = rates.index(max(rates))
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def stop_at(step: int) -> Callable[[Trainer], None]:
    """`Trainer.step` that asks for a stop when `step` is done."""
    original = Trainer.step

    def stepping(trainer: Trainer) -> None:
        original(trainer)
        if trainer.state.step == step:
            trainer.stop.signum = 2

    return stepping


@pytest.mark.slow
def test_a_resumed_run_keeps_its_deadline_and_can_be_repeated_too(
    corpus: Path, tmp_path: Path, ticking: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Trainer, "step", stop_at(25))
        train(request(corpus, broken))
    (saved,) = [info for info in RunDirectory(broken).checkpoints() if info.step == 25]
    state = json.loads((saved.path / "state.json").read_text())
    assert 0 < state["spent_seconds"] < 14 and made(broken)["max_seconds"] == 14
    # `began` is a minute early, which TickingClock takes off: what remains is what was spent before the stop.
    train(TrainRequest(out=broken, resume=True, began=time.monotonic() - 60))
    assert made(broken)["max_steps"] > 25
    assert made(broken)["pace"].startswith(" ".join(f"{step}:{end}" for step, end in state["knots"]))
    train(TrainRequest(config_files=(str(broken / "run.toml"),), out=tmp_path / "repeated"))
    assert same_bytes(broken, tmp_path / "repeated")


def test_a_run_whose_time_is_up_when_it_is_resumed_is_only_finished(
    corpus: Path, tmp_path: Path, ticking: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Trainer, "step", stop_at(30))
        train(request(corpus, tmp_path / "run"))
    summary = train(TrainRequest(out=tmp_path / "run", resume=True, began=time.monotonic() - 60 - 14))
    assert summary["steps"] == 30 and made(tmp_path / "run")["max_steps"] == 30
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.slow
def test_of_two_ends_the_first_one_counts(corpus: Path, tmp_path: Path, ticking: None) -> None:
    """With the whole schedule before it, and repeated as any such run."""
    summary = train(request(corpus, tmp_path / "run", "train.max_steps=12"))
    assert summary["steps"] == 12 and made(tmp_path / "run")["max_steps"] == 12
    rates = [line["lr"] for line in metrics(tmp_path / "run") if "lr" in line]
    assert rates[-1] < 0.2 * max(rates)
    assert train(request(corpus, tmp_path / "other", "train.max_steps=1000000"))["steps"] < 1000


@pytest.mark.slow
def test_a_finished_run_can_be_given_more_time_or_more_steps(
    corpus: Path, tmp_path: Path, ticking: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The clock that ticks when it is read begins anew with each process, a minute before which is taken off."""
    run, steps = tmp_path / "run", []
    steps.append(train(request(corpus, run))["steps"])
    spent = json.loads((RunDirectory(run).checkpoints()[-1].path / "state.json").read_text())["spent_seconds"]
    steps.append(train(TrainRequest(out=run, resume=True, max_seconds=14.0, began=time.monotonic() - 60))["steps"])
    assert 1.5 * steps[0] < steps[1] < 2.6 * steps[0], "as many steps more as the time bought before, or so"
    said = capsys.readouterr().err
    assert f"train.max_seconds was None and is {spent + 14:.3f}".rstrip("0") in said
    assert f"train.max_steps was {steps[0]} and is None" in said
    rates = {line["step"]: line["lr"] for line in metrics(run)}
    assert max(rate for step, rate in rates.items() if step > steps[0]) > 3 * rates[steps[0]], "a schedule of all steps"
    assert [line["step"] for line in metrics(run)] == sorted(rates), "no step twice"
    steps.append(train(TrainRequest(out=run, resume=True, assignments=(f"train.max_steps={steps[1] + 9}",)))["steps"])
    assert steps[2] == steps[1] + 9 and made(run)["pace"] == ""


@pytest.mark.slow
def test_more_time_is_counted_once_by_a_run_that_is_stopped_again(
    corpus: Path, tmp_path: Path, ticking: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train(request(corpus, run, "train.max_steps=20"))
    began = time.monotonic() - 60
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Trainer, "step", stop_at(30))
        train(TrainRequest(out=run, resume=True, max_seconds=30.0, began=began))
    budget = made(run)["max_seconds"]
    knots = json.loads((RunDirectory(run).checkpoint_path(30) / "state.json").read_text())["knots"]
    train(TrainRequest(out=run, resume=True, began=time.monotonic() - 60))
    assert made(run)["pace"].startswith(" ".join(f"{step}:{end}" for step, end in knots)), "the course that was begun"
    last = json.loads((RunDirectory(run).checkpoints()[-1].path / "state.json").read_text())
    assert last["config"]["train"]["max_seconds"] == budget
    assert 0.8 * budget < last["spent_seconds"] <= budget


def test_more_time_that_buys_no_step_is_refused_and_leaves_the_run_as_it_was(
    corpus: Path, tmp_path: Path, ticking: None
) -> None:
    run = tmp_path / "run"
    train(request(corpus, run, "train.max_steps=5"))
    before = {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file() and path.suffix != ".lock"}
    with pytest.raises(UsageError, match="give more --time"):
        train(TrainRequest(out=run, resume=True, max_seconds=0.5, began=time.monotonic() - 60))
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("knots", ["1:5", "0:9 9:9", "0:9 4:8 3:9", "0:9 4:6", "0:9,4:8", "0"])
def test_knots_that_lead_nowhere_are_refused(corpus: Path, tmp_path: Path, knots: str) -> None:
    assignments = (*SETTINGS, "train.max_steps=8", f"train.pace={knots!r}")
    with pytest.raises(ConfigError, match="pace"):
        train(TrainRequest(corpus=(str(corpus),), assignments=assignments, out=tmp_path / "run"))


def test_a_time_in_which_nothing_can_be_trained_is_refused_before_anything_is_written(
    corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"too short.*give \d+ s more"):
        train(request(corpus, tmp_path / "run", seconds=0.2))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_tells_the_choice_and_its_rivals(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus.write_text(numbered_lines(4000))
    estimates = train(TrainRequest(corpus=(str(corpus),), dry_run=True, max_seconds=60.0, assignments=("device=cpu",)))
    said = capsys.readouterr().err
    assert estimates["steps"] > 40 and "predicted best of" in said and said.count("bits per byte more") == 2
    assert not list(tmp_path.glob("runs"))


def test_a_part_of_a_corpus_is_read_where_there_is_no_time_for_all(
    corpus: Path, tmp_path: Path, ticking: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus.write_text(numbered_lines(4000))
    monkeypatch.setattr(choice, "preparing_seconds", lambda sample, facts: choice.PREPARE_PART * 14 / 9000)
    train(request(corpus, tmp_path / "run"))
    assert made(tmp_path / "run")["corpus_bytes"] == 9000
    report = json.loads((tmp_path / "run" / "data.json").read_text())
    assert 9000 <= report["train"]["bytes"] + report["val"]["bytes"] <= corpus.stat().st_size
    assert "time for no more" in capsys.readouterr().err


@pytest.mark.parametrize(("more", "largest"), [((), 1024), (("train.corpus_bytes=70000",), 512)])
def test_no_vocabulary_is_in_question_that_what_is_read_could_not_fill(
    tmp_path: Path, more: tuple[str, ...], largest: int
) -> None:
    draws = random.Random(1)
    words = ["".join(draws.choices("abcdefghijklmnop", k=draws.randint(2, 9))) for _ in range(3000)]
    path = tmp_path / "corpus.txt"
    path.write_text(" ".join(draws.choices(words, k=32_000)))  # about 200 kB
    user = merge(*map(parse_assignment, (f'data.corpus=["{path}"]', "device=cpu", *more)))
    draft = validate(RunConfig, merge(zero_config(CorpusFacts(1_000_000, "cpu"), user), user))
    clock, cpu = Clock(60.0, time.monotonic()), torch.device("cpu")
    request = choice.TimedRequest(user, draft, clock, cpu, "fp32", 10**10, tmp_path)
    facts = choice.look_at_text(request, draft.data).tokenizers
    assert max(fact.vocab_size for fact in facts if fact.config.name == "bpe") == largest


def test_what_follows_from_the_candidate_is_what_the_zero_config_rule_gives_its_shape(corpus: Path) -> None:
    corpus.write_text(numbered_lines(4000))
    user = merge(parse_assignment("optim.lr=0.5"), parse_assignment("train.max_seconds=60"))
    user = merge(user, parse_assignment(f'data.corpus=["{corpus}"]'), parse_assignment("device=cpu"))
    planned = plan.make_plan(user, corpus.parent / "cache", time.monotonic())
    config, best = planned.config, planned.choice.ranked[0].candidate
    assert isinstance(config, RunConfig) and config.optim.lr == 0.5 and config.optim.name == "muon"
    assert (config.model.n_layer, config.model.n_embd) == (best.model.n_layer, best.model.n_embd)
    assert config.train.tokens_per_step == best.tokens_per_step
    assert 3 * config.train.eval_every_steps <= planned.choice.ranked[0].steps


@pytest.mark.slow
@pytest.mark.parametrize(("lines", "seconds", "is_short"), [(900, 1200.0, True), (30_000, 120.0, False)])
def test_a_short_text_is_not_read_until_it_is_memorised(
    corpus: Path, capsys: pytest.CaptureFixture[str], lines: int, seconds: float, is_short: bool
) -> None:
    corpus.write_text(numbered_lines(lines))
    train(TrainRequest(corpus=(str(corpus),), dry_run=True, max_seconds=seconds, assignments=("device=cpu",)))
    said = capsys.readouterr().err
    assert ("would be memorised" in said) == is_short


@pytest.mark.slow
def test_the_command_is_done_when_its_time_is_up(corpus: Path, tmp_path: Path) -> None:
    """Within 3 %, in one of three runs: nobody foresees that a machine which others use stalls in the last second."""
    corpus.write_text(numbered_lines(20_000))
    seconds: list[float] = []
    while len(seconds) < 3 and not any(29.1 <= taken <= 30.9 for taken in seconds):
        out = tmp_path / f"run-{len(seconds)}"
        command = [sys.executable, "-m", "gptcli", "train", str(corpus), "--time", "30s", "--out", str(out), "--json"]
        began = time.monotonic()
        done = subprocess.run([*command, "--set", "device=cpu"], capture_output=True, text=True, timeout=120)
        seconds.append(time.monotonic() - began)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["val_bits_per_byte"] < 2.5
        weights = load_file(out / "model.safetensors")
        assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert any(29.1 <= taken <= 30.9 for taken in seconds), seconds
