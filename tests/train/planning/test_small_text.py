"""The rule below 100 kB: one table for every device, and the same run with and without a deadline."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gptcli.config import RawConfig, merge, parse_assignment, validate
from gptcli.tokenizer.config import BpeTokenizerConfig
from gptcli.train.config import RunConfig
from gptcli.train.planning import plan
from gptcli.train.planning.small_text import (
    MOST_EPOCHS,
    MOST_SHRINKING,
    SMALL_TEXT,
    USUAL_BITS,
    packed_bits,
    repetition,
    small_shape,
)
from gptcli.train.planning.zero_config import CorpusFacts, zero_config
from gptcli.train.run import TrainRequest, train
from train.planning.ticking import set_step_seconds, set_ticking

SIZES = (200, 4_000, 10_000, 20_000, 50_000, 99_999)
WORDS = (
    "the",
    "a",
    "cat",
    "dog",
    "owl",
    "river",
    "stone",
    "walks",
    "sleeps",
    "under",
    "over",
    "and",
    "then",
    "small",
    "grey",
)


def prose(size: int) -> str:
    draws = random.Random(size)
    text = ""
    while len(text) < size:
        text += " ".join(draws.choices(WORDS, k=draws.randint(4, 9))).capitalize() + ".\n"
    return text[:size]


def resolved(facts: CorpusFacts, *assignments: str) -> RunConfig:
    user = merge(*map(parse_assignment, assignments)) if assignments else RawConfig()
    return validate(RunConfig, merge(zero_config(facts, user), user))


@pytest.mark.parametrize("size", SIZES)
def test_a_small_text_gets_bytes_or_bpe_on_top_of_them_and_the_same_run_on_every_device(size: int) -> None:
    configs = [resolved(CorpusFacts(size, device)) for device in ("cpu", "cuda", "mps")]
    for config in configs:
        tokenizer = config.data.tokenizer
        assert tokenizer.name in ("byte", "bpe")  # every text can be written with their 256 bytes
        assert not isinstance(tokenizer, BpeTokenizerConfig) or 257 <= tokenizer.vocab_size <= 1024
    machine = {"batch_size"}
    assert len({config.model_dump_json(exclude={"train": machine}) for config in configs}) == 1


@pytest.mark.parametrize("size", SIZES)
def test_the_steps_are_those_of_the_epochs_in_the_tokens_that_the_text_has(size: int) -> None:
    config = resolved(CorpusFacts(size, "cpu", bytes_per_token=2.0, packed_bits=USUAL_BITS))
    assert config.optim.lr * config.optim.weight_decay <= MOST_SHRINKING + 1e-9
    epochs = config.train.max_steps * config.train.tokens_per_step / (size / 2)
    assert epochs >= small_shape(size).epochs
    if size >= 4_000:
        assert epochs <= 1.3 * small_shape(size).epochs
    assert resolved(CorpusFacts(size, "cpu", 2.0), "train.max_steps=7").train.max_steps == 7


def test_text_that_repeats_is_read_more_often_with_less_dropout_within_bounds() -> None:
    bits = [packed_bits(text) for text in (prose(20_000), "one line that never changes\n" * 700)]
    assert bits[0] > 5 * bits[1]
    shape = small_shape(20_000)
    assert 1 < repetition(shape, 2.3) < repetition(shape, bits[1]) == MOST_EPOCHS / shape.epochs
    assert repetition(shape, None) == repetition(shape, 4.0) == 1 and packed_bits("") == USUAL_BITS
    often, once = (resolved(CorpusFacts(20_000, "cpu", 2.0, packed)) for packed in (bits[1], None))
    assert often.train.max_steps == pytest.approx(once.train.max_steps * MOST_EPOCHS / shape.epochs, rel=0.01)
    poems = [resolved(CorpusFacts(4_000, "cpu", 1.0, packed)) for packed in (bits[1], None)]
    assert 0 < poems[0].model.dropout < poems[1].model.dropout
    assert resolved(CorpusFacts(20_000, "cpu"), "model.dropout=0.0").model.attention_dropout is None


@pytest.mark.parametrize(
    ("size", "device", "shape", "steps", "lr", "decay"),
    [
        (SMALL_TEXT, "cpu", (512, 4, 128, 128, 1024), 409, 0.01, 4.0),
        (SMALL_TEXT, "cuda", (512, 4, 256, 128, 8192), 100, 0.0071, 4.0),
        (299_999, "cpu", (512, 4, 128, 128, 1024), 1803, 0.0084, 2.42),
        (1_000_000, "cpu", (1024, 4, 128, 128, 1024), 2500, 0.0077, 0.52),
        (4_000_000, "cuda", (2048, 6, 384, 256, 16384), 1496, 0.0051, 4.0),
    ],
)
def test_larger_texts_are_none_of_its_business(
    size: int, device: str, shape: tuple[int, ...], steps: int, lr: float, decay: float
) -> None:
    """Frozen values of the rule from before small texts had their own."""
    config = resolved(CorpusFacts(size, device))
    model, train_config = config.model, config.train
    assert isinstance(config.data.tokenizer, BpeTokenizerConfig)
    sizes = (config.data.tokenizer.vocab_size, model.n_layer, model.n_embd, model.context_length)
    assert (*sizes, train_config.tokens_per_step) == shape
    assert (train_config.max_steps, config.optim.lr, config.optim.weight_decay) == (steps, lr, decay)


def made(run: Path) -> dict[str, Any]:
    return tomllib.loads((run / "run.toml").read_text())


def planned(corpus: Path, *assignments: str) -> plan.Plan:
    user = merge(parse_assignment(f'data.corpus=["{corpus}"]'), *map(parse_assignment, ("device=cpu", *assignments)))
    return plan.make_plan(user, corpus.parent / "cache", time.monotonic())


def test_a_deadline_changes_nothing_of_a_small_text_but_when_it_ends_at_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_step_seconds(monkeypatch, 0.1)
    corpus = tmp_path / "poem.txt"
    corpus.write_text(prose(5_000))
    plain, timed = planned(corpus), planned(corpus, "train.max_seconds=600")
    assert timed.config.train.max_seconds == 600 and timed.choice is None
    assert timed.steps == plain.steps == timed.new_run_length().most_steps
    unbounded = timed.config.train.model_copy(update={"max_seconds": None})
    assert timed.config.model_copy(update={"train": unbounded}) == plain.config


def test_a_machine_that_is_faster_than_its_trial_does_not_train_beyond_the_steps_of_the_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that seemed to take three seconds each, and take far less: the run ends with the rule's last one."""
    corpus = tmp_path / "poem.txt"
    corpus.write_text(prose(2_000))

    set_ticking(monkeypatch, 3.0)
    small = ("model.n_layer=1", "model.n_embd=32", "train.sample_every_steps=0", "device=cpu")
    plain = train(TrainRequest((str(corpus),), assignments=small, out=tmp_path / "plain", dry_run=True))
    request = TrainRequest((str(corpus),), assignments=small, out=tmp_path / "run", max_seconds=100.0)
    summary = train(request)
    assert summary["steps"] == plain["steps"] > 100 / 3
    assert made(tmp_path / "run")["train"]["max_steps"] == plain["steps"]


def test_the_rule_for_a_deadline_names_the_most_steps_even_where_it_expects_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_step_seconds(monkeypatch, 0.1)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(prose(150_000))
    shape = ("model.n_layer=1", "model.n_embd=32", "model.context_length=64", "data.tokenizer.name=byte")
    made = planned(corpus, *shape, "train.max_seconds=60")
    assert made.choice is not None and made.steps < made.config.train.max_steps == made.choice.ranked[0].most_steps
    assert made.new_run_length().most_steps == made.config.train.max_steps


@pytest.mark.slow
def test_the_plain_command_and_a_deadline_that_it_meets_come_to_the_same(tmp_path: Path) -> None:
    """Three times the seconds of the plain command, so that a busy machine meets the deadline too."""
    corpus = tmp_path / "poem.txt"
    corpus.write_text(prose(1_500))
    bits = {}
    seconds = 0.0
    for name in ("plain", "timed"):
        more = [] if name == "plain" else ["--time", f"{3 * seconds:.1f}s"]
        command = [sys.executable, "-m", "gptcli", "train", str(corpus), "--out", str(tmp_path / name), *more]
        began = time.monotonic()
        done = subprocess.run([*command, "--json", "--set", "device=cpu"], capture_output=True, text=True, timeout=300)
        seconds = time.monotonic() - began
        assert done.returncode == 0, done.stderr
        bits[name] = json.loads(done.stdout)["val_bits_per_byte"]
    assert bits["timed"] == pytest.approx(bits["plain"], rel=0.05)
