"""A run with checkpoints to damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.checkpoint.save import save_checkpoint


def make_tensors(step: int) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(step)
    return {
        "model": {"weight": torch.randn(5, 3, generator=generator), "bias": torch.randn(3, generator=generator)},
        "optimizer": {"weight/exp_avg": torch.randn(5, 3, generator=generator), "weight/step": torch.tensor(7.0)},
    }


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run without checkpoints."""
    run = RunDirectory.create(tmp_path / "run")
    run.config_path.write_text("seed = 0\n")
    return run


@pytest.fixture
def save(run: RunDirectory) -> Callable[..., Path]:
    """save(step, val_loss) writes a checkpoint of small tensors drawn from the step."""

    def save(step: int, val_loss: float | None = None) -> Path:
        return save_checkpoint(run, step, make_tensors(step), {"val_loss": val_loss, "tokens": 10 * step})

    return save


@pytest.fixture
def tensors_of() -> Callable[[int], dict[str, dict[str, Tensor]]]:
    """tensors_of(step) is what save(step) wrote."""
    return make_tensors
