"""The loss of preferences: the formula in float64, whole steps, and what does not change it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gptcli.data.batch import Batch
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.loss import IGNORE_INDEX
from gptcli.objective.config import DPOConfig
from gptcli.objective.dpo import DPO
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig
from gptcli.parallel.strategy import Alone
from gptcli.train.step import Stepper, accumulate_gradients
from waiting import no_waiting

CPU, NO_SCALER = torch.device("cpu"), torch.amp.GradScaler("cpu", enabled=False)
T = 24
PAIRS = [
    [((3, 4), (3, 6)), ((2, 1), (2, 3))],
    [((5, 2), (5, 5))],
    [((1, 3), (1, 2)), ((2, 2), (2, 1)), ((1, 1), (1, 2))],
]
"""Rows of pairs: (prompt tokens, answer tokens) of the chosen and of the rejected one."""


def tiny_model(seed: int = 1) -> GPT:
    config = ModelConfig(vocab_size=31, n_layer=2, n_head=2, n_embd=32, context_length=T)
    return build_model(config, seed=seed).double()


def batch_of_pairs(reference: GPT) -> Batch:
    """Rows of whole pairs, padded, with the nats of `reference`."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(31, (len(PAIRS), T), generator=generator)
    targets, segments = torch.full((len(PAIRS), T), IGNORE_INDEX), torch.zeros(len(PAIRS), T, dtype=torch.long)
    for row, pairs in enumerate(PAIRS):
        at = 0
        for number, (prompt, answer) in enumerate(side for pair in pairs for side in pair):
            first, stop = at + prompt, at + prompt + answer
            targets[row, first - 1 : stop - 1] = ids[row, first:stop]
            segments[row, at:stop] = number
            at = stop
        segments[row, at:] = 2 * len(pairs)
    with torch.no_grad():
        return Batch(ids, targets, segments, reference.token_losses(ids, targets, segments))


def one_by_one(model: GPT, reference: GPT, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """The log-ratios of each pair, every answer computed by itself after its prompt."""
    ratios: list[tuple[Tensor, Tensor]] = []
    for row, pairs in enumerate(PAIRS):
        at, sums = 0, []
        for prompt, answer in (side for pair in pairs for side in pair):
            ids = batch.input_ids[row : row + 1, at : at + prompt + answer]
            with torch.no_grad():
                base = reference(ids).log_softmax(-1)
            ratio = model(ids).log_softmax(-1) - base
            sums.append(sum(ratio[0, place - 1, ids[0, place]] for place in range(prompt, prompt + answer)))
            at += prompt + answer
        ratios += zip(sums[::2], sums[1::2], strict=True)
    return ratios


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_gradient_and_figures_are_those_of_the_formula(smoothing: float) -> None:
    model, reference = tiny_model(), tiny_model(2)
    batch = batch_of_pairs(reference)
    means, _ = accumulate_gradients(
        Alone(model, objective=DPO(DPOConfig(beta=0.3, label_smoothing=smoothing))), [batch], CPU, "fp32", NO_SCALER
    )
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    ratios = one_by_one(model, reference, batch)
    chosen, rejected = (0.3 * torch.stack(side) for side in zip(*ratios, strict=True))
    margin = chosen - rejected
    losses = -(1 - smoothing) * torch.log(torch.sigmoid(margin)) - smoothing * torch.log(torch.sigmoid(-margin))
    losses.mean().backward()
    expected = [losses, chosen, rejected, margin, (margin > 0).double()]
    assert means[:-1].tolist() == pytest.approx([float(one.detach().mean()) for one in expected], rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-8)  # RoPE rotates in fp32


def test_the_estimate_of_the_divergence_is_half_the_squared_ratios_of_an_answer() -> None:
    model, reference = tiny_model(), tiny_model(2)
    batch = batch_of_pairs(reference)
    means, _ = accumulate_gradients(Alone(model, objective=DPO(DPOConfig())), [batch], CPU, "fp32", NO_SCALER)
    with torch.no_grad():
        squares = (model.token_losses(*batch.model_inputs) - batch.reference).square().sum() / 2
    assert float(means[-1]) == pytest.approx(float(squares) / 12, rel=1e-6), "six pairs have twelve answers"


def test_micro_batches_and_padding_change_neither_loss_nor_gradient() -> None:
    batch, results = batch_of_pairs(tiny_model(2)), []
    for parts in ([batch], batch.split(1)):
        model = tiny_model()
        means, tokens = accumulate_gradients(Alone(model, objective=DPO(DPOConfig())), parts, CPU, "fp32", NO_SCALER)
        assert tokens == sum(answer for row in PAIRS for pair in row for _, answer in pair)
        results.append([means.double(), *(parameter.grad for parameter in model.parameters())])
    for whole, cut in zip(*results, strict=True):
        torch.testing.assert_close(whole, cut, rtol=1e-6, atol=1e-9)


def test_at_its_reference_the_loss_is_that_of_a_coin() -> None:
    model = tiny_model()
    means, _ = accumulate_gradients(
        Alone(model, objective=DPO(DPOConfig())), [batch_of_pairs(model)], CPU, "fp32", NO_SCALER
    )
    loss, *rewards, accuracy, divergence = means.tolist()
    assert loss == pytest.approx(math.log(2), rel=1e-7)
    assert [*rewards, divergence] == pytest.approx([0] * 4, abs=1e-12) and accuracy <= 1


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_preferences_never_waits_for_the_gpu(precision: str) -> None:
    model, objective = tiny_model().float().cuda(), DPO(DPOConfig())
    strategy = Alone(model, objective=objective)
    optimizer = build_optimizer(strategy.infos, AdamWConfig(lr=1e-3))
    steps = Stepper(strategy, optimizer, device=torch.device("cuda"), precision=precision, grad_clip=1.0)
    batch = batch_of_pairs(tiny_model().float())
    batches = [part.pin_memory() for part in batch.split(1)]
    steps.run(batches)
    with no_waiting():
        pending = [steps.launch(batches) for _ in range(3)]
    results = [step.result() for step in pending]
    assert all(result.is_finite for result in results) and results[-1].loss < results[0].loss
