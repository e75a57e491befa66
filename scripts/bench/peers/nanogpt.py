"""nanoGPT as a contender: the model.py of a checkout that the user names, with its own optimizer."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

from bench.training_step import plain_step
from gptcli.errors import UsageError
from gptcli.models.config import ModelConfig
from gptcli.nn.device import allow_tf32
from gptcli.report.bench.decoding_rounds import DTYPES, decoding_contender
from gptcli.report.bench.jobs import DecodingJob, TrainingJob
from gptcli.report.bench.models import read_config
from gptcli.report.bench.training_rounds import random_batch, run_config, training_contender
from gptcli.report.bench.worker import Contender

SLOTS = {"norm": "layernorm", "position": "learned", "qk_norm": False, "tie_embeddings": True}
"""nanoGPT's only architecture; its MLP has an exact GELU and no gate."""


def train(job: TrainingJob) -> Contender:
    config = run_config(job)
    allow_tf32(config.train.tf32)
    model = build(config.model, job.checkout).to(job.device).train()
    device_type = torch.device(job.device).type
    optimizer = model.configure_optimizers(0.1, config.optim.lr, (0.9, 0.95), device_type)
    forward = torch.compile(model) if config.train.compile else model
    input_ids, targets = random_batch(config, job.device)
    step = plain_step(model, optimizer, lambda: forward(input_ids, targets)[1], job)
    return training_contender(step, model, job, "its own optimizer")


def generate(job: DecodingJob) -> Contender:
    model = build(read_config(job.directory), job.checkout).to(job.device, DTYPES[job.numbers]).eval()

    def continue_prompts(prompts: list[list[int]], count: int) -> list[list[int]]:
        input_ids = torch.tensor(prompts, device=job.device)
        return model.generate(input_ids, count, top_k=1)[:, input_ids.shape[1] :].tolist()

    return decoding_contender(continue_prompts, job, same_weights=False)


def build(config: ModelConfig, checkout: str) -> torch.nn.Module:
    """Return the checkout's GPT of these sizes, with random weights.

    Raises:
        UsageError: nanoGPT has no such architecture.
    """
    wrong = [slot for slot, value in SLOTS.items() if getattr(config, slot) != value]
    if wrong or config.gated:
        raise UsageError(f"nanoGPT has GPT-2's architecture only ({', '.join(wrong or ['mlp'])} differs)")
    source = model_source(checkout)
    return source.GPT(
        source.GPTConfig(
            block_size=config.context_length,
            vocab_size=config.vocab_size,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_embd=config.n_embd,
            dropout=config.dropout,
            bias=config.bias,
        )
    )


def model_source(checkout: str) -> ModuleType:
    """Return the checkout's model.py as a module."""
    sys.path.insert(0, checkout)
    return importlib.import_module("model")
