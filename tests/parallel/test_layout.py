"""Which rank does what, and layouts that cannot be."""

from __future__ import annotations

import pytest

from gptcli.errors import UsageError
from gptcli.models.config import ModelConfig
from gptcli.parallel.config import ParallelConfig
from gptcli.parallel.layout import Layout, lay_out, require_divisible, require_fitting


@pytest.mark.parametrize(
    ("settings", "size", "expected"),
    [
        ({}, 3, (3, 1, 1)),
        ({"strategy": "fsdp"}, 4, (1, 4, 1)),
        ({"strategy": "fsdp", "replicas": 2}, 8, (2, 4, 1)),
        ({"strategy": "fsdp", "replicas": 2, "tensor": 2}, 8, (2, 2, 2)),
        ({"tensor": 4}, 4, (1, 1, 4)),
    ],
)
def test_ranks_are_laid_out_as_replicas_shards_and_tensor(settings: dict, size: int, expected: tuple) -> None:
    layout = lay_out(ParallelConfig(**settings), size - 1, size)
    assert (layout.replicas, layout.shards, layout.tensor) == expected
    assert layout.size == size and layout.data_rank == layout.data_ranks - 1


def test_every_data_rank_has_the_ranks_of_one_tensor_group() -> None:
    layouts = [lay_out(ParallelConfig(strategy="fsdp", tensor=2), rank, 8) for rank in range(8)]
    assert [layout.data_rank for layout in layouts] == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("settings", "size", "named"),
    [
        ({"tensor": 2}, 3, "3 ranks"),
        ({"tensor": 2}, 4, "parallel.strategy=fsdp"),
        ({"replicas": 2}, 4, "strategy fsdp"),
        ({"strategy": "fsdp", "replicas": 3}, 4, "parallel.replicas 3"),
    ],
)
def test_what_cannot_be_laid_out_is_refused_in_one_line(settings: dict, size: int, named: str) -> None:
    with pytest.raises(UsageError, match=named) as refused:
        lay_out(ParallelConfig(**settings), 0, size)
    assert "\n" not in str(refused.value)


def test_a_step_that_cannot_be_shared_evenly_is_refused_with_the_option_that_makes_it_so() -> None:
    require_divisible(Layout(replicas=4), 8, 16, "--tokens-per-step ")
    with pytest.raises(UsageError, match=r"8 sequences .* 3 data ranks; make steps of 9 .*: --tokens-per-step 144"):
        require_divisible(Layout(replicas=3), 8, 16, "--tokens-per-step ")
    require_divisible(Layout(replicas=3), 144 // 16, 16, "--tokens-per-step ")


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"n_head": 6, "n_embd": 48}, "model.n_head 6"),
        ({"n_head": 8, "n_kv_head": 2, "n_embd": 64}, "model.n_kv_head 2"),
        ({"intermediate_size": 90}, "model.intermediate_size 90"),
        ({"qk_norm_over": "heads"}, "model.qk_norm_over=heads"),
    ],
)
def test_a_model_that_tensor_ranks_cannot_share_is_refused(model: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        require_fitting(Layout(tensor=4), ModelConfig(**model), "fp32")
    require_fitting(Layout(shards=4), ModelConfig(**model), "fp32")


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_number_formats_that_need_whole_weights_are_refused(precision: str) -> None:
    with pytest.raises(UsageError, match=precision):
        require_fitting(Layout(shards=2), ModelConfig(), precision)
    require_fitting(Layout(replicas=2), ModelConfig(), precision)
