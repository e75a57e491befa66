"""The rule for fine-tuning, on plain numbers."""

from __future__ import annotations

from typing import Any

import pytest

from gptcli.config import merge, validate
from gptcli.config.load import with_origin
from gptcli.train.config import RunConfig
from gptcli.train.planning.fine_tuning import RECIPES, choose_epochs, fine_tuning
from gptcli.train.planning.zero_config import CorpusFacts

EXAMPLES = {
    "data": {"kind": "examples"},
    "train": {"init_from": "base"},
    "model": {"n_embd": 128, "context_length": 256},
}


def chosen(sequences: int, device: str = "cpu", **sections: Any) -> RunConfig:
    user = merge(with_origin(EXAMPLES, "test"), with_origin(sections, "test"))
    return validate(RunConfig, merge(fine_tuning(CorpusFacts(0, device, sequences=sequences), user), user))


@pytest.mark.parametrize("sequences", [1, 10, 100, 3_000, 100_000])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_run_reads_its_examples_a_few_times_in_steps_of_a_sensible_size(sequences: int, device: str) -> None:
    config = chosen(sequences, device)
    steps, per_step = config.train.max_steps or 0, config.sequences_per_step
    epochs = steps * per_step / sequences
    most, fewest = RECIPES["full"].epochs
    assert fewest <= epochs < most + per_step / sequences
    assert per_step == 1 or steps >= 400
    assert config.train.tokens_per_step <= (8192 if device == "cpu" else 65536)
    assert 1 <= config.train.eval_every_steps <= steps and config.schedule.warmup_steps < max(2, steps)


def test_more_examples_are_read_fewer_times() -> None:
    epochs = [choose_epochs(RECIPES["full"], tokens) for tokens in (1e4, 1e5, 5e5, 1e8)]
    assert epochs == sorted(epochs, reverse=True) and epochs[0] == epochs[1] > epochs[2] > epochs[3]


def test_what_the_user_sets_stands_and_decides_what_follows() -> None:
    config = chosen(100, train={"tokens_per_step": 1024, "epochs": 2.0}, optim={"name": "sgd", "lr": 0.5})
    assert (config.train.tokens_per_step, config.train.epochs, config.optim.name) == (1024, 2.0, "sgd")
    fixed = chosen(100, train={"max_steps": 30})
    assert (fixed.train.max_steps, fixed.train.eval_every_steps, fixed.schedule.warmup_steps) == (30, 3, 3)


def test_a_longer_context_than_there_is_memory_for_is_not_trained_on() -> None:
    assert chosen(10, model={"context_length": 8192, "n_embd": 64}).seq_len == 1024
    assert chosen(10, model={"context_length": 64, "n_embd": 64}).seq_len == 64


def test_the_rate_depends_on_the_method_and_falls_with_the_width() -> None:
    def optim(width: int, **sections: Any) -> Any:
        return chosen(100, model={"n_embd": width, "context_length": 256}, **sections).optim

    lora = {"adapter": {"name": "lora"}}
    assert (optim(128).name, optim(128, **lora).name, optim(128, optim={"name": "adamw"}).name) == (
        "muon",
        "adamw",
        "adamw",
    )
    assert optim(128).lr == optim(64).lr == 4 * optim(512).lr
    assert optim(512, **lora).lr == pytest.approx(optim(128, **lora).lr / 4)
    normalised = chosen(100, model={"n_embd": 128, "context_length": 256, "qk_norm": True}, **lora)
    assert normalised.optim.lr == 1e-2 and optim(128, **lora).lr == pytest.approx(3e-3)
    assert optim(128, optim={"name": "muon", "lr": 1e-3}).lr == 1e-3
