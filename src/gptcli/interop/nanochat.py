"""nanochat's family: `NanoChatForCausalLM`, as transformers 5 has it.

RMSNorm without weights, also on what enters the first block and on queries and keys; squared ReLU; bounded logits. Its
RoPE turns the other way round, which is ours where the halves of each head of q and k change places. It normalises
queries and keys after the rotation, which is the same before it, since a rotation keeps their length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gptcli.interop.family import Family, ForeignConfig, Json, Key, Rule
from gptcli.interop.family_parts import PLAIN_MLPS, no_windows, rotated_order, uniform_bias
from gptcli.interop.llama import FREE, TABLE, read_whole_rope, with_defaults, write_shared
from gptcli.models.config import ModelConfig
from gptcli.models.rope_scaling import YarnScaling


def more_slots(foreign: ForeignConfig) -> Json:
    """Return the slots of RoPE."""
    rope = read_whole_rope(foreign)
    if rope["rope_scaling"] and rope["rope_scaling"]["name"] == "yarn":
        raise foreign.unsupported("nanochat with YaRN", "its attention factor is undone by the norms that follow")
    return rope


def no_yarn(config: ModelConfig) -> list[str]:
    """Return the obstacles to a class that normalises queries and keys after YaRN has scaled them."""
    return ["it undoes YaRN's attention factor"] if isinstance(config.rope_scaling, YarnScaling) else []


def swapped_halves(config: ModelConfig) -> Sequence[int]:
    """Return the order in which the second half of each head of q and k comes first."""
    width = config.head_width
    return rotated_order(config, [*range(width // 2, width), *range(width // 2)])


MODULES = {
    "blocks.{i}.mlp.up": Rule("blocks.{i}.mlp.up", ("model.layers.{i}.mlp.fc1",)),
    "blocks.{i}.mlp.down": Rule("blocks.{i}.mlp.down", ("model.layers.{i}.mlp.fc2",)),
}

NANOCHAT = Family(
    name="nanochat",
    architecture="NanoChatForCausalLM",
    keys=(
        *(key for key in with_defaults(context_length=2048) if key.slot != "mlp"),
        Key("mlp", "hidden_act", default="relu2", choices=PLAIN_MLPS),
        Key("logit_softcap", "final_logit_softcapping", default=15.0),
        Key("attention_dropout", "attention_dropout", default=0.0),
    ),
    slots={
        "norm": ("rmsnorm",),
        "norm_weight": (False,),
        "embedding_norm": (True,),
        "position": ("rope",),
        "mlp": ("relu2", "gelu", "gelu_tanh"),
        "qk_norm": (True,),
        "bias": (False,),
    },
    free=FREE | {"logit_softcap"},
    checks=(no_windows, uniform_bias, no_yarn),
    fixed={"attention_bias": False},
    more_keys=write_shared,
    more_slots=more_slots,
    prefix="model.",
    table=tuple(
        replace(rule, order=swapped_halves) if rule.ours.endswith("qkv") else MODULES.get(rule.ours, rule)
        for rule in TABLE
        if not rule.ours.endswith("norm")
    ),
)
