"""nanochat's family: `NanoChatForCausalLM`, as transformers 5 has it.

RMSNorm without weights, also on what enters the first block and on queries and keys; squared ReLU; bounded logits. Its
RoPE turns the other way round, which is ours where the halves of each head of q and k change places. It normalises
queries and keys after the rotation, which is the same before it, since a rotation keeps their length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gptcli.interop.family import Family, ForeignConfig, Json, Rule, qkv_rows
from gptcli.interop.llama import TABLE, bias_obstacles, read_whole_rope, write_shared
from gptcli.models.config import MOST_LAYERS, ModelConfig
from gptcli.models.rope_scaling import YarnScaling

ACTIVATIONS = {"relu2": "relu2", "gelu": "gelu", "gelu_tanh": "gelu_new"}
MLPS = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu_tanh"}
SOFTCAP = 15.0


def write_config(config: ModelConfig) -> Json:
    return write_shared(config, ACTIVATIONS) | {
        "final_logit_softcapping": config.logit_softcap,
        "attention_bias": False,
    }


def read_config(foreign: ForeignConfig) -> Json:
    foreign.require("attention_bias", False)
    rope = read_whole_rope(foreign)
    if rope["rope_scaling"] and rope["rope_scaling"]["name"] == "yarn":
        raise foreign.unsupported("nanochat with YaRN", "its attention factor is undone by the norms that follow")
    return {
        "context_length": foreign.get("max_position_embeddings", 2048),
        "n_layer": foreign.need("num_hidden_layers", MOST_LAYERS),
        "n_head": foreign.need("num_attention_heads"),
        "n_kv_head": foreign.get("num_key_value_heads", None),
        "n_embd": foreign.need("hidden_size"),
        "head_dim": foreign.get("head_dim", None),
        "intermediate_size": foreign.need("intermediate_size"),
        "norm": "rmsnorm",
        "norm_weight": False,
        "embedding_norm": True,
        "norm_eps": foreign.get("rms_norm_eps", 1e-6),
        "position": "rope",
        **rope,
        "mlp": foreign.choose("hidden_act", foreign.get("hidden_act", "relu2"), MLPS),
        "qk_norm": True,
        "logit_softcap": foreign.get("final_logit_softcapping", SOFTCAP),
        "tie_embeddings": foreign.get("tie_word_embeddings", False),
        "attention_dropout": foreign.get("attention_dropout", 0.0),
    }


def shape_obstacles(config: ModelConfig) -> list[str]:
    wrong = ["it has no sliding windows"] * any(config.window_pattern) + bias_obstacles(config)
    if isinstance(config.rope_scaling, YarnScaling):
        wrong.append("it undoes YaRN's attention factor")
    return wrong


def swapped_halves(config: ModelConfig) -> Sequence[int]:
    """Of each head of q and k the second half first; v stays as it is."""
    width, turned = config.head_width, (config.n_head + config.kv_heads) * config.head_width
    halves = [*range(width // 2, width), *range(width // 2)]
    heads = [start + row for start in range(0, turned, width) for row in halves]
    return heads + list(range(turned, sum(qkv_rows(config))))


MODULES = {
    "blocks.{i}.mlp.up": Rule("blocks.{i}.mlp.up", ("model.layers.{i}.mlp.fc1",)),
    "blocks.{i}.mlp.down": Rule("blocks.{i}.mlp.down", ("model.layers.{i}.mlp.fc2",)),
}

NANOCHAT = Family(
    name="nanochat",
    architecture="NanoChatForCausalLM",
    slots={
        "norm": ("rmsnorm",),
        "norm_place": ("before",),
        "norm_weight": (False,),
        "embedding_norm": (True,),
        "position": ("rope",),
        "rotary_fraction": (1.0,),
        "mlp": tuple(ACTIVATIONS),
        "qk_norm": (True,),
        "qk_norm_over": ("head",),
        "bias": (False,),
        "smear": (False,),
        "bigram_buckets": (0,),
        "parallel_residual": (False,),
    },
    shape_obstacles=shape_obstacles,
    write_config=write_config,
    read_config=read_config,
    table=tuple(
        replace(rule, order=swapped_halves) if rule.ours.endswith("qkv") else MODULES.get(rule.ours, rule)
        for rule in TABLE
        if not rule.ours.endswith("norm")
    ),
    prefix="model.",
)
