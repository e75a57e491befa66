"""What a rank does in the test of preferences: steps of DPO on its share of the pairs."""

from __future__ import annotations

import torch

from gptcli.data.batch import Batch
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.objective.config import DPOConfig
from gptcli.objective.dpo import DPO
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig
from gptcli.parallel.distributed import Replicated
from gptcli.parallel.layout import Layout
from gptcli.parallel.strategy import Alone, Strategy
from gptcli.parallel.world import World
from gptcli.train.step import Stepper, StepResult

CONFIG = ModelConfig(vocab_size=31, n_layer=1, n_head=2, n_embd=16, context_length=16)


def rows(count: int) -> Batch:
    """Rows of one or two pairs each, so that the ranks have different numbers of them."""
    ids = torch.randint(31, (count, 17), generator=torch.Generator().manual_seed(0))
    segments = torch.tensor([[0] * 4 + [1] * 4 + [2] * 4 + [3] * 4, [0] * 8 + [1] * 6 + [2] * 2])[
        torch.arange(count) // 2
    ]
    targets = torch.where((torch.arange(16) % 4 > 0) & (segments.diff(append=segments[:, -1:]) == 0), ids[:, 1:], -100)
    targets[count - 2 :, 14:] = -100
    with torch.no_grad():
        nats = build_model(CONFIG, seed=2).token_losses(ids[:, :-1], targets, segments)
    return Batch(ids[:, :-1].contiguous(), targets, segments, nats)


def steps(strategy: Strategy, batch: Batch) -> tuple[list[StepResult], list[list[float]]]:
    """Three steps on the micro-batches of a batch, and the weights after them."""
    optimizer = build_optimizer(strategy.infos, AdamWConfig(lr=1e-2))
    stepper = Stepper(strategy, optimizer, device=torch.device("cpu"), precision="fp32", grad_clip=1.0)
    return [stepper.run(batch.split(1)) for _ in range(3)], strategy.model.embedding.weight.tolist()


def steps_of_rank(rank: int, ranks: int) -> tuple[list[StepResult], list[list[float]]]:
    """Those of one of several ranks with whole weights."""
    model, objective = build_model(CONFIG, seed=1), DPO(DPOConfig(beta=0.5))
    strategy = Replicated(
        model, World(rank, ranks), Layout(rank, replicas=ranks), objective.loss_function(model), objective
    )
    return steps(strategy, rows(4).split(4 // ranks)[rank])


def steps_alone() -> tuple[list[StepResult], list[list[float]]]:
    """Those of one process."""
    return steps(Alone(build_model(CONFIG, seed=1), objective=DPO(DPOConfig(beta=0.5))), rows(4))
