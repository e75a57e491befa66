"""Checks of what a model computes on a device: each returns a difference and its limit.

The limits are some thirty times the differences that rounding makes on an x86 CPU, and seven times in bf16, since other
processors add in another order. A wrong mask, kernel or cache makes far larger ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from gptcli.generate.config import EngineConfig, SamplingParams
from gptcli.generate.engine import Engine
from gptcli.generate.requests import Request
from gptcli.models.config import ModelConfig
from gptcli.report.selfcheck.results import Measurement
from gptcli.report.selfcheck.subject import (
    CPU,
    LEARNED,
    ROTARY,
    SEQUENCES,
    TOKENS,
    batch_on,
    gradient,
    model_on,
    relative,
)
from gptcli.train.compiling import compiled

FP32_LIMIT, BF16_LIMIT = 3e-5, 0.1
NEW_TOKENS = 24


def whole_and_parts(device: torch.device, folder: Path) -> Measurement:
    """Compare the gradient of one micro-batch of eight sequences with that of eight of one."""
    model, batch = model_on(device), batch_on(device)
    whole, parts = gradient(model, [batch]), gradient(model, batch.split(1))
    return Measurement(relative(parts.vector, whole.vector), FP32_LIMIT)


def fp64(device: torch.device, folder: Path) -> Measurement:
    """Compare loss and gradient in fp32 with those in fp64 on the CPU."""
    found = gradient(model_on(device), [batch_on(device)])
    expected = gradient(model_on(CPU, dtype=torch.float64), [batch_on(CPU)])
    of_loss = abs(found.loss - expected.loss) / expected.loss
    return Measurement(max(of_loss, relative(found.vector, expected.vector)), FP32_LIMIT)


def attention(device: torch.device, folder: Path) -> Measurement:
    """Compare the gradients with torch's fused attention and with the plain formula, for both shapes."""
    batch = batch_on(device)
    return largest(
        relative(
            gradient(model_on(device, config), [batch]).vector,
            gradient(model_on(device, config.model_copy(update={"attention": "reference"})), [batch]).vector,
        )
        for config in (ROTARY, LEARNED)
    )


def cache(device: torch.device, folder: Path) -> Measurement:
    """Compare the logits of tokens that are read one by one, with a cache, with those of the whole text."""
    ids = batch_on(device).input_ids
    return largest(cache_difference(device, config, ids) for config in (ROTARY, LEARNED))


def largest(differences: Iterable[float]) -> Measurement:
    """Return the largest of several differences in fp32."""
    return Measurement(max(differences), FP32_LIMIT)


@torch.no_grad()
def cache_difference(device: torch.device, config: ModelConfig, ids: torch.Tensor) -> float:
    """Return the relative difference of the logits with and without a cache."""
    model = model_on(device, config).eval()
    memory, prompt = model.new_cache(len(ids), TOKENS), TOKENS // 2
    steps = [model(ids[:, :prompt], memory)]
    steps += [model(ids[:, place : place + 1], memory) for place in range(prompt, TOKENS)]
    return relative(torch.cat(steps, dim=1), model(ids))


def batches(device: torch.device, folder: Path) -> Measurement:
    """Count the ids of samples that differ between a request alone and the same one among others."""
    model = model_on(device).eval()
    prompts = [row[: 4 * number + 1].tolist() for number, row in enumerate(batch_on(device).input_ids)]

    def run(numbers: range) -> list[list[int]]:
        requests = [
            Request(prompts[number], SamplingParams(max_new_tokens=NEW_TOKENS, top_k=20, seed=number))
            for number in numbers
        ]
        for _ in Engine(model, EngineConfig(rows=SEQUENCES)).run(requests):
            pass
        return [request.ids for request in requests]

    together = run(range(SEQUENCES))
    alone = [run(range(number, number + 1))[0] for number in range(SEQUENCES)]
    return Measurement(sum(one != other for one, other in zip(alone, together, strict=True)), 0)


def compilation(device: torch.device, folder: Path) -> Measurement:
    """Compare loss and gradient of a compiled model with those of the same model as it is."""
    model, batch = model_on(device), batch_on(device)
    expected = gradient(model, [batch])
    found = gradient(model, [batch], loss_function=compiled(model.loss_sum, folder))
    return Measurement(relative(found.vector, expected.vector), FP32_LIMIT)


def bf16(device: torch.device, folder: Path) -> Measurement:
    """Compare the gradient of a step in bf16 with that in fp32."""
    model, batch = model_on(device), batch_on(device)
    expected = gradient(model, [batch])
    return Measurement(relative(gradient(model, [batch], "bf16").vector, expected.vector), BF16_LIMIT)


def threads(device: torch.device, folder: Path) -> Measurement:
    """Compare the gradient that one thread computes with that of all, and require that of all to repeat itself."""
    batch = batch_on(device)
    expected = gradient(model_on(device), [batch])
    again = gradient(model_on(device), [batch])
    if not torch.equal(again.vector, expected.vector):
        return Measurement(relative(again.vector, expected.vector), 0)
    count = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = gradient(model_on(device), [batch])
    finally:
        torch.set_num_threads(count)
    return Measurement(relative(alone.vector, expected.vector), FP32_LIMIT)
