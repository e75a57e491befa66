"""A real contest of training steps, tiny, with transformers and a checkout."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from gptcli.errors import UsageError
from gptcli.models.estimate import flops_per_token
from gptcli.report.bench.contest import ratios
from gptcli.report.bench.peers import choose_peers
from gptcli.report.bench.setting import Setting
from gptcli.report.bench.training import TrainingRequest, measure, resolve


@pytest.mark.slow
def test_a_contest_of_three_gives_consistent_figures(shape: Path, checkout: Path) -> None:
    pytest.importorskip("transformers")
    request = TrainingRequest(str(shape), (), batch_size=2, seq_len=16)
    peers = choose_peers(["transformers", f"nanogpt={checkout}"], "train")
    outcome = measure(request, peers, Setting(rounds=3, seconds=0.05, threads=1, device="cpu"))
    contenders = outcome.results["contenders"]
    assert list(contenders) == ["gptcli", "transformers", "nanogpt"]
    ours, theirs = contenders["gptcli"], contenders["transformers"]
    assert ours["parameters"] == theirs["parameters"], "the same shape"
    rounds = {name: one["tokens_per_second"]["rounds"] for name, one in contenders.items()}
    assert all(len(rates) == 3 for rates in rounds.values())
    expected = ratios(rounds["gptcli"], rounds["transformers"])
    assert theirs["ours_over_this"]["median"] == pytest.approx(expected.median, rel=1e-3)
    for one in contenders.values():
        assert one["first_loss"] == pytest.approx(math.log(61), rel=0.1), "untrained"
        assert one["loss"] < one["first_loss"] - 0.1, "it learns the batch"
        assert one["peak_memory_bytes"] > 1e6
    config = resolve(request)
    limit = outcome.results["limit"]["flops_per_second"]
    fraction = ours["of_limit"]
    flops = flops_per_token(config.model, 16)
    slowest, fastest = min(rounds["gptcli"]) * flops / limit["high"], max(rounds["gptcli"]) * flops / limit["low"]
    assert slowest * 0.99 <= fraction["low"] <= fraction["median"] <= fraction["high"] <= fastest * 1.01
    [table] = outcome.tables
    assert [row[0].split(" ")[0] for row in table.rows] == ["gptcli", "transformers", "nanogpt"]


def test_a_step_is_one_micro_batch_of_the_shape_that_is_asked_for(shape: Path) -> None:
    config = resolve(TrainingRequest(str(shape), ("model.n_layer=3",), batch_size=3, seq_len=8, compile=True))
    assert (config.train.tokens_per_step, config.train.batch_size, config.seq_len) == (24, 3, 8)
    assert config.train.compile
    assert config.model.n_layer == 3


def test_a_sequence_longer_than_the_context_is_refused(shape: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.seq_len 64 is longer than model\.context_length 32"):
        resolve(TrainingRequest(str(shape), (), seq_len=64))


def test_a_shape_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no model\.vocab_size; give it one: --set"):
        resolve(TrainingRequest("qwen3-5m", (), seq_len=8))
