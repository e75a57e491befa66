"""One optimizer step: accumulation changes nothing, a bad number changes nothing."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from gptcli.data.batches import Batch
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.loss import IGNORE_INDEX
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig
from gptcli.train.step import Stepper, StepResult, accumulate_gradients, step_seed

CPU = torch.device("cpu")
NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)


def tiny_model(dtype: torch.dtype = torch.float32) -> GPT:
    config = ModelConfig(vocab_size=17, n_layer=2, n_head=2, n_embd=16, context_length=8)
    return build_model(config, seed=1, dtype=dtype)


def ragged_batch(sequences: int = 8) -> Batch:
    """Sequences whose first targets are ignored, each a different number of them."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(17, (sequences, 9), generator=generator)
    targets = ids[:, 1:].clone()
    for row in range(sequences):
        targets[row, : row % 5] = IGNORE_INDEX
    return Batch(ids[:, :-1].contiguous(), targets, None)


def split(batch: Batch, size: int) -> list[Batch]:
    return [
        Batch(ids, targets, None)
        for ids, targets in zip(batch.input_ids.split(size), batch.targets.split(size), strict=True)
    ]


def gradient(model: GPT, batches: list[Batch]) -> torch.Tensor:
    model.zero_grad(set_to_none=True)
    accumulate_gradients(model.loss_sum, batches, CPU, "fp32", NO_SCALER)
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("size", [1, 3])
def test_accumulation_gives_the_gradient_of_the_whole_batch(dtype: torch.dtype, tolerance: float, size: int) -> None:
    model, batch = tiny_model(dtype), ragged_batch()
    whole, parts = gradient(model, [batch]), gradient(model, split(batch, size))
    assert (whole - parts).norm() / whole.norm() < tolerance


def test_the_loss_is_the_mean_over_all_target_tokens() -> None:
    model, batch = tiny_model(torch.float64), ragged_batch()
    loss, tokens = accumulate_gradients(model.loss_sum, split(batch, 3), CPU, "fp32", NO_SCALER)
    logits = model(batch.input_ids)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE_INDEX
    )
    assert tokens == int((batch.targets != IGNORE_INDEX).sum())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def stepper(model: GPT) -> Stepper:
    optimizer = build_optimizer(model.parameter_infos(), AdamWConfig(lr=1e-2))
    return Stepper(model, optimizer, model.loss_sum, device=CPU, precision="fp32", grad_clip=1.0)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_step_with_a_bad_number_changes_no_byte(poison: float) -> None:
    model = tiny_model()
    steps = stepper(model)
    steps.run([ragged_batch()])
    weights = copy.deepcopy(model.state_dict())
    moments = copy.deepcopy(steps.optimizer.state_dict())

    def poisoned(*arguments: torch.Tensor) -> torch.Tensor:
        return model.loss_sum(*arguments) * poison

    steps.loss_sum = poisoned
    result = steps.run([ragged_batch()])
    assert not result.is_finite and steps.is_bad(result)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    after = steps.optimizer.state_dict()
    for index, state in moments["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(after["state"][index][name])), name


def test_a_finite_loss_with_one_infinite_gradient_is_a_bad_step() -> None:
    model = tiny_model()
    steps = stepper(model)
    model.final_norm.weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([3]), math.inf))
    before = copy.deepcopy(model.state_dict())
    result = steps.run([ragged_batch()])
    assert math.isfinite(result.loss) and steps.is_bad(result)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_only_numbers_are_finite() -> None:
    assert StepResult(1.0, 2.0, 3).is_finite
    assert not StepResult(math.nan, 2.0, 3).is_finite
    assert not StepResult(1.0, math.inf, 3).is_finite


def test_step_seeds_differ_by_step_and_by_seed() -> None:
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
