"""A run on a mix of corpora: losses of each, resumed bit for bit, and opened like any other run."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.config import validate
from gptcli.config.reference import annotated_toml
from gptcli.data.shards import TokenShards
from gptcli.errors import UsageError
from gptcli.train.config import RunConfig
from gptcli.train.loop import Trainer
from gptcli.train.run import TrainRequest, train
from gptcli.train.validation import allotted

SETTINGS = (
    "model.n_layer=1", "model.n_embd=32", "model.n_head=2", "model.context_length=16", "data.tokenizer.name=char",
    "train.max_steps=12", "train.tokens_per_step=128", "train.batch_size=3", "train.eval_every_steps=4",
    "train.eval_tokens=256", "train.checkpoint_every_steps=4", "train.log_every_steps=2",
    "train.sample_every_steps=0", "device=cpu",
)  # fmt: skip


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    (tmp_path / "owls.txt").write_text("".join(f"line {n}: the owl counts {n * n}.\n" for n in range(300)))
    (tmp_path / "cats.txt").write_text("".join(f"and {n} cats sleep.\n" for n in range(300)))
    path = tmp_path / "mix.toml"
    path.write_text(
        f'[[data.mix]]\ncorpus = "{tmp_path}/owls.txt"\nweight = 3.0\n'
        f'[[data.mix]]\ncorpus = ["{tmp_path}/cats.txt"]\nweight = 1.0\nname = "sleep"\n'
    )
    return path


def request(mix: Path, out: Path, *more: str, **options: object) -> TrainRequest:
    return TrainRequest(config_files=(str(mix),), assignments=(*SETTINGS, *more), out=out, **options)


def test_a_run_on_a_mix_tells_the_loss_and_the_epochs_of_each(mix: Path, tmp_path: Path) -> None:
    summary = train(request(mix, tmp_path / "run"))
    assert list(summary["mix"]) == ["owls", "sleep"]
    losses = [figures["val_loss"] for figures in summary["mix"].values()]
    assert summary["val_loss"] == pytest.approx(0.75 * losses[0] + 0.25 * losses[1]) and summary["val_part"] == 1
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    for number, (name, share) in enumerate((("owls", 0.75), ("sleep", 0.25))):
        tokens = data["mix"][number]["train_tokens"]
        assert summary["mix"][name]["epochs"] == 12 * 8 * share / (tokens // 16)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        parts = [line[f"val_loss/{name}"] for name in ("owls", "sleep")] if line["val_loss"] else []
        assert not parts or line["val_loss"] == pytest.approx(0.75 * parts[0] + 0.25 * parts[1])
    assert sum("val_loss/owls" in line for line in lines) == 3
    kept = TokenShards.open(tmp_path / "run" / "val")
    assert len(kept) == data["val_tokens"] and kept.documents == 2, "gptcli eval RUN reads all that was validated on"


def test_a_run_on_a_mix_is_resumed_bit_for_bit_from_its_own_config(
    mix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(request(mix, tmp_path / "whole"))
    original = Trainer.save

    def save(trainer: Trainer) -> None:
        original(trainer)
        if trainer.state.step == 8:
            trainer.saver.wait()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "save", save)
        with pytest.raises(KeyboardInterrupt):
            train(request(mix, tmp_path / "broken"))
    train(TrainRequest(out=tmp_path / "broken", resume=True))
    one, two = (
        load_file(RunDirectory(tmp_path / name).checkpoint_path(12) / "model.safetensors")
        for name in ("whole", "broken")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_mix_is_shown_as_toml_that_can_be_read_again(mix: Path) -> None:
    from gptcli.config.shipped import read_settings

    config = validate(RunConfig, read_settings([str(mix)], ()))
    shown = tomllib.loads(annotated_toml(config))
    assert [entry["weight"] for entry in shown["data"]["mix"]] == [3.0, 1.0]
    assert shown["data"]["mix"][1]["name"] == "sleep" and shown["data"]["pack"] == "cross"


def test_a_mix_has_no_rule_for_a_deadline(mix: Path, tmp_path: Path) -> None:
    without_steps = tuple(setting for setting in SETTINGS if "max_steps" not in setting)
    asked = TrainRequest(config_files=(str(mix),), assignments=without_steps, out=tmp_path / "run", max_seconds=60.0)
    with pytest.raises(UsageError, match="no rule for a mix"):
        train(asked)


def test_tokens_are_allotted_evenly_and_what_a_small_part_leaves_goes_to_the_others() -> None:
    assert list(allotted(100, [1000, 1000])) == [50, 50]
    assert list(allotted(100, [1000, 10, 1000])) == [45, 10, 45]
    assert list(allotted(10_000, [20, 30])) == [20, 30]
