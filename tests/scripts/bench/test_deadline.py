"""Bits per byte at a deadline: the texts, the iterations that fit, xz, the tables, and a real comparison, tiny."""

from __future__ import annotations

import json
import lzma
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.curves import Point
from bench.deadline import (
    CHARACTERS,
    SUBWORDS,
    DeadlineRequest,
    bits,
    bits_and_seconds,
    encodings,
    measure,
    ratio,
    run_deadline,
    tables,
)
from bench.deadline_runs import (
    Finish,
    Script,
    chosen,
    iterations_until,
    run_nanogpt,
    schedule_arguments,
    xz_bits_per_byte,
)
from bench.nanogpt_command import ScriptRun, write_ids
from bench.peers import choose_peers
from bench.split_text import split_text
from gptcli.errors import UsageError
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.workers import BenchError
from gptcli.tokenizer.tokenizer import load_tokenizer

TEXT = "".join(f"line {n}: the {('cat', 'dog', 'owl')[n % 3]} counts {n * n} für 10 €.\n" for n in range(1500))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    """A byte-level vocabulary in the form that GPT-2's has: every byte, and one merge."""
    from tokenizers.pre_tokenizers import ByteLevel

    folder = tmp_path / "vocabulary"
    folder.mkdir()
    tokens = [*sorted(ByteLevel.alphabet()), "th"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\n")
    return folder


def finish(bits_per_byte: float, seconds: float = 60.0, part: float = 1.0, seed: int = 1) -> Finish:
    return Finish(seed, bits_per_byte, seconds, {"chosen": "char of 60, 2 x 64", "val_part": part})


def test_all_have_the_last_tenth_of_the_same_text(corpus: Path, vocabulary: Path, tmp_path: Path) -> None:
    text = split_text(str(corpus), tmp_path / "cache")
    cut = int(len(TEXT) * 0.9)
    assert abs(len("".join(text.train)) - cut) <= 1
    assert "".join((*text.train, *text.val)) == TEXT
    assert b"".join(text.as_bytes()) == TEXT.encode()
    alphabet = sorted(set(TEXT))
    ids = text.characters()
    assert "".join(alphabet[number] for part in ("train", "val") for number in ids[part]) == TEXT
    tokenizer = load_tokenizer(vocabulary)
    assert tokenizer.decode(text.tokens(tokenizer)["val"]) == "".join(text.val)


def test_characters_that_only_the_last_tenth_has_are_numbered_too(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("ab" * 45 + "ż" * 10, encoding="utf-8")
    ids = split_text(str(tmp_path / "corpus.txt"), tmp_path / "cache").characters()
    assert sorted(set(ids["train"].tolist())) == [0, 1]
    assert set(ids["val"].tolist()) >= {2}


def test_a_vocabulary_is_rounded_up_as_nanogpt_rounds_gpt2s(corpus: Path, vocabulary: Path, tmp_path: Path) -> None:
    text, tokenizer = split_text(str(corpus), tmp_path / "cache"), load_tokenizer(vocabulary)
    assert [(name, size) for name, _, size in encodings(text, tokenizer)] == [(CHARACTERS, None), (SUBWORDS, 320)]
    assert [name for name, _, _ in encodings(text, None)] == [CHARACTERS]
    assert [name for name, _, _ in encodings(text, tokenizer, without_characters=True)] == [SUBWORDS]


def test_nanogpt_is_not_left_without_any_tokens(corpus: Path) -> None:
    with pytest.raises(UsageError, match="add --gpt2-vocab"):
        measure(DeadlineRequest((str(corpus),), without_characters=True), [], BenchOptions(1, 0.0, 1, "cpu"))


def test_ids_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    fits = {"train": np.array([0, 65_535]), "val": np.array([1])}
    write_ids(tmp_path / "fits", fits)
    assert np.fromfile(tmp_path / "fits" / "train.bin", dtype=np.uint16).tolist() == [0, 65_535]
    assert pickle.loads((tmp_path / "fits" / "meta.pkl").read_bytes()) == {"vocab_size": 65_536}
    with pytest.raises(BenchError, match="keeps ids in 16 bits, and this vocabulary goes up to 65,536"):
        write_ids(tmp_path / "beyond", fits | {"val": np.array([65_536])})


def trial(step: float, *, startup: float = 5.0, first: float = 3.0, evaluation: float = 0.5) -> ScriptRun:
    """Forty-one iterations: an evaluation before the first, an evaluation and a checkpoint (0.25 s) before the last."""
    marks = tuple((n + 1, first + n * step) for n in range(41))
    pauses = (2.0, evaluation, 0.25)
    return ScriptRun((), marks, pauses, launched=100.0, ready_time=100.0 + startup, end_time=0.0)


@pytest.mark.parametrize("seconds", [15.0, 60.0, 301.0])
def test_as_many_iterations_are_chosen_as_the_deadline_holds(seconds: float) -> None:
    step = 0.03
    count = iterations_until(seconds, trial(step))

    def spent(iterations: int) -> float:
        """Start, first evaluation, first iteration, the others, one more at the end, five measurements."""
        return 5.0 + 2.0 + 3.0 + iterations * step + 5 * 0.75

    assert count % 5 == 0
    assert spent(count) <= seconds < spent(count + 5) + 2 * step


def test_a_deadline_that_is_too_short_is_said_so() -> None:
    with pytest.raises(BenchError, match="no time for 5 iterations in 12 s"):
        iterations_until(12.0, trial(0.03))
    with pytest.raises(BenchError, match="no time for 5 iterations in 14 s"):
        iterations_until(14.0, trial(0.1))


@pytest.mark.parametrize(("step", "runs"), [(0.03, 1), (0.01, 2)])
def test_a_run_that_ends_early_is_done_again_by_its_own_speed(
    step: float, runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial saw 0.03 s an iteration. With 0.01 s the command is over long before, and the next is not."""
    told: list[int] = []

    def run_script(checkout: str, dataset: Path, arguments: tuple[str, ...], *_: Any, **__: Any) -> ScriptRun:
        count = int(next(text for text in arguments if text.startswith("--max_iters=")).partition("=")[2])
        told.append(count)
        marks = ((1, 3.0), (count + 1, 3.0 + count * step))
        points = tuple(Point(count * n // 5, float(n), 3.0 - 0.1 * n) for n in range(1, 6))
        wall = 5.0 + 2.0 + marks[-1][1] + 5 * 0.75
        return ScriptRun(points, marks, (2.0, *(5 * (0.5, 0.25))), launched=0.0, ready_time=5.0, end_time=wall)

    monkeypatch.setattr("bench.deadline_runs.run_script", run_script)
    script = Script("checkout", tmp_path, (), 1, "cpu")
    found = run_nanogpt(script, trial(0.03), 0.5, 60.0, 7, tmp_path)
    assert len(told) == runs and found.facts["iterations"] == told[-1]
    assert 59.0 < found.wall_seconds <= 60.0
    assert found.bits_per_byte == pytest.approx(2.5 / math.log(2) * 0.5)


def test_the_schedule_ends_with_the_run_and_the_last_checkpoint_is_its_end() -> None:
    assert schedule_arguments(2000, ()) == (
        "--max_iters=2000",
        "--lr_decay_iters=2000",
        "--eval_interval=400",
        "--eval_iters=1",
        "--warmup_iters=100",
    )
    assert "--warmup_iters=20" in schedule_arguments(200, ()), "never all of a short run"
    told = schedule_arguments(200, ("--warmup_iters=7",))
    assert not any(argument.startswith("--warmup_iters") for argument in told)


def test_xz_is_charged_what_the_second_text_adds() -> None:
    train, val = TEXT[:40_000].encode(), TEXT[40_000:44_000].encode()
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    both = len(lzma.compress(train + val, lzma.FORMAT_XZ, filters=filters))
    alone = len(lzma.compress(train, lzma.FORMAT_XZ, filters=filters))
    assert xz_bits_per_byte(train, val) == pytest.approx(8 * (both - alone) / len(val), rel=0.02)
    noise = np.random.default_rng(0).bytes(20_000)
    assert xz_bits_per_byte(noise, noise) < 0.2 < 7.9 < xz_bits_per_byte(train, noise) < 8.2


def test_the_choice_is_told_in_a_few_words() -> None:
    config: dict[str, Any] = {
        "data": {"tokenizer": {"name": "bpe"}},
        "model": {"vocab_size": 4096, "n_layer": 6, "n_embd": 256, "context_length": 512},
    }
    assert chosen(config, 12_345_678) == "bpe of 4,096, 6 x 256, context 512, 12 M weights"


def test_a_peer_that_fails_is_left_out_of_that_deadline_with_its_reason() -> None:
    def fails(seconds: float, seed: int, folder: Path) -> Finish:
        raise BenchError(f"no time in {seconds:g} s")

    def train(seconds: float, seed: int, folder: Path) -> Finish:
        assert seconds == 30.0 and not list(folder.iterdir())
        return finish(2.0 + seed, seed=seed)

    begun = {SUBWORDS: "ids do not fit"}
    held = run_deadline("x", 0.5, (1, 2, 4), {"gptcli": train, CHARACTERS: fails}, begun)
    assert list(held["contenders"]) == ["gptcli"]
    assert held["contenders"]["gptcli"]["bits_per_byte"] == {"median": 4.0, "low": 3.0, "high": 6.0}
    assert held["left_out"] == {CHARACTERS: "no time in 30 s", SUBWORDS: "ids do not fit"}
    assert held["over_better_nanogpt"] is None
    assert begun == {SUBWORDS: "ids do not fit"}, "the next deadline is tried again"
    with pytest.raises(BenchError, match="no time"):
        run_deadline("x", 0.5, (1,), {"gptcli": fails}, {})


def test_the_table_has_a_row_a_corpus_and_says_who_is_missing() -> None:
    def train(value: float, part: float = 1.0) -> Any:
        return lambda seconds, seed, folder: finish(value, 61.25, part)

    whole = run_deadline("a", 1.0, (1,), {"gptcli": train(2.0), CHARACTERS: train(4.0), SUBWORDS: train(2.5)}, {})
    partly = run_deadline("b", 1.0, (1,), {"gptcli": train(3.0, 0.25)}, {CHARACTERS: "it broke"})
    assert whole["over_better_nanogpt"] == ratio(whole["contenders"]) == pytest.approx(0.8)
    corpora = {
        "a": {"xz_bits_per_byte": 2.75, "deadlines": {"1": whole}},
        "b": {"xz_bits_per_byte": 3.5, "deadlines": {"1": partly}},
    }
    [table] = tables({"minutes": [1.0], "corpora": corpora})
    words = "char of 60, 2 x 64"
    assert table.rows == [
        ("a", "2.000", words, "61.2 s", "4.000 (61.2 s)", "2.500 (61.2 s)", "2.750", "0.800x"),
        ("b", "3.000 (25 % measured)", words, "61.2 s", "-", "-", "3.500", "-"),
    ]
    assert len(table.columns) == len(table.rows[0])
    assert table.notes[-1] == f"Left out on b: {CHARACTERS} (it broke)."
    assert bits_and_seconds(None) == "-" and bits(whole["contenders"]["gptcli"]) == "2.000"


@pytest.mark.slow
def test_every_contender_has_a_figure_at_the_deadline(
    corpus: Path, checkout: Path, vocabulary: Path, tmp_path: Path
) -> None:
    """The fake model is a bigram: with a rate of 0 it stays uniform, so that its bits are known exactly."""
    request = DeadlineRequest((str(corpus),), minutes=(0.25,), gpt2_vocab=vocabulary, nanogpt="--learning_rate=0.0")
    outcome = measure(request, BenchOptions(threads=1, device="cpu"), choose_peers([f"nanogpt={checkout}"], "deadline"))
    one = outcome.results["corpora"][str(corpus)]
    held = one["deadlines"]["0.25"]
    assert held["left_out"] == {}
    assert one["train_bytes"] + one["val_bytes"] == len(TEXT.encode())
    [ours], [characters], [subwords] = (held["contenders"][name]["runs"] for name in ("gptcli", CHARACTERS, SUBWORDS))
    assert 0 < ours["bits_per_byte"] < math.log2(len(set(TEXT))), "better than chance"
    val = TEXT.encode()[one["train_bytes"] :].decode()
    uniform = len(val) / one["val_bytes"] * math.log2(len(set(TEXT)))
    assert characters["bits_per_byte"] == pytest.approx(uniform, rel=1e-5)
    tokens = one["val_bytes"] - val.count("th")
    assert subwords["bits_per_byte"] == pytest.approx(tokens / one["val_bytes"] * math.log2(320), rel=1e-5)
    for run in (characters, subwords):
        steps = [step for step, _, _ in run["facts"]["points"]]
        assert steps == [run["facts"]["iterations"] * n // 5 for n in range(1, 6)]
    assert "gptcli over the better nanoGPT" in outcome.tables[0].columns
