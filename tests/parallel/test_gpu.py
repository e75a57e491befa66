"""Ranks on GPUs: one each, NCCL between them, the blocks' weights gathered in bf16."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from faults.nursery import Nursery
from parallel.curves import FSDP, Way, curve, reference
from parallel.forked_ranks import rank_nursery

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

WAYS = (Way("ddp", 2), Way("fsdp", 2, FSDP), Way("tensor", 2, {"parallel.tensor": 2}))


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with rank_nursery(tmp_path_factory.mktemp("cache")) as started:
        yield started


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-4), ("bf16", 0.05)])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_ranks_on_gpus_follow_the_curve_of_one(
    nursery: Nursery, way: Way, precision: str, limit: float, tmp_path: Path
) -> None:
    settings = {"device": "cuda", "train__precision": precision, "train__tf32": "false"}
    found = curve(nursery, way, reference(nursery, tmp_path, **settings), **settings)
    assert found.is_same_tokens
    assert found.loss < limit and found.val_loss < limit


@pytest.mark.parametrize("way", [Way("fsdp", 1, {**FSDP, "parallel.cpu_offload": "true"}), Way("ddp", 1)])
def test_one_rank_of_a_launcher_is_a_process_alone(nursery: Nursery, way: Way, tmp_path: Path) -> None:
    settings = {"device": "cuda", "train__precision": "bf16", "train__max_steps": 5}
    assert curve(nursery, way, reference(nursery, tmp_path, **settings), **settings).loss == 0
