"""Hugging Face transformers as a contender: the class for the model's family, with its Trainer's default optimizer."""

from __future__ import annotations

import torch

from bench.training_step import plain_step
from gptcli.errors import UsageError
from gptcli.interop.families import family_of
from gptcli.models.config import ModelConfig
from gptcli.nn.device import allow_tf32
from gptcli.report.bench.decoding_rounds import DTYPES, decoding_contender
from gptcli.report.bench.jobs import DecodingJob, TrainingJob
from gptcli.report.bench.training_rounds import random_batch, run_config, training_contender
from gptcli.report.bench.worker import Contender


def train(job: TrainingJob) -> Contender:
    import transformers

    config = run_config(job)
    allow_tf32(config.train.tf32)
    model = build(config.model).to(job.device).train()
    # adamw_torch_fused is the default of transformers.TrainingArguments.
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optim.lr, weight_decay=0.0, fused=True)
    forward = torch.compile(model) if config.train.compile else model
    input_ids, _ = random_batch(config, job.device)

    def mean_loss() -> torch.Tensor:
        return forward(input_ids=input_ids, labels=input_ids, use_cache=False).loss

    note = f"{type(model).__name__}, fused AdamW"
    transformers.logging.set_verbosity_error()
    return training_contender(plain_step(model, optimizer, mean_loss, job), model, job, note)


def generate(job: DecodingJob) -> Contender:
    import transformers

    transformers.logging.set_verbosity_error()
    dtype = DTYPES[job.numbers]
    model = transformers.AutoModelForCausalLM.from_pretrained(job.directory, dtype=dtype, attn_implementation="sdpa")
    model = model.to(job.device).eval()
    model.generation_config.eos_token_id = None  # nothing ends a text early
    model.generation_config.pad_token_id = 0

    @torch.inference_mode()
    def continue_prompts(prompts: list[list[int]], count: int) -> list[list[int]]:
        input_ids = torch.tensor(prompts, device=job.device)
        mask = torch.ones_like(input_ids)
        output = model.generate(input_ids, attention_mask=mask, max_new_tokens=count, do_sample=False)
        return output[:, input_ids.shape[1] :].tolist()

    return decoding_contender(continue_prompts, job, same_weights=True)


def build(config: ModelConfig) -> torch.nn.Module:
    """Return the transformers model of the same shape, with random weights.

    Raises:
        UsageError: transformers has no class for it.
    """
    import transformers

    family, reason = family_of(config)
    if family.architecture is None:
        raise UsageError(reason)
    config = family.written_as(config)
    values = family.write_config(config) | {
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
    }
    foreign = transformers.AutoConfig.for_model(family.name, **values)
    return getattr(transformers, family.architecture)._from_config(foreign, attn_implementation="sdpa")
