"""What a rank holds and sends: against sums over all ranks, closed forms and tensors that are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gptcli.models.config import ModelConfig
from gptcli.models.estimate import block_matrices, block_parameters, parameter_count
from gptcli.models.gpt import build_model
from gptcli.models.memory import BatchShape, ComputeFormat, training_memory_bytes
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig, MuonConfig, OptimConfig, SgdConfig
from gptcli.parallel.config import ParallelConfig
from gptcli.parallel.layout import Layout
from gptcli.report.planning.hardware import Machine, parse_accelerator
from gptcli.report.planning.traffic import Transfer, all_gather, all_reduce, transfers
from gptcli.train.config import RunConfig, TrainerConfig
from gptcli.train.planning.memory_estimate import RankMemory, part_of_model, rank_memory

MODEL = ModelConfig(vocab_size=1000, n_layer=3, n_embd=64, n_head=8, n_kv_head=4, context_length=64)
BATCH, BF16, H100 = BatchShape(2, 64), ComputeFormat(2, on_cuda=True), parse_accelerator("h100")
ALONE = Layout()


def run(layout: Layout = ALONE, micro_batches: int = 1, optim: OptimConfig | None = None, **parallel: Any) -> RunConfig:
    """A training whose ranks take so many micro-batches of BATCH in a step."""
    tokens = BATCH.tokens * layout.data_ranks * micro_batches
    train = TrainerConfig(batch_size=BATCH.sequences, tokens_per_step=tokens)
    return RunConfig(model=MODEL, optim=optim or AdamWConfig(), train=train, parallel=ParallelConfig(**parallel))


@pytest.mark.parametrize("tensor", [1, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_tensor_ranks_hold_the_matrices_once_in_all(tensor: int, bias: bool) -> None:
    model = MODEL.model_copy(update={"bias": bias})
    part = part_of_model(model, tensor)
    assert tensor * block_matrices(part) == block_matrices(model)
    assert build_model(part, device="meta").parameter_count() == parameter_count(part)


@pytest.mark.parametrize("optim", [AdamWConfig(), MuonConfig(), SgdConfig(momentum=0.9), SgdConfig()], ids=repr)
def test_weights_gradients_and_moments_are_the_bytes_of_their_tensors(optim: OptimConfig) -> None:
    model = build_model(MODEL)
    optimizer = build_optimizer(model.parameter_infos(), optim)
    ids = torch.randint(1000, BATCH)
    model.loss_sum(ids, ids).backward()
    optimizer.step()
    memory = rank_memory(run(optim=optim), "fp32", "cpu")
    assert memory.weights == sum(tensor.nbytes for tensor in model.parameters())
    assert memory.gradients == sum(tensor.grad.nbytes for tensor in model.parameters())
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    moments = sum(value.nbytes for value in state if isinstance(value, torch.Tensor) and value.dim())
    assert memory.moments == moments


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_one_rank_needs_what_a_training_on_one_device_does(micro_batches: int) -> None:
    memory = rank_memory(run(micro_batches=micro_batches), "bf16", "cuda")
    alone = training_memory_bytes(MODEL, 2 * parameter_count(MODEL), BATCH, BF16, accumulates=micro_batches > 1)
    assert memory.total == alone


def test_shards_divide_the_state_and_tensor_ranks_the_activations_too() -> None:
    def of(layout: Layout, micro_batches: int = 1, **parallel: Any) -> RankMemory:
        return rank_memory(run(layout, micro_batches, **parallel), "bf16", "cuda", layout)

    alone, sharded, tensor = of(ALONE), of(Layout(shards=4)), of(Layout(tensor=4))
    for part in ("weights", "gradients", "moments"):
        assert getattr(sharded, part) == pytest.approx(getattr(alone, part) / 4, rel=1e-4)
    copied = 3 * MODEL.n_layer * BATCH.tokens * MODEL.n_embd * 2
    assert sharded.activations == alone.activations + copied, "the input of q, k, v, gate and up for each, in bf16"
    assert tensor.activations < alone.activations
    assert of(Layout(shards=4), 2).gradients == alone.gradients, "whole until they are summed"
    kept = of(Layout(shards=4), reshard_after_forward=False)
    assert kept.gathered - sharded.gathered == block_parameters(MODEL) * 2, "the third block stays too, in bf16"
    offloaded = of(Layout(shards=4), cpu_offload=True)
    assert (offloaded.weights, offloaded.moments) == (0, 0)


@pytest.mark.parametrize("collective", [all_reduce, all_gather])
@pytest.mark.parametrize("ranks", [1, 2, 5, 64])
def test_rings_send_what_a_simulated_ring_sends(collective: Callable[[float, int], float], ranks: int) -> None:
    """A ring passes one of `ranks` pieces on in each of ranks - 1 turns; to sum and to hand round takes two rounds."""
    rounds = 2 if collective is all_reduce else 1
    sent = sum(1 / ranks for _ in range(rounds * (ranks - 1)))
    assert collective(1.0, ranks) == pytest.approx(sent)


def sent(layout: Layout, micro_batches: int = 1, **parallel: Any) -> dict[str, Transfer]:
    found = transfers(run(layout, micro_batches, **parallel), BF16, layout, Machine(H100))
    return {transfer.what.partition(": ")[2]: transfer for transfer in found}


def test_a_step_sends_what_its_strategy_needs() -> None:
    weights = 4 * parameter_count(MODEL)
    assert not sent(ALONE)
    (ddp,) = sent(Layout(replicas=4)).values()
    assert ddp.bytes == pytest.approx(1.5 * weights) and ddp.seconds == ddp.bytes / H100.link
    once, thrice = (sent(Layout(shards=4), micro_batches=count) for count in (1, 3))
    assert thrice["gradients scattered"].bytes == pytest.approx(0.75 * weights), "once a step"
    assert thrice["weights gathered"].bytes == 3 * once["weights gathered"].bytes, "for each micro-batch"
    kept = sent(Layout(shards=4), reshard_after_forward=False)["weights gathered"].bytes
    assert once["weights gathered"].bytes - kept == pytest.approx(0.75 * 3 * block_parameters(MODEL) * 2)
    (tensor,) = sent(Layout(tensor=2)).values()
    assert tensor.bytes == 3 * 4 * BATCH.tokens * 64 * 2, "of 3 layers: two sums forwards, two backwards, in bf16"


def test_ranks_in_one_host_share_its_network_and_stay_off_it_where_they_can() -> None:
    inside = sent(Layout(shards=8))["weights gathered"]
    across = sent(Layout(shards=16))["weights gathered"]
    apart = sent(Layout(shards=16, tensor=4))["weights gathered"]
    assert inside.place == "in the host" and across.place == "between hosts"
    assert across.bytes / across.seconds == pytest.approx(8 * H100.network)
    assert apart.bytes / apart.seconds == pytest.approx(2 * H100.network)
    hybrid = sent(Layout(replicas=2, shards=8))
    assert hybrid["weights gathered"].place == "in the host"
    between = hybrid["gradients summed"]
    assert between.place == "between hosts" and between.bytes / between.seconds == pytest.approx(H100.network)
