"""A training whose numbers are not finite ends with exit code 6 and keeps no checkpoint of them."""

from __future__ import annotations

import math

import pytest
import torch

from gptcli.checkpoint.local_shards import LocalShard, LocalShards
from gptcli.errors import DivergedError
from gptcli.parallel.world import World
from gptcli.train.config import RunConfig
from gptcli.train.divergence import require_finite_loss, require_finite_state

CONFIG = RunConfig()


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_validation_loss_that_is_not_finite_ends_the_training(loss: float) -> None:
    with pytest.raises(DivergedError, match=f"validation loss after step 1,200 is {loss}; no checkpoint of that step"):
        require_finite_loss(loss, 1200, CONFIG)
    require_finite_loss(1e6, 1200, CONFIG)


def test_the_largest_learning_rate_is_the_one_to_lower() -> None:
    optim = CONFIG.optim.model_copy(update={"embedding_lr": 3.0})
    with pytest.raises(DivergedError, match=r"lower optim.embedding_lr \(now 3\)"):
        require_finite_loss(math.nan, 1, CONFIG.model_copy(update={"optim": optim}))


def test_what_is_not_finite_in_a_checkpoint_is_named_also_in_a_part_of_a_tensor() -> None:
    whole = {"model": {"head": torch.ones(3)}, "optimizer": {"head/exp_avg": torch.zeros(3)}}
    require_finite_state(whole, 1, CONFIG, World())
    bad = torch.tensor([1.0, math.inf])
    parts = LocalShards.of((4,), torch.float32, [LocalShard((0,), torch.ones(2)), LocalShard((2,), bad)])
    with pytest.raises(DivergedError, match=r"head/exp_avg of the optimizer \(part 1\) holds NaN or infinity"):
        require_finite_state({**whole, "optimizer": {"head/exp_avg": parts}}, 1, CONFIG, World())
