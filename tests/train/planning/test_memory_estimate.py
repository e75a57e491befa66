"""The memory of one rank of several, against what torch tracks in a rank whose neighbours only pretend to answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

from gptcli.models.adapter_config import LoraConfig
from gptcli.models.adapters import add_adapter
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model, initial_weights
from gptcli.models.memory import BatchShape, Recompute
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig, MuonConfig, OptimConfig, SgdConfig
from gptcli.parallel.config import ParallelConfig
from gptcli.parallel.distributed import Sharded
from gptcli.parallel.layout import Layout
from gptcli.parallel.sharded import build_sharded
from gptcli.parallel.strategy import Alone, Strategy
from gptcli.parallel.world import World
from gptcli.train.config import RunConfig, TrainerConfig
from gptcli.train.planning.memory_estimate import checkpoint_bytes, rank_memory
from peaks import tracked_peak

RANKS = 8


@pytest.fixture
def eight_ranks() -> Iterator[None]:
    """This process is one of eight; the others are not there, and what they would send is not written."""
    torch.distributed.init_process_group("fake", rank=0, world_size=RANKS, store=FakeStore())
    yield
    torch.distributed.destroy_process_group()


def shape(**values: Any) -> ModelConfig:
    return ModelConfig(**{"vocab_size": 2000, "n_embd": 128, "n_head": 4, "context_length": 64, "n_layer": 6, **values})


def peak_bytes(strategy: Strategy, optim: OptimConfig, batch: BatchShape, micro_batches: int = 1) -> int:
    """The most bytes of all tensors at one moment of two steps of training."""
    model, optimizer = strategy.model, build_optimizer(strategy.infos, optim)
    ids = torch.randint(model.config.vocab_size, batch)

    def backpropagate(number: int) -> None:
        with strategy.accumulating(is_last=number == micro_batches - 1):
            strategy.loss_function(ids, ids, None).backward()

    return tracked_peak(model, optimizer, ids, micro_batches, backpropagate)


@pytest.mark.parametrize(
    ("layout", "values", "batch", "micro_batches", "mode"),
    [
        (Layout(shards=8), {}, BatchShape(4, 64), 1, "none"),
        (Layout(shards=8), {}, BatchShape(4, 64), 2, "none"),
        (Layout(shards=8), {"n_layer": 12}, BatchShape(4, 64), 1, "full"),
        (Layout(shards=8), {"n_embd": 256}, BatchShape(1, 64), 1, "full"),
        (Layout(shards=4, tensor=2), {"n_kv_head": 2}, BatchShape(4, 64), 1, "none"),
        (Layout(replicas=2, shards=4), {"tie_embeddings": False}, BatchShape(4, 64), 1, "selective"),
    ],
)
def test_a_ranks_peak_is_the_one_that_torch_tracks(
    eight_ranks: None, layout: Layout, values: dict, batch: BatchShape, micro_batches: int, mode: Recompute
) -> None:
    config = shape(**values)
    settings = ParallelConfig(strategy="fsdp", replicas=layout.replicas, tensor=layout.tensor)
    weights = initial_weights(build_model(config, device="meta"), 0)
    model = build_sharded(config, weights, layout, settings, torch.device("cpu"), "fp32").recompute(mode)
    measured = peak_bytes(Sharded(model, World(), layout), AdamWConfig(), batch, micro_batches)
    train = TrainerConfig(
        batch_size=batch.sequences,
        tokens_per_step=batch.tokens * layout.data_ranks * micro_batches,
        activation_checkpointing=mode,
    )
    run = RunConfig(model=config, train=train, parallel=settings)
    assert rank_memory(run, "fp32", "cpu", layout).total == pytest.approx(measured, rel=0.05)


# Muon in fp32, as where the processor is not fast at bf16.
OPTIMIZERS = [MuonConfig(ns_precision="fp32"), MuonConfig(ns_precision="fp32", nesterov=False), AdamWConfig()]


@pytest.mark.slow
@pytest.mark.parametrize("optim", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("values", [{}, {"mlp": "gelu", "n_kv_head": 2}, {"n_head": 2, "head_dim": 64}], ids=str)
def test_where_weights_outweigh_activations_the_optimizers_step_is_the_peak(values: dict, optim: OptimConfig) -> None:
    config, batch = shape(**{"vocab_size": 300, **values}), BatchShape(1, 16)
    alone = Alone(build_model(config))
    train = TrainerConfig(batch_size=1, tokens_per_step=16, seq_len=16)
    run = RunConfig(model=config, optim=optim, train=train)
    assert rank_memory(run, "fp32", "cpu").total == pytest.approx(peak_bytes(alone, optim, batch), rel=0.05)


@pytest.mark.parametrize("optim", [*OPTIMIZERS, SgdConfig(momentum=0.9)], ids=repr)
@pytest.mark.parametrize(
    "adapter", [LoraConfig(rank=4), LoraConfig(rank=4, muon=True, targets="mlp")], ids=["", "muon"]
)
def test_gradients_and_moments_of_an_adapter_are_those_of_its_own_weights(
    adapter: LoraConfig, optim: OptimConfig
) -> None:
    config = shape(n_layer=2)
    alone = Alone(add_adapter(build_model(config), adapter, seed=0))
    optimizer = build_optimizer(alone.infos, optim)
    ids = torch.randint(config.vocab_size, (2, 16))
    alone.loss_function(ids, ids, None).backward()
    optimizer.step()
    states = [tensor for of in optimizer.state.values() for tensor in of.values() if isinstance(tensor, torch.Tensor)]
    run = RunConfig(model=config, optim=optim, adapter=adapter, train=TrainerConfig(init_from="base"))
    memory = rank_memory(run, "fp32", "cpu")
    assert memory.gradients == sum(tensor.grad.nbytes for tensor in alone.parameters)
    assert memory.weights == sum(tensor.nbytes for tensor in alone.model.parameters())
    assert memory.moments == sum(tensor.nbytes for tensor in states if tensor.dim())
    assert checkpoint_bytes(run) == memory.gradients + memory.moments
