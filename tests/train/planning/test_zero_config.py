"""The zero-config rule fills in what the user left open and leaves alone what the user set."""

from __future__ import annotations

import itertools

import pytest

from gptcli.config import merge, parse_assignment, validate
from gptcli.models.config import ModelConfig
from gptcli.optim.config import MuonConfig
from gptcli.train.config import RunConfig
from gptcli.train.planning.zero_config import DEFAULT_NAMES, CorpusFacts, choose_muon, muon_decay, zero_config

SIZES = [500, 40_000, 300_000, 1_000_000, 30_000_000, 3_000_000_000]


@pytest.mark.parametrize(("train_bytes", "device"), list(itertools.product(SIZES, ["cpu", "cuda", "mps"])))
def test_the_rule_gives_a_valid_config_for_every_size_and_device(train_bytes: int, device: str) -> None:
    validate(RunConfig, zero_config(CorpusFacts(train_bytes, device), merge()))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_more_text_never_gets_a_smaller_model_or_vocabulary(device: str) -> None:
    configs = [validate(RunConfig, zero_config(CorpusFacts(size, device), merge())) for size in SIZES]
    widths = [config.model.n_embd for config in configs]
    vocabularies = [getattr(config.data.tokenizer, "vocab_size", 0) for config in configs]
    assert widths == sorted(widths) and vocabularies == sorted(vocabularies)


@pytest.mark.parametrize(
    "assignment",
    [
        "model.n_layer=7",
        "model.n_embd=96",
        "train.max_steps=12",
        "train.batch_size=3",
        "model.context_length=48",
        "train.seq_len=32",
        "optim.lr=0.5",
        "optim.name=sgd",
        "schedule.name=constant",
        "data.tokenizer.name=byte",
    ],
)
def test_a_key_that_the_user_set_stands(assignment: str) -> None:
    user = parse_assignment(assignment)
    resolved = merge(zero_config(CorpusFacts(1_000_000, "cpu"), user), user)
    value = validate(RunConfig, resolved)
    for part in assignment.partition("=")[0].split("."):
        value = getattr(value, part)
    assert str(value) == assignment.partition("=")[2]


def test_heads_fit_whatever_width_the_user_set() -> None:
    for width in (8, 20, 48, 100, 130, 192, 1000):
        user = parse_assignment(f"model.n_embd={width}")
        config = validate(RunConfig, merge(zero_config(CorpusFacts(1_000_000, "cpu"), user), user))
        assert config.model.n_embd % config.model.n_head == 0


def test_a_short_corpus_gets_few_epochs() -> None:
    config = validate(RunConfig, zero_config(CorpusFacts(60_000, "cuda"), merge()))
    tokens = config.train.max_steps * config.train.tokens_per_step
    assert tokens <= max(45 * 60_000, 100 * config.train.tokens_per_step)


def test_a_key_of_the_rules_optimizer_or_schedule_may_be_set_without_naming_either() -> None:
    user = merge(parse_assignment("optim.momentum=0.8"), parse_assignment("schedule.warmup_steps=7"))
    validate(RunConfig, merge(DEFAULT_NAMES, user))
    config = validate(RunConfig, merge(zero_config(CorpusFacts(1_000_000, "cpu"), user), user))
    assert isinstance(config.optim, MuonConfig) and config.optim.momentum == 0.8
    assert config.schedule.warmup_steps == 7


def test_a_longer_run_gets_a_lower_rate() -> None:
    rates = []
    for steps in (100, 900, 2_500, 10_000):
        user = parse_assignment(f"train.max_steps={steps}")
        rates.append(validate(RunConfig, merge(zero_config(CorpusFacts(1_000_000, "cpu"), user), user)).optim.lr)
    assert rates[0] == rates[1] > rates[2] > rates[3]


@pytest.mark.parametrize(
    ("width", "steps", "epochs", "weights_per_token", "measured"),
    [
        (64, 1500, 10.6, 0.34, (0.8,)),
        (128, 566, 4.0, 2.7, (1.2,)),
        (128, 1500, 10.6, 2.7, (2.5,)),
        (128, 2500, 6.2, 1.9, (0.6, 1.0)),
        (128, 1200, 24.0, 7.9, (4.0,)),
    ],
)
def test_the_decay_is_near_what_was_measured_best(
    width: int, steps: int, epochs: float, weights_per_token: float, measured: tuple[float, ...]
) -> None:
    """The rows of docs/benchmarks.md in which weaker and stronger decays were tried too."""
    decay = muon_decay(epochs, weights_per_token, steps * choose_muon(width, steps, 1.0)["lr"])
    assert 0.75 * min(measured) <= decay <= 1.35 * max(measured)


def test_as_many_tokens_in_more_steps_forget_as_much() -> None:
    few, many = (muon_decay(5.0, 2.0, rate * steps) for rate, steps in ((1e-2, 500), (1e-2, 1000)))
    assert few == pytest.approx(2 * many, abs=0.02)


def test_text_that_is_seen_many_times_gets_dropout_unless_the_user_chose_it() -> None:
    def chosen(*assignments: str) -> ModelConfig:
        user = merge(*map(parse_assignment, assignments))
        return validate(RunConfig, merge(zero_config(CorpusFacts(300_000, "cpu"), user), user)).model

    assert (chosen("train.max_steps=500").dropout, chosen("train.max_steps=500").attention_dropout) == (0.0, None)
    assert (chosen("train.max_steps=5000").dropout, chosen("train.max_steps=5000").attention_dropout) == (0.1, 0.0)
    mine = chosen("train.max_steps=5000", "model.dropout=0.0")
    assert (mine.dropout, mine.attention_dropout) == (0.0, None)
