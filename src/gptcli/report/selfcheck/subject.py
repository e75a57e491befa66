"""The small models and the batch that the checks are made with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.data.batch import Batch
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.device import ResolvedPrecision
from gptcli.nn.loss import IGNORE_INDEX
from gptcli.objective.objective import LossFunction
from gptcli.parallel.strategy import Alone
from gptcli.train.step import accumulate_gradients

VOCAB, SEQUENCES, TOKENS = 97, 8, 64
CPU = torch.device("cpu")
ROTARY = ModelConfig(
    vocab_size=VOCAB,
    n_layer=2,
    n_head=4,
    n_kv_head=2,
    n_embd=64,
    context_length=TOKENS,
    norm="rmsnorm",
    position="rope",
    mlp="swiglu",
    bias=False,
    qk_norm=True,
    window_pattern=(16, 0),
)
"""A model as Llama's, with grouped heads, and with sliding windows in one layer of two."""
LEARNED = ModelConfig(vocab_size=VOCAB, n_layer=2, n_head=4, n_embd=64, context_length=TOKENS)
"""A model as GPT-2."""


class Gradient(NamedTuple):
    """The mean loss of a batch, and its gradient (N,) in fp64 on the CPU, all parameters in a row."""

    loss: float
    vector: Tensor


def batch_on(device: torch.device) -> Batch:
    """Return the batch: documents of several lengths in each sequence, and targets that do not count."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(VOCAB, (SEQUENCES, TOKENS + 1), generator=generator)
    targets = ids[:, 1:].clone()
    for row in range(SEQUENCES):
        targets[row, : 5 * row] = IGNORE_INDEX
    segments = (torch.rand(SEQUENCES, TOKENS, generator=generator) < 0.1).long().cumsum(1)
    return Batch(ids[:, :-1].contiguous(), targets, segments).to(device)


def model_on(device: torch.device, config: ModelConfig = ROTARY, dtype: torch.dtype = torch.float32) -> GPT:
    """Return a model with the same numbers on every device, larger than those that trainings begin with.

    With initial weights the logits are nearly uniform, and errors of attention would hardly show.
    """
    model = build_model(config, seed=3, device=CPU, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model.to(device)


def gradient(
    model: GPT,
    batches: Sequence[Batch],
    precision: ResolvedPrecision = "fp32",
    loss_function: LossFunction | None = None,
) -> Gradient:
    """Return loss and gradient of a step, computed as the trainer does."""
    device = batches[0].input_ids.device
    strategy = Alone(model)
    if loss_function is not None:
        strategy.loss_function = loss_function
    model.zero_grad(set_to_none=True)
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    means, _ = accumulate_gradients(strategy, list(batches), device, precision, scaler)
    parts = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return Gradient(float(means[0]), torch.cat([part.detach().cpu().double().flatten() for part in parts]))


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over that of `expected`; infinite where a number is not finite."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    difference = float((found - expected).norm() / expected.norm())
    return difference if difference == difference else float("inf")
