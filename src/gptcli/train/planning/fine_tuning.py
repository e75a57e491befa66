"""The rule for fine-tuning: what `gptcli finetune` chooses from the base model, the method and the examples.

docs/benchmarks.md says how the numbers were found. The rule works on plain numbers, and what the user set stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from gptcli.config import RawConfig, merge
from gptcli.config.load import with_origin
from gptcli.train.planning.zero_config import (
    CorpusFacts,
    micro_batch_sequences,
    significant,
    within,
    without_set,
    zero_config,
)

FINE_TUNING = "the rule for fine-tuning"


class Recipe(NamedTuple):
    """The settings of a method that do not depend on the examples.

    optimizer: muon or adamw.
    lr: its learning rate, of all weights, at TUNED_WIDTH and below; it falls with the width of wider bases.
    epochs: the passes over a training split of FEW_TOKENS and less, and the fewest over larger ones.
    steps: the steps of a run, about, as long as each has between one sequence and LARGEST_STEP tokens.
    without_qk_norm: the factor of the rate for a base that does not normalise its queries and keys.
    """

    optimizer: str
    lr: float
    epochs: tuple[float, float]
    steps: int
    without_qk_norm: float = 1.0


RECIPES: Mapping[str, Recipe] = {
    "full": Recipe("muon", 3e-3, (10, 3), 500),
    "lora": Recipe("adamw", 1e-2, (20, 5), 1000, without_qk_norm=0.3),
    "dpo": Recipe("adamw", 1e-4, (3, 1), 500),
    "dpo over lora": Recipe("adamw", 1e-3, (3, 1), 500),
}
ONLY_ADAMW = 8e-3
"""The rate of full fine-tuning by AdamW, if the user names it, at TUNED_WIDTH."""
MOMENTUM = 0.9
"""Muon's momentum, as for all short runs."""
TUNED_WIDTH = 128
"""Width at which the rates were found."""
FEW_TOKENS, EPOCHS_POWER = 100_000, 0.5
"""Tokens of a training split up to which it is read most often, and the power with which epochs fall beyond them."""
LARGEST_STEP = {"cpu": 8192, "gpu": 65536}
"""Most tokens of a step."""
LONGEST_SEQUENCE = 1024
"""Most tokens of a sequence, as a base may have a longer context than there is memory for."""
WARMUP_PART, MOST_WARMUP = 10, 20
"""Part of the steps that warm up, as a divisor, and the most steps of it."""
EVALUATIONS, LOG_LINES = 10, 200
"""Evaluations, which each come with a checkpoint, and lines of metrics.jsonl in a run."""
PATIENCE = 3
"""Evaluations without a lower validation loss after which the run ends."""


def choose_settings(facts: CorpusFacts, user: RawConfig) -> RawConfig:
    """Return a value for every key that the user did not set, by the rule for text or that for examples."""
    return fine_tuning(facts, user) if is_of_examples(user) else zero_config(facts, user)


def is_of_examples(user: RawConfig) -> bool:
    """Return whether the settings are of a training on examples."""
    return bool(user.values.get("data", {}).get("kind", "text") != "text")


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe of the method that nested settings describe."""
    is_adapter = values.get("adapter", {}).get("name", "none") != "none"
    if values.get("objective", {}).get("name") == "dpo":
        return RECIPES["dpo over lora" if is_adapter else "dpo"]
    return RECIPES["lora" if is_adapter else "full"]


def fine_tuning(facts: CorpusFacts, user: RawConfig) -> RawConfig:
    """Return a value for every key that the rule decides and the user did not set.

    Args:
        facts: the examples and the device.
        user: the merged files and --set values with the shape of the base, their keys and types checked.
    """
    recipe = recipe_of(user.values)
    train, model = user.values.get("train", {}), user.values.get("model", {})
    seq_len = train.get("seq_len") or min(model.get("context_length", LONGEST_SEQUENCE), LONGEST_SEQUENCE)
    chosen: dict[str, Any] = {"train": choose_training(facts, recipe, seq_len, train)}
    steps = merge(RawConfig(chosen), user).values["train"]["max_steps"]
    warmup = min(MOST_WARMUP, max(1, steps // WARMUP_PART))
    chosen["schedule"] = {"name": "linear", "warmup_steps": warmup, "min_lr": 0.0}
    named = user.values.get("optim", {}).get("name", recipe.optimizer)
    chosen["optim"] = choose_optimizer(recipe, named, model)
    return with_origin(without_set(chosen, user), FINE_TUNING)


def choose_training(facts: CorpusFacts, recipe: Recipe, seq_len: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the steps and batches for sequences of this length."""
    sequences = facts.sequences or max(1, math.ceil(facts.tokens(None) / seq_len))
    epochs = given.get("epochs") or choose_epochs(recipe, sequences * seq_len)
    largest = LARGEST_STEP["cpu" if facts.device_type == "cpu" else "gpu"] // seq_len
    per_step = int(within(round(epochs * sequences / recipe.steps), 1, max(1, largest)))
    per_step = max(1, given.get("tokens_per_step", per_step * seq_len) // seq_len)
    max_steps = given.get("max_steps") or max(1, math.ceil(epochs * sequences / per_step))
    every = max(1, max_steps // EVALUATIONS)
    batch_size = given.get("batch_size") or micro_batch_sequences(facts.device_type, seq_len)
    return {
        "seq_len": seq_len,
        "max_steps": max_steps,
        "tokens_per_step": per_step * seq_len,
        "batch_size": min(batch_size, per_step),
        "eval_every_steps": every,
        "checkpoint_every_steps": every,
        "sample_every_steps": 0,
        "log_every_steps": max(1, max_steps // LOG_LINES),
        "patience": PATIENCE,
    }


def choose_epochs(recipe: Recipe, tokens: float) -> float:
    """Return the passes over a training split of so many tokens."""
    most, fewest = recipe.epochs
    wanted: float = most * (FEW_TOKENS / tokens) ** EPOCHS_POWER
    return within(wanted, fewest, most)


def choose_optimizer(recipe: Recipe, name: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the optimizer of this name for a base of this shape, without weight decay.

    The decay of a short run would only pull the base's own weights towards zero. Where queries and keys are not
    normalised, attention takes the rates of adapters less well.
    """
    factor = min(1.0, TUNED_WIDTH / model.get("n_embd", TUNED_WIDTH))
    factor *= 1.0 if model.get("qk_norm") else recipe.without_qk_norm
    if name == "muon":
        rate = significant(recipe.lr * factor)
        return {"name": name, "lr": rate, "adamw_lr": rate, "weight_decay": 0.0, "momentum": MOMENTUM}
    rate = ONLY_ADAMW if recipe.optimizer == "muon" else recipe.lr
    return {"name": "adamw", "lr": significant(rate * factor), "weight_decay": 0.0}
