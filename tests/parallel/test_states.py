"""The state of a training is the same numbers, whoever holds which part of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gptcli.checkpoint.flatten import flatten_state
from gptcli.checkpoint.load import Checkpoint, load_checkpoint
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.checkpoint.save import save_checkpoint
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig, MuonConfig
from parallel.states import PARTS, load_and_save
from ranks import run_ranks

MODEL = {"vocab_size": 31, "context_length": 16, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 24}


def trained(config: ModelConfig, optim: object, run: RunDirectory) -> Checkpoint:
    """The checkpoint of step 1 of a process alone, whose moments are those of two steps."""
    torch.manual_seed(0)
    model = build_model(config)
    optimizer = build_optimizer(model.parameter_infos(), optim)
    for _ in range(2):
        ids = torch.randint(config.vocab_size, (2, 17))
        model.loss_sum(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    moments, rest = flatten_state(optimizer)
    save_checkpoint(run, 1, {"model": model.state_dict(), "optimizer": moments}, {"optimizer": rest})
    return load_checkpoint(run.checkpoint_path(1), PARTS)


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "optim"),
    [
        ((1, 2, 1), AdamWConfig()), ((1, 2, 2), AdamWConfig()),
        ((1, 2, 1), MuonConfig()), ((2, 2, 1), MuonConfig()), ((1, 2, 2), MuonConfig()), ((1, 1, 2), MuonConfig()),
    ],
)  # fmt: skip
def test_what_one_process_saved_is_the_same_after_ranks_loaded_and_saved_it(
    tmp_path: Path, layout: tuple[int, int, int], optim: object
) -> None:
    run, (replicas, shards, tensor) = RunDirectory.create(tmp_path / "run"), layout
    config = ModelConfig(**MODEL, tie_embeddings=False)
    alone = trained(config, optim, run)
    held = run_ranks(replicas * shards * tensor, load_and_save, run.path, config, optim, layout)
    assert max(held) < 0.75  # each rank has a part only
    together = load_checkpoint(run.checkpoint_path(2), PARTS)
    for part in PARTS:
        assert_same_bits(together.tensors[part], alone.tensors[part])
    found, expected = together.state["optimizer"], alone.state["optimizer"]
    assert found["state"] == expected["state"] and sorted(found["parameters"]) == sorted(expected["parameters"])
