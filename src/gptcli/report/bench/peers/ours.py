"""gptcli as a contender: the same model, optimizer and step that `gptcli train` runs."""

from __future__ import annotations

import torch

from gptcli.data.batches import Batch
from gptcli.models.gpt import build_model
from gptcli.nn.device import allow_tf32
from gptcli.optim.build import build_optimizer
from gptcli.report.bench.jobs import TrainingJob
from gptcli.report.bench.torch_training import random_batch, run_config, training_contender
from gptcli.report.bench.worker import Contender
from gptcli.train.step import Stepper


def train(job: TrainingJob) -> Contender:
    config, device = run_config(job), torch.device(job.device)
    allow_tf32(config.train.tf32)
    model = build_model(config.model, seed=config.seed, device=device).train()
    stepper = Stepper(
        model,
        build_optimizer(model.parameter_infos(), config.optim),
        torch.compile(model.loss_sum) if config.train.compile else model.loss_sum,
        device=device,
        precision=job.precision,
        grad_clip=config.train.grad_clip,
    )
    batch = Batch(*random_batch(config, "cpu"), None)
    return training_contender(lambda: stepper.run([batch]).loss, model, job)
