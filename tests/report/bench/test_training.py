"""The configuration of a training that is measured; `tests/scripts/bench` compares programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptcli.errors import UsageError
from gptcli.models.adapter_config import LoraConfig
from gptcli.models.estimate import flops_per_token
from gptcli.report.bench.training import TrainingRequest, resolve, training_flops


def test_a_step_is_one_micro_batch_of_the_shape_that_is_asked_for(shape: Path) -> None:
    config = resolve(TrainingRequest(str(shape), ("model.n_layer=3",), batch_size=3, seq_len=8, compile=True))
    assert (config.train.tokens_per_step, config.train.batch_size, config.seq_len) == (24, 3, 8)
    assert config.train.compile
    assert config.model.n_layer == 3


def test_an_adapter_is_trained_beside_the_shape_with_fewer_operations(shape: Path) -> None:
    whole = resolve(TrainingRequest(str(shape), (), seq_len=8))
    adapted = resolve(TrainingRequest(str(shape), (), seq_len=8, adapter=LoraConfig(rank=3)))
    assert adapted.adapter == LoraConfig(rank=3) and adapted.model == whole.model
    assert training_flops(whole) == flops_per_token(whole.model, 8)
    assert 0.6 < training_flops(adapted) / training_flops(whole) < 0.85


def test_a_sequence_longer_than_the_context_is_refused(shape: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.seq_len 64 is longer than model\.context_length 32"):
        resolve(TrainingRequest(str(shape), (), seq_len=64))


def test_a_shape_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no model\.vocab_size; give it one: --set"):
        resolve(TrainingRequest("qwen3-5m", (), seq_len=8))
