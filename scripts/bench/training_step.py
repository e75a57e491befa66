"""The training step of programs that leave it to their users."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gptcli.nn.device import autocast
from gptcli.report.bench.jobs import TrainingJob
from gptcli.report.bench.training_rounds import run_config


def plain_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, mean_loss: Callable[[], Tensor], job: TrainingJob
) -> Callable[[], Tensor]:
    """Return the step of every tutorial: forward, backward, clip by the global norm, update."""
    device, max_norm = torch.device(job.device), run_config(job).train.grad_clip or math.inf
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, job.precision):
            loss = mean_loss()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
        return loss.detach()

    return step
