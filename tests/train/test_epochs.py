"""train.epochs: so many passes over the training split, as steps once the text is tokenized."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gptcli.config.shipped import read_settings
from gptcli.errors import ConfigError
from gptcli.train.run import TrainRequest, train

SETTINGS = (
    "model.n_layer=1", "model.n_embd=32", "model.n_head=2", "model.context_length=16", "data.tokenizer.name=byte",
    "train.tokens_per_step=256", "train.batch_size=16", "train.sample_every_steps=0", "device=cpu",
)  # fmt: skip


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("".join(f"line {n} says {n * n}.\n" for n in range(100)))
    return path


def made(run: Path) -> dict[str, Any]:
    return tomllib.loads((run / "run.toml").read_text())["train"]


def test_epochs_become_the_steps_that_they_take_and_can_be_extended_by_a_resume(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = train(TrainRequest((str(corpus),), assignments=(*SETTINGS, "train.epochs=1.5"), out=run))
    windows = json.loads((run / "data.json").read_text())["train_tokens"] // 16
    assert summary["steps"] == math.ceil(1.5 * windows / 16)
    assert made(run)["max_steps"] == summary["steps"] and "epochs" not in made(run)
    more = train(TrainRequest(assignments=("train.epochs=3",), out=run, resume=True))
    assert more["steps"] == math.ceil(3 * windows / 16)


def test_what_follows_from_the_steps_is_chosen_for_those_of_the_epochs(corpus: Path, tmp_path: Path) -> None:
    def chosen(*assignments: str) -> dict[str, Any]:
        request = TrainRequest((str(corpus),), assignments=(*SETTINGS, *assignments), out=tmp_path / assignments[0])
        train(request)
        return tomllib.loads((tmp_path / assignments[0] / "run.toml").read_text())

    by_epochs = chosen("train.epochs=2")
    assert by_epochs == chosen(f"train.max_steps={by_epochs['train']['max_steps']}")


def test_of_epochs_and_steps_the_later_layer_counts_and_one_layer_may_set_only_one(
    corpus: Path, tmp_path: Path
) -> None:
    steps, epochs = tmp_path / "steps.toml", tmp_path / "epochs.toml"
    steps.write_text("[train]\nmax_steps = 7\nlog_every_steps = 3\n")
    epochs.write_text("[train]\nepochs = 2.5\n")
    assert read_settings([str(steps), str(epochs)], ()).values["train"] == {"epochs": 2.5, "log_every_steps": 3}
    assert read_settings([str(epochs)], ["train.max_steps=9"]).values["train"] == {"max_steps": 9}
    both = TrainRequest((str(corpus),), assignments=("train.epochs=2", "train.max_steps=9"), out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--set: train.epochs and train.max_steps both.*leave one of them out"):
        train(both)


def test_a_recipe_with_steps_takes_epochs_instead(corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[train]\nmax_steps = 1000\n")
    request = TrainRequest(
        (str(corpus),), (str(recipe),), (*SETTINGS, "train.epochs=0.5"), out=tmp_path / "run", dry_run=True
    )
    assert train(request)["steps"] < 10
