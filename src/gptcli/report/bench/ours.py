"""gptcli as a contender: the code that `gptcli train`, `generate` and `data prepare` run."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

from gptcli.data.batch import Batch
from gptcli.data.batches import Batches
from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.data.token_mix import TokenMix
from gptcli.generate.config import GenerationConfig
from gptcli.generate.engine import Engine
from gptcli.generate.requests import Request
from gptcli.generate.step import DecodingStep, decoding_step
from gptcli.interop.huggingface import read_huggingface
from gptcli.models.adapters import add_adapter
from gptcli.models.gpt import GPT, build_model
from gptcli.models.inference import for_generation, quantized
from gptcli.nn.device import allow_tf32
from gptcli.optim.build import build_optimizer
from gptcli.parallel.strategy import Alone
from gptcli.report.bench.decoding_rounds import DTYPES, decoding_contender
from gptcli.report.bench.encoding_rounds import encoding_round, read_texts
from gptcli.report.bench.jobs import DecodingJob, EncodingJob, TrainingJob
from gptcli.report.bench.training_rounds import random_batch, run_config, training_contender
from gptcli.report.bench.worker import Contender
from gptcli.storage import default_cache_dir
from gptcli.tokenizer.tokenizer import load_tokenizer
from gptcli.train.compiling import compiled
from gptcli.train.step import PendingStep, Stepper


def train(job: TrainingJob) -> Contender:
    """Return a contender whose round trains."""
    config, device = run_config(job), torch.device(job.device)
    allow_tf32(config.train.tf32)
    model = add_adapter(build_model(config.model, seed=config.seed, device=device), config.adapter, config.seed).train()
    loss_function = compiled(model.loss_sum, default_cache_dir()) if config.train.compile else model.loss_sum
    stepper = Stepper(
        Alone(model, loss_function),
        build_optimizer(model.parameter_infos(), config.optim),
        device=device,
        precision=job.precision,
        grad_clip=config.train.grad_clip,
    )
    batch = Batch(*random_batch(config, "cpu"), None)
    batches = [batch.pin_memory() if device.type == "cuda" else batch]
    pending: PendingStep | None = None

    def step() -> float:
        """Launch a step and return the loss of the one before, as in training, where the device never waits."""
        nonlocal pending
        before, pending = pending, stepper.launch(batches)
        return (before or pending).result().loss

    return training_contender(step, model, job)


def generate(job: DecodingJob) -> Contender:
    """Return a contender whose round continues prompts."""
    loaded, _ = read_huggingface(Path(job.directory), job.device, DTYPES.get(job.numbers, torch.float32))

    @cache
    def made_ready(rows: int) -> tuple[GPT, DecodingStep]:
        """Return what `gptcli generate` prepares for so many samples side by side."""
        model = quantized(loaded, "int8") if job.numbers == "int8" else for_generation(loaded, rows)
        return model, decoding_step(model, default_cache_dir() if job.compile else None)

    def continue_prompts(prompts: list[list[int]], count: int) -> list[list[int]]:
        config = GenerationConfig(max_new_tokens=count, temperature=0.0, batch_size=len(prompts))
        requests = [Request(prompt, config.params()) for prompt in prompts]
        model, step = made_ready(len(prompts))
        for _ in Engine(model, config.engine_config(prompts), step).run(requests):
            pass
        return [request.ids[request.prompt_length :] for request in requests]

    return decoding_contender(continue_prompts, job, same_weights=True)


def data(job: EncodingJob) -> Contender:
    """Return a contender whose round encodes (`encode`), or reads random sequences from token shards (`batches`)."""
    shards: TokenShards | None = None

    def run_round(what: str) -> dict[str, Any]:
        nonlocal shards
        if what == "encode":
            return encoding_round(job, load_tokenizer(Path(job.tokenizer)).encode_batch)
        shards = shards or write_shards(job)
        return {"tokens_per_second": batches_per_second(shards, job) * job.batch_size * job.seq_len}

    return Contender({}, run_round)


def write_shards(job: EncodingJob) -> TokenShards:
    """Write the texts as the token shards that training reads."""
    tokenizer = load_tokenizer(Path(job.tokenizer))
    folder = Path(job.scratch) / "shards"
    with ShardWriter(folder, tokenizer.vocab_size, tokenizer.framing, tokenizer.fingerprint) as writer:
        for ids in tokenizer.encode_batch(read_texts(job)):
            writer.add(ids, 0, True)
    return TokenShards.open(folder)


def batches_per_second(shards: TokenShards, job: EncodingJob) -> float:
    """Return the rate at which batches of sequences are read."""
    batches, count, began = Batches(TokenMix.of_one(shards), job.seq_len, seed=1), 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < job.seconds or not count:
        batches.sequences(range(count * job.batch_size, (count + 1) * job.batch_size))
        count += 1
    return count / seconds
