"""gptcli's own form, for models that no class of transformers computes: our tensor names and our config."""

from __future__ import annotations

from gptcli.config.names import with_present_keys
from gptcli.errors import CheckpointError
from gptcli.interop.family import Family, ForeignConfig, Json, Rule
from gptcli.models.config import ModelConfig

MODULES = (
    "embedding",
    "position_embedding",
    "embedding_norm",
    "smear",
    "bigram.table",
    "blocks.{i}.attention_norm",
    "blocks.{i}.attention.qkv",
    "blocks.{i}.attention.q_norm",
    "blocks.{i}.attention.k_norm",
    "blocks.{i}.attention.output",
    "blocks.{i}.mlp_norm",
    "blocks.{i}.mlp.up",
    "blocks.{i}.mlp.down",
    "final_norm",
    "head",
)


def more_keys(config: ModelConfig) -> Json:
    """Return the whole config under one key."""
    return {"gptcli": config.model_dump(mode="json", exclude_none=True)}


def more_slots(foreign: ForeignConfig) -> Json:
    """Return the whole config.

    Raises:
        CheckpointError: it is missing.
    """
    values = foreign.get("gptcli", None)
    if not isinstance(values, dict):
        raise CheckpointError(f"{foreign.path} has no table 'gptcli' that describes the model", "save the model again")
    # The plain formula takes memory by the square of what is read.
    return {**with_present_keys({"model": values})["model"], "attention": "fast"}


NATIVE = Family(
    name="gptcli",
    architecture=None,
    more_keys=more_keys,
    more_slots=more_slots,
    table=tuple(Rule(module, (module,)) for module in MODULES),
)
