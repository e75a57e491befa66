"""gptcli as a contender: the same model, optimizer and step that `gptcli train` runs."""

from __future__ import annotations

from pathlib import Path

import torch

from gptcli.data.batches import Batch
from gptcli.generate.config import GenerationConfig
from gptcli.generate.engine import Engine, Row
from gptcli.interop.huggingface import read_huggingface
from gptcli.models.gpt import build_model
from gptcli.nn.device import allow_tf32
from gptcli.optim.build import build_optimizer
from gptcli.report.bench.decoding_rounds import decoding_contender
from gptcli.report.bench.jobs import DecodingJob, TrainingJob
from gptcli.report.bench.torch_training import random_batch, run_config, training_contender
from gptcli.report.bench.worker import Contender
from gptcli.train.step import Stepper

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


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


def generate(job: DecodingJob) -> Contender:
    model, _ = read_huggingface(Path(job.directory), job.device, DTYPES[job.numbers])

    def continue_prompts(prompts: list[list[int]], count: int) -> list[list[int]]:
        config = GenerationConfig(max_new_tokens=count, temperature=0.0, batch_size=len(prompts))
        rows = [Row(list(prompt), seed=0, prompt_length=len(prompt)) for prompt in prompts]
        for _ in Engine(model, config).run(rows):
            pass
        return [row.ids[row.prompt_length :] for row in rows]

    return decoding_contender(continue_prompts, job, same_weights=True)
