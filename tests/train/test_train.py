"""A whole training run: what it leaves behind, and that stopping and resuming changes nothing."""

from __future__ import annotations

import json
import math
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.console import size
from gptcli.data.shards import TokenShards
from gptcli.errors import CheckpointError, DataError, DivergedError, Stopped, UsageError
from gptcli.evaluate.baseline import xz_bits_per_byte
from gptcli.train.loop import Trainer
from gptcli.train.run import TrainRequest, train
from gptcli.train.step import Stepper
from gptcli.train.validation import Validation, Validator

SETTINGS = (
    "model.n_layer=2", "model.n_embd=32", "model.n_head=2", "model.context_length=16", "model.dropout=0.1",
    "data.tokenizer.name=char", "train.max_steps=12", "train.tokens_per_step=128", "train.batch_size=3",
    "train.eval_every_steps=4", "train.eval_tokens=256", "train.checkpoint_every_steps=4", "train.log_every_steps=2",
    "train.sample_every_steps=6", "train.sample_tokens=8", "device=cpu",
)  # fmt: skip


def request(corpus: Path, out: Path, *more: str, **options: bool) -> TrainRequest:
    return TrainRequest(corpus=(str(corpus),), assignments=(*SETTINGS, *more), out=out, **options)


def weights(run: Path, step: int, part: str = "model") -> dict[str, torch.Tensor]:
    return load_file(RunDirectory(run).checkpoint_path(step) / f"{part}.safetensors")


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_all_that_later_commands_need(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    summary = train(request(corpus, run, "data.val_fraction=0.25"))
    text = corpus.read_bytes()[-TokenShards.open(run / "val").bytes :]  # a single document is validated on its tail
    assert summary["xz_bits_per_byte"] == xz_bits_per_byte(text)
    said = capsys.readouterr().err
    assert f"xz -9 needs {summary['xz_bits_per_byte']:.2f} for the same text" in said
    assert summary["verdict_text"] in said and summary["ended"] == "max_steps"
    low, high = summary["val_loss_interval"]
    assert low < summary["val_loss"] < high
    assert RunDirectory(run).best().step == summary["best_step"]
    assert summary["steps"] == 12 and summary["tokens"] == 12 * 128
    assert summary["val_bits_per_byte"] == pytest.approx(summary["val_loss"] / math.log(2), rel=0.02)
    assert set(summary) == {
        "run", "steps", "tokens", "parameters", "trained_parameters", "train_seconds", "tokens_per_second",
        "train_loss", "val_loss", "val_bits_per_byte", "val_part", "peak_memory_bytes", "xz_bits_per_byte",
        "val_loss_interval", "verdict", "verdict_text", "ended", "best_step",
        "val_bits_per_byte_withheld", "val_lost_text", "device",
    }  # fmt: skip
    for name in ("run.toml", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
                 "generation_config.json", "metrics.jsonl", "data.json", "samples.jsonl", "val"):  # fmt: skip
        assert (run / name).exists(), name
    metrics = lines(run)
    assert [line["step"] for line in metrics] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in metrics if line["val_loss"] is not None] == [4, 8, 12]
    assert {"step", "tokens", "time", "elapsed_seconds", "stepping_seconds", "train_loss", "val_loss", "lr",
            "grad_norm", "tokens_per_second", "memory_bytes", "tokens_hash"} == set(metrics[0])  # fmt: skip
    assert len(metrics[1]["val_loss_parts"]) == 32
    assert sum(metrics[1]["val_loss_parts"]) / 32 == pytest.approx(metrics[1]["val_loss"], rel=0.01)


def test_stepping_seconds_leave_out_what_happens_between_steps(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Validator.measure

    def slow(*arguments: Any) -> Validation:
        time.sleep(0.3)
        return measure(*arguments)

    monkeypatch.setattr(Validator, "measure", slow)
    train(request(corpus, tmp_path / "run"))
    stepping = [line["stepping_seconds"] for line in lines(tmp_path / "run")]
    between = [line["elapsed_seconds"] - line["stepping_seconds"] for line in lines(tmp_path / "run")]
    assert 0 < stepping[0] < stepping[-1]
    assert between[-1] >= 0.6, "two evaluations lie before step 12"


def test_training_learns(corpus: Path, tmp_path: Path) -> None:
    train(request(corpus, tmp_path / "run", "train.max_steps=150", "optim.lr=0.01", "model.dropout=0.0"))
    metrics = lines(tmp_path / "run")
    assert metrics[-1]["train_loss"] < 0.6 * metrics[0]["train_loss"]
    assert metrics[-1]["val_loss"] < 0.6 * metrics[0]["train_loss"]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_learns_on_cuda_in_every_precision(corpus: Path, tmp_path: Path, precision: str) -> None:
    settings = ("device=cuda", f"train.precision={precision}", "train.max_steps=150", "optim.lr=0.01")
    summary = train(request(corpus, tmp_path / "run", *settings))
    assert summary["val_loss"] < 0.6 * lines(tmp_path / "run")[0]["train_loss"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_run_follows_the_eager_one(corpus: Path, tmp_path: Path) -> None:
    for name in ("false", "true"):
        exactly = ("model.dropout=0.0", "train.precision=fp32", "optim.ns_precision=fp32")
        train(request(corpus, tmp_path / name, *exactly, f"train.compile={name}"))
    eager, compiled = lines(tmp_path / "false"), lines(tmp_path / "true")
    assert [line["train_loss"] for line in compiled] == pytest.approx([line["train_loss"] for line in eager], rel=1e-4)


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch, signum: int = signal.SIGINT) -> None:
    """Send this process a real signal within step `step`."""
    original = Trainer.step

    def stepping(trainer: Trainer) -> object:
        result = original(trainer)
        if trainer.state.step == step:
            signal.raise_signal(signum)
        return result

    monkeypatch.setattr(Trainer, "step", stepping)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 4, 7, 11])
def test_resume_is_bitwise_identical(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(request(corpus, whole))
    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped:
        stop_after(step, patch)
        train(request(corpus, broken))
    assert stopped.value.exit_code == 130
    assert f"gptcli train --resume --out {broken}" in str(stopped.value)
    train(TrainRequest(out=broken, resume=True))
    for part in ("model", "optimizer"):
        expected, found = weights(whole, 12, part), weights(broken, 12, part)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    timeless = ("step", "tokens", "train_loss", "val_loss", "lr", "grad_norm")
    assert [[line[k] for k in timeless] for line in lines(whole)] == [
        [line[k] for k in timeless] for line in lines(broken)
    ]


@pytest.mark.parametrize("key", ["train.eval_every_steps=5", "train.sample_every_steps=1", "train.batch_size=8"])
def test_looking_at_a_run_does_not_change_it(corpus: Path, tmp_path: Path, key: str) -> None:
    exactly = ("model.dropout=0.0", "train.precision=fp32", "optim.name=adamw")
    train(request(corpus, tmp_path / "one", *exactly))
    train(request(corpus, tmp_path / "two", *exactly, key))
    one, two = weights(tmp_path / "one", 12), weights(tmp_path / "two", 12)
    if "batch_size" in key:
        assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    else:
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="there is no such signal here")
def test_a_signal_shows_how_the_run_stands_and_changes_nothing(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(request(corpus, tmp_path / "undisturbed"))
    before = signal.getsignal(signal.SIGUSR2)
    assert "so far" not in capsys.readouterr().err
    stop_after(9, monkeypatch, signal.SIGUSR2)
    train(request(corpus, tmp_path / "asked"))
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "so far" in line]
    best = min(line["val_loss"] for line in lines(tmp_path / "asked") if line["val_loss"] and line["step"] <= 9)
    assert told.startswith("step 9/12, ") and f"the lowest validation loss is {best:.4f}, at step" in told
    one, two = (weights(tmp_path / name, 12) for name in ("undisturbed", "asked"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert signal.getsignal(signal.SIGUSR2) == before


def test_a_signal_number_decides_the_exit_code(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(3, monkeypatch, signal.SIGTERM)
    with pytest.raises(Stopped) as stopped:
        train(request(corpus, tmp_path / "run"))
    assert stopped.value.exit_code == 143
    assert [saved.step for saved in RunDirectory(tmp_path / "run").checkpoints()] == [3]


def test_the_best_and_the_last_checkpoints_are_kept(corpus: Path, tmp_path: Path) -> None:
    train(request(corpus, tmp_path / "run", "train.checkpoint_every_steps=1", "train.keep_last=2"))
    run = RunDirectory(tmp_path / "run")
    best = run.best()
    assert best is not None
    assert {saved.step for saved in run.checkpoints()} == {best.step, 11, 12}


def test_a_diverging_run_stops_with_its_last_good_checkpoint(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"lower optim\.lr"):
        train(request(corpus, tmp_path / "run", "optim.name=sgd", "optim.lr=1e30", "train.grad_clip=0",
                      "train.max_steps=50"))  # fmt: skip


def test_a_dry_run_writes_no_run_directory(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    estimates = train(request(corpus, tmp_path / "run", dry_run=True))
    assert estimates["steps"] == 12 and estimates["estimated_train_seconds"] > 0
    assert not (tmp_path / "run").exists()
    shown = capsys.readouterr().err
    for label in ("corpus", "tokenizer", "model", "steps", "memory", "time", "chosen"):
        assert label in shown
    chosen = shown[shown.index("chosen") :].splitlines()
    assert all(len(line) <= 80 for line in chosen)
    assert "            schedule: name=linear, warmup_steps=1, min_lr=0" in chosen
    assert "n_layer=" not in shown  # the user set it
    total, training, rest = re.search(r"about (\S+ .B): (\S+ .B) to train, (\S+ .B) for Python", shown).groups()
    assert training == size(estimates["estimated_memory_bytes"])
    bytes_of = {"MB": 1e6, "GB": 1e9}
    total, rest = (float(number) * bytes_of[unit] for number, unit in (total.split(), rest.split()))
    assert total >= rest > 100e6


def test_a_second_training_in_one_directory_is_refused(corpus: Path, tmp_path: Path) -> None:
    train(request(corpus, tmp_path / "run"))
    with pytest.raises(UsageError, match="--resume"):
        train(request(corpus, tmp_path / "run"))


def test_resuming_with_another_corpus_is_refused(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(5, patch)
        train(request(corpus, tmp_path / "run"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.*") if path.suffix != ".lock"}
    corpus.write_text(corpus.read_text().replace("owl", "cow"))
    with pytest.raises(CheckpointError, match="corpus"):
        train(TrainRequest(out=tmp_path / "run", resume=True))
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in before}


def test_resuming_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(TrainRequest(out=tmp_path / "run", resume=True))
    with pytest.raises(UsageError, match="--out"):
        train(TrainRequest(resume=True))


def test_a_corpus_shorter_than_a_sequence_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("too short to learn from")
    with pytest.raises(DataError):
        train(request(path, tmp_path / "run", "model.context_length=512", "train.tokens_per_step=512"))
    assert not (tmp_path / "run").exists()


ALWAYS = property(lambda stepper: True, lambda stepper, value: None)
"""Of every instance true, whatever it is set to."""


@pytest.mark.parametrize("step", [3, 8])
def test_a_run_whose_results_are_read_late_is_the_same(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """As on a GPU: each step is launched before the result of the one before is known, also after a resume."""
    train(request(corpus, tmp_path / "early"))
    monkeypatch.setattr(Stepper, "decides_on_device", ALWAYS, raising=False)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(step, patch)
        train(request(corpus, tmp_path / "late"))
    train(TrainRequest(out=tmp_path / "late", resume=True))
    for part in ("model", "optimizer"):
        early, late = weights(tmp_path / "early", 12, part), weights(tmp_path / "late", 12, part)
        assert all(torch.equal(early[name], late[name]) for name in early)
    timeless = ("step", "tokens", "train_loss", "val_loss", "lr", "grad_norm")
    assert [[line[k] for k in timeless] for line in lines(tmp_path / "early")] == [
        [line[k] for k in timeless] for line in lines(tmp_path / "late")
    ]


def test_a_run_that_diverges_stops_also_where_results_are_read_late(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Stepper, "decides_on_device", ALWAYS, raising=False)
    spoiling = ("optim.name=sgd", "optim.lr=1e30", "train.grad_clip=0", "train.max_steps=50")
    with pytest.raises(DivergedError, match=r"3 steps in a row up to step (\d+)") as failure:
        train(request(corpus, tmp_path / "run", *spoiling))
    last = int(str(failure.value).partition("up to step ")[2].split()[0])
    assert f"step {last - 2}: loss nan" in capsys.readouterr().err
