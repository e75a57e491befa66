"""Models and prompts of generation that is measured; `tests/scripts/bench` compares programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gptcli.errors import UsageError
from gptcli.interop.huggingface import read_huggingface
from gptcli.report.bench.decoding import DecodingRequest, measure, random_prompts, weights_per_token
from gptcli.report.bench.models import named_shape, read_config, write_random_model
from gptcli.report.bench.options import BenchOptions

OPTIONS = BenchOptions(rounds=2, seconds=0.2, threads=1, device="cpu")


def test_the_weights_of_a_token_are_those_of_the_matrices_and_norms(shape: Path, tmp_path: Path) -> None:
    """Counted on the model itself: all weights but the positions; the tied embedding is read as the head."""
    write_random_model(named_shape(str(shape), ()).model, tmp_path / "model")
    model, _ = read_huggingface(tmp_path / "model")
    counted = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("position_embedding"))
    assert weights_per_token(read_config(str(tmp_path / "model"))) == counted


def test_prompts_differ_from_each_other_and_not_from_run_to_run(shape: Path) -> None:
    request = DecodingRequest(str(shape), prompt_tokens=8, batch_sizes=(1, 4))
    config = named_shape(str(shape), ()).model
    prompts = random_prompts(request, config)
    assert prompts == random_prompts(request, config)
    assert len({tuple(prompt) for prompt in prompts}) == 4
    assert torch.tensor(prompts).shape == (4, 8)
    assert torch.tensor(prompts).max() < config.vocab_size


def test_more_tokens_than_the_context_holds_are_refused(shape: Path) -> None:
    request = DecodingRequest(str(shape), prompt_tokens=16, new_tokens=17)
    with pytest.raises(UsageError, match="more than the model's context of 32; ask for fewer"):
        measure(request, OPTIONS)


def test_a_model_directory_takes_no_settings(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a model already; leave out --set"):
        measure(DecodingRequest(str(tmp_path), ("model.n_layer=1",)), OPTIONS)
