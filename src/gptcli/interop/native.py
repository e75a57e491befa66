"""Our own form, for models of which transformers has no class: our names, our config, and in words why."""

from __future__ import annotations

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


def write_config(config: ModelConfig) -> Json:
    return {"gptcli": config.model_dump(mode="json", exclude_none=True)}


def read_config(foreign: ForeignConfig) -> Json:
    values = foreign.get("gptcli", None)
    if not isinstance(values, dict):
        raise CheckpointError(f"{foreign.path} has no table 'gptcli' that describes the model", "save the model again")
    return {**values, "attention": "fast"}  # the plain formula takes memory by the square of what is read


NATIVE = Family(
    name="gptcli",
    architecture=None,
    slots={},
    shape_obstacles=lambda config: [],
    write_config=write_config,
    read_config=read_config,
    table=tuple(Rule(module, (module,)) for module in MODULES),
)
