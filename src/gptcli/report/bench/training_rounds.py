"""The rounds of a contender that trains with torch: whole steps on one batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gptcli.nn.device import peak_memory_bytes, synchronize
from gptcli.report.bench.jobs import TrainingJob
from gptcli.report.bench.worker import Contender
from gptcli.train.config import RunConfig

BATCH_SEED = 1


def run_config(job: TrainingJob) -> RunConfig:
    """Return the job's configuration."""
    return RunConfig.model_validate(job.config, strict=False)


def random_batch(config: RunConfig, device: str) -> tuple[Tensor, Tensor]:
    """Return input_ids and targets (B, T) of uniformly drawn ids, the same for every contender."""
    generator = torch.Generator().manual_seed(BATCH_SEED)
    shape = (config.train.batch_size, config.seq_len + 1)
    tokens = torch.randint(config.model.vocab_size, shape, generator=generator)
    return tokens[:, :-1].contiguous().to(device), tokens[:, 1:].contiguous().to(device)


def training_contender(step: Callable[[], Any], model: nn.Module, job: TrainingJob, note: str = "") -> Contender:
    """Return a contender whose round calls `step()`, one optimizer step that returns its loss, for about `job.seconds`.

    The first step is timed alone, since it compiles and allocates; the time of the second gives the steps of a round.
    """
    config, device = run_config(job), torch.device(job.device)

    def run_round(steps: int | None = None) -> dict[str, Any]:
        began = time.perf_counter()
        for _ in range(steps or steps_a_round):
            loss = step()
        synchronize(device)
        seconds = time.perf_counter() - began
        return {
            "seconds": seconds,
            "tokens_per_second": (steps or steps_a_round) * config.train.tokens_per_step / seconds,
            "loss": float(loss),
            "peak_memory_bytes": peak_memory_bytes(device),
        }

    first, second = run_round(1), run_round(1)
    steps_a_round = max(1, round(job.seconds / second["seconds"]))
    facts = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "first_step_seconds": first["seconds"],
        "first_loss": first["loss"],
        "steps_a_round": steps_a_round,
        "note": note,
    }
    return Contender(facts, run_round)
