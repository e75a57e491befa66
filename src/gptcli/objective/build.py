"""From the configuration of an objective to the objective."""

from __future__ import annotations

from typing import assert_never

from gptcli.objective.config import CrossEntropyConfig, DPOConfig, ObjectiveConfig
from gptcli.objective.dpo import DPO
from gptcli.objective.objective import CROSS_ENTROPY, Objective


def build_objective(config: ObjectiveConfig) -> Objective:
    """Return the objective that `config` describes."""
    match config:
        case CrossEntropyConfig():
            return CROSS_ENTROPY
        case DPOConfig():
            return DPO(config)
        case _ as unreachable:
            assert_never(unreachable)
