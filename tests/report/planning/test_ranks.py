"""Layouts, and what a rank holds and sends: against sums over all ranks, closed forms and tensors that are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gptcli.errors import UsageError
from gptcli.models.config import ModelConfig
from gptcli.models.estimate import block_matrices, parameter_count
from gptcli.models.gpt import build_model
from gptcli.models.memory import Batch, Numbers, training_memory_bytes
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig, MuonConfig, OptimConfig, SgdConfig
from gptcli.report.planning.hardware import parse_accelerator
from gptcli.report.planning.memory import rank_memory
from gptcli.report.planning.ranks import Ranks, lay_out, part_of_model
from gptcli.report.planning.traffic import Talk, all_gather, all_reduce, talks

MODEL = ModelConfig(vocab_size=1000, n_layer=3, n_embd=64, n_head=8, n_kv_head=4, context_length=64)
BATCH, BF16, H100 = Batch(2, 64), Numbers(2, on_cuda=True), parse_accelerator("h100")


@pytest.mark.parametrize(
    ("arguments", "box"),
    [
        (("ddp", 16, 1, None, 8), (16, 1, 1)),
        (("ddp", 8, 8, None, 8), (1, 1, 8)),
        (("fsdp", 16, 4, None, 8), (1, 4, 4)),
        (("hsdp", 32, 1, None, 8), (4, 8, 1)),
        (("hsdp", 32, 2, 2, 8), (2, 8, 2)),
    ],
)
def test_ranks_are_a_box(arguments: tuple, box: tuple) -> None:
    ranks = lay_out(*arguments)
    assert (ranks.replicas, ranks.shards, ranks.tensor) == box
    assert ranks.size == arguments[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ddp", 6, 4, None, 8), "6 GPUs cannot be divided into groups of --tensor 4"),
        (("ddp", 8, 4, None, 8), "needs a strategy that shards"),
        (("fsdp", 8, 1, 2, 8), "--replicas 2 is for --strategy hsdp"),
        (("hsdp", 6, 1, 4, 8), "6 data ranks cannot be divided into 4 replicas"),
    ],
)
def test_what_cannot_be_laid_out_says_why(arguments: tuple, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        lay_out(*arguments)


@pytest.mark.parametrize("tensor", [1, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_tensor_ranks_hold_the_matrices_once_in_all(tensor: int, bias: bool) -> None:
    model = MODEL.model_copy(update={"bias": bias})
    part = part_of_model(model, tensor)
    assert tensor * block_matrices(part) == block_matrices(model)
    assert build_model(part, device="meta").parameter_count() == parameter_count(part)
    with pytest.raises(UsageError, match="n_kv_head 4 cannot be divided among --tensor 8"):
        part_of_model(model, 8)


@pytest.mark.parametrize("optim", [AdamWConfig(), MuonConfig(), SgdConfig(momentum=0.9), SgdConfig()], ids=repr)
def test_weights_gradients_and_moments_are_the_bytes_of_their_tensors(optim: OptimConfig) -> None:
    model = build_model(MODEL)
    optimizer = build_optimizer(model.parameter_infos(), optim)
    ids = torch.randint(1000, BATCH)
    model.loss_sum(ids, ids).backward()
    optimizer.step()
    memory = rank_memory(MODEL, optim, BATCH, Numbers(), Ranks(), "none", accumulates=True)
    assert memory.weights == sum(tensor.nbytes for tensor in model.parameters())
    assert memory.gradients == sum(tensor.grad.nbytes for tensor in model.parameters())
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    moments = sum(value.nbytes for value in state if isinstance(value, torch.Tensor) and value.dim())
    assert memory.moments == moments


@pytest.mark.parametrize("accumulates", [False, True])
def test_one_rank_needs_what_a_training_on_one_device_does(accumulates: bool) -> None:
    memory = rank_memory(MODEL, AdamWConfig(), BATCH, BF16, Ranks(), "none", accumulates=accumulates)
    alone = training_memory_bytes(MODEL, 2 * parameter_count(MODEL), BATCH, BF16, accumulates=accumulates)
    assert memory.total == alone


def test_shards_divide_the_state_and_tensor_ranks_the_activations_too() -> None:
    def of(ranks: Ranks, accumulates: bool = False) -> Any:
        return rank_memory(MODEL, AdamWConfig(), BATCH, BF16, ranks, "none", accumulates=accumulates)

    alone, sharded, tensor = of(Ranks()), of(Ranks(1, 4)), of(Ranks(1, 1, 4))
    for part in ("weights", "gradients", "moments"):
        assert getattr(sharded, part) == pytest.approx(getattr(alone, part) / 4, rel=1e-4)
    assert sharded.activations == alone.activations
    assert tensor.activations < alone.activations
    assert of(Ranks(1, 4), True).gradients == sharded.gradients + alone.gradients, "whole until they are summed"


@pytest.mark.parametrize("collective", [all_reduce, all_gather])
@pytest.mark.parametrize("ranks", [1, 2, 5, 64])
def test_rings_send_what_a_simulated_ring_sends(collective: Callable[[float, int], float], ranks: int) -> None:
    """A ring passes one of `ranks` pieces on in each of ranks - 1 turns; to sum and to hand round takes two rounds."""
    rounds = 2 if collective is all_reduce else 1
    sent = sum(1 / ranks for _ in range(rounds * (ranks - 1)))
    assert collective(1.0, ranks) == pytest.approx(sent)


def sent(ranks: Ranks, micro_batches: int = 1) -> dict[str, Talk]:
    found = talks(MODEL, BATCH, BF16, ranks, H100, "none", micro_batches)
    return {talk.what.partition(": ")[2]: talk for talk in found}


def test_a_step_sends_what_its_strategy_needs() -> None:
    weights = 4 * parameter_count(MODEL)
    assert not sent(Ranks())
    (ddp,) = sent(Ranks(4)).values()
    assert ddp.bytes == pytest.approx(1.5 * weights) and ddp.seconds == ddp.bytes / H100.link
    fsdp = sent(Ranks(1, 4), micro_batches=3)
    once = sent(Ranks(1, 4))
    assert fsdp["gradients scattered"].bytes == pytest.approx(0.75 * weights), "once a step"
    assert fsdp["weights gathered"].bytes == 3 * once["weights gathered"].bytes, "for each micro-batch"
    (tensor,) = sent(Ranks(1, 1, 2)).values()
    assert tensor.bytes == 3 * 4 * BATCH.tokens * 64 * 2, "of 3 layers: two sums forwards, two backwards, in bf16"


def test_ranks_in_one_host_share_its_network_and_stay_off_it_where_they_can() -> None:
    inside = sent(Ranks(1, 8))["weights gathered"]
    across = sent(Ranks(1, 16))["weights gathered"]
    apart = sent(Ranks(1, 16, 4))["weights gathered"]
    assert inside.place == "in the host" and across.place == "between hosts"
    assert across.bytes / across.seconds == pytest.approx(8 * H100.network)
    assert apart.bytes / apart.seconds == pytest.approx(2 * H100.network)
    hybrid = sent(Ranks(2, 8))
    assert hybrid["weights gathered"].place == "in the host"
    between = hybrid["gradients summed"]
    assert between.place == "between hosts" and between.bytes / between.seconds == pytest.approx(H100.network)
