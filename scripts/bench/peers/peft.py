"""peft on transformers as a contender: its LoRA on all linear maps of the blocks, with fused AdamW."""

from __future__ import annotations

import torch

from bench.peers.transformers import build
from bench.training_step import plain_step
from gptcli.models.adapter_config import LoraConfig
from gptcli.nn.device import allow_tf32
from gptcli.report.bench.jobs import TrainingJob
from gptcli.report.bench.training_rounds import random_batch, run_config, training_contender
from gptcli.report.bench.worker import Contender


def train(job: TrainingJob) -> Contender:
    import peft
    import transformers

    transformers.logging.set_verbosity_error()
    config = run_config(job)
    assert isinstance(config.adapter, LoraConfig)
    allow_tf32(config.train.tf32)
    settings = peft.LoraConfig(
        r=config.adapter.rank,
        lora_alpha=config.adapter.alpha,
        lora_dropout=config.adapter.dropout,
        target_modules="all-linear",  # all but the head
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(build(config.model), settings).to(job.device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.optim.lr, weight_decay=0.0, fused=True)
    input_ids, _ = random_batch(config, job.device)

    def mean_loss() -> torch.Tensor:
        return model(input_ids=input_ids, labels=input_ids, use_cache=False).loss

    base = type(model.get_base_model()).__name__
    return training_contender(plain_step(model, optimizer, mean_loss, job), model, job, f"{base}, fused AdamW")
