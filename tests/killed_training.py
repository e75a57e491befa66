"""A training in this process that dies between two steps without saving, as a killed process does."""

from __future__ import annotations

from typing import Any

import pytest

from gptcli.train.loop import Trainer
from gptcli.train.request import TrainRequest
from gptcli.train.run import train


def train_until_killed(request: TrainRequest, step: int, *, waits_for_saver: bool = False) -> None:
    """Train as requested, and die after `step` steps; checkpoints that are being written are whole if it waits."""
    advance = Trainer.advance

    def die(trainer: Trainer, *arguments: Any) -> bool:
        if trainer.state.step == step:
            if waits_for_saver:
                trainer.saver.wait()
            raise KeyboardInterrupt  # without a save
        return advance(trainer, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", die)
        with pytest.raises(KeyboardInterrupt):
            train(request)
