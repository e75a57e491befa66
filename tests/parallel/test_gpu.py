"""Ranks on GPUs: one each, NCCL between them, the blocks' weights gathered in bf16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from parallel.curves import FSDP, Way, curve, reference

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

WAYS = (Way("ddp", 2), Way("fsdp", 2, FSDP), Way("tensor", 2, {"parallel.tensor": 2}))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-4), ("bf16", 0.05)])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_ranks_on_gpus_follow_the_curve_of_one(way: Way, precision: str, limit: float, tmp_path: Path) -> None:
    settings = {"device": "cuda", "train__precision": precision, "train__tf32": "false"}
    found = curve(way, reference(tmp_path, **settings), **settings)
    assert found.is_same_tokens
    assert found.loss < limit and found.val_loss < limit


@pytest.mark.parametrize("way", [Way("fsdp", 1, {**FSDP, "parallel.cpu_offload": "true"}), Way("ddp", 1)])
def test_one_rank_of_a_launcher_is_a_process_alone(way: Way, tmp_path: Path) -> None:
    settings = {"device": "cuda", "train__precision": "bf16", "train__max_steps": 5}
    assert curve(way, reference(tmp_path, **settings), **settings).loss == 0
