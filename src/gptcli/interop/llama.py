"""The families that share Llama's tensor names: Llama, Mistral, Qwen2, Qwen3 and OLMo 2.

All are RMSNorm, RoPE, grouped-query, gated-MLP decoders. Mistral adds a sliding window in every layer, Qwen2 and Qwen3
one in the layers that `layer_types` names; Qwen2 has biases on queries, keys and values, Qwen3 RMSNorm on queries and
keys. OLMo 2 normalises what attention and MLP add, not what they read, and queries and keys over all heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gptcli.interop.family import Family, ForeignConfig, Json, Rule, gate_up_rows, qkv_rows, show, with_biases
from gptcli.interop.rope import read_rope, write_rope
from gptcli.models.config import MOST_LAYERS, ModelConfig

ACTIVATIONS = {"swiglu": "silu", "geglu": "gelu"}
MLPS = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"swish": "swiglu"}
SLIDING, FULL = "sliding_attention", "full_attention"


def write_shared(config: ModelConfig, activations: Mapping[str, str] = ACTIVATIONS) -> Json:
    """The keys that all of these classes have; `activations` are their names of ours."""
    return {
        "max_position_embeddings": config.context_length,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        "hidden_act": activations[config.mlp],
        "rms_norm_eps": config.norm_eps,
        "attention_dropout": config.attention_drop,
        **write_rope(config),
    }


def read_shared(foreign: ForeignConfig, *, heads_default: int | None = None) -> Json:
    return {
        "context_length": foreign.need("max_position_embeddings"),
        "n_layer": foreign.need("num_hidden_layers", MOST_LAYERS),
        "n_head": foreign.need("num_attention_heads"),
        "n_kv_head": foreign.get("num_key_value_heads", heads_default),
        "n_embd": foreign.need("hidden_size"),
        "head_dim": foreign.get("head_dim", None),
        "intermediate_size": foreign.need("intermediate_size"),
        "norm": "rmsnorm",
        "norm_eps": foreign.get("rms_norm_eps", 1e-6),
        "position": "rope",
        **read_whole_rope(foreign),
        "mlp": foreign.choose("hidden_act", foreign.get("hidden_act", "silu"), MLPS),
        "qk_norm": False,
        "tie_embeddings": foreign.get("tie_word_embeddings", False),
    }


def read_whole_rope(foreign: ForeignConfig) -> Json:
    """None of these classes turns only a part of each head, whatever a config.json says."""
    rope = read_rope(foreign)
    if rope["rotary_fraction"] != 1.0:
        raise foreign.unsupported(f"RoPE for a part of each head ({rope['rotary_fraction']:g})")
    return rope


def write_llama(config: ModelConfig) -> Json:
    return write_shared(config) | {"attention_bias": config.bias, "mlp_bias": config.bias}


def read_llama(foreign: ForeignConfig) -> Json:
    attention_bias, mlp_bias = foreign.get("attention_bias", False), foreign.get("mlp_bias", False)
    if attention_bias != mlp_bias:
        raise foreign.unsupported(f"attention_bias = {attention_bias} with mlp_bias = {mlp_bias}", "both or neither is")
    return read_shared(foreign) | {"bias": attention_bias}


def bias_obstacles(config: ModelConfig) -> list[str]:
    if config.has_qkv_bias == config.bias:
        return []
    return [f"qkv_bias ({show(config.has_qkv_bias)}) must be as bias ({show(config.bias)})"]


def shape_obstacles(config: ModelConfig) -> list[str]:
    wrong = ["it has no sliding windows"] if any(config.window_pattern) else []
    if config.n_embd % config.n_head:
        wrong.append(f"n_embd ({config.n_embd}) must be a multiple of n_head ({config.n_head})")
    return wrong


def llama_obstacles(config: ModelConfig) -> list[str]:
    return shape_obstacles(config) + bias_obstacles(config)


def write_mistral(config: ModelConfig) -> Json:
    return write_shared(config) | {"sliding_window": config.window(0) or None}


def read_mistral(foreign: ForeignConfig) -> Json:
    window = foreign.get("sliding_window", 4096)
    return read_shared(foreign, heads_default=8) | {"window_pattern": (window,) if window else ()}


def mistral_obstacles(config: ModelConfig) -> list[str]:
    windows = {config.window(layer) for layer in range(config.n_layer)}
    return ["every layer must have the same sliding window"] * (len(windows) > 1) + bias_obstacles(config)


def write_windows(config: ModelConfig) -> Json:
    """Qwen's keys for a window in some layers."""
    windows = [config.window(layer) for layer in range(config.n_layer)]
    return {
        "use_sliding_window": any(windows),
        "sliding_window": max(windows) or None,
        "layer_types": [SLIDING if window else FULL for window in windows],
    }


def read_windows(foreign: ForeignConfig) -> Json:
    window = foreign.get("sliding_window", 4096) if foreign.get("use_sliding_window", False) else None
    first_windowed = foreign.get("max_window_layers", 28)
    default_types = [
        SLIDING if i >= first_windowed else FULL for i in range(foreign.need("num_hidden_layers", MOST_LAYERS))
    ]
    layer_types = foreign.get("layer_types", default_types) or default_types
    windowed = [kind == SLIDING for kind in layer_types] if window else []
    return {"window_pattern": tuple(window if slides else 0 for slides in windowed) if any(windowed) else ()}


def window_obstacles(config: ModelConfig) -> list[str]:
    widths = {config.window(layer) for layer in range(config.n_layer)} - {0}
    return [f"its sliding windows must have one width, not {sorted(widths)}"] if len(widths) > 1 else []


def write_qwen3(config: ModelConfig) -> Json:
    return write_shared(config) | write_windows(config) | {"attention_bias": False}


def read_qwen3(foreign: ForeignConfig) -> Json:
    foreign.require("attention_bias", False)
    shared = read_shared(foreign, heads_default=32) | read_windows(foreign)
    return shared | {"head_dim": foreign.get("head_dim", 128), "qk_norm": True}


def qwen3_obstacles(config: ModelConfig) -> list[str]:
    return window_obstacles(config) + bias_obstacles(config)


def write_qwen2(config: ModelConfig) -> Json:
    return write_shared(config) | write_windows(config)


def read_qwen2(foreign: ForeignConfig) -> Json:
    return read_shared(foreign, heads_default=32) | read_windows(foreign) | {"qkv_bias": True}


def write_olmo2(config: ModelConfig) -> Json:
    return write_shared(config) | {"attention_bias": False}


def read_olmo2(foreign: ForeignConfig) -> Json:
    foreign.require("attention_bias", False)
    return read_shared(foreign) | {
        "norm_eps": foreign.get("rms_norm_eps", 1e-5),
        "norm_place": "after",
        "qk_norm": True,
        "qk_norm_over": "heads",
    }


def olmo2_obstacles(config: ModelConfig) -> list[str]:
    return ["it has no sliding windows"] * any(config.window_pattern) + bias_obstacles(config)


SLOTS = {
    "norm": ("rmsnorm",),
    "position": ("rope",),
    "rotary_fraction": (1.0,),
    "norm_place": ("before",),
    "norm_weight": (True,),
    "embedding_norm": (False,),
    "mlp": tuple(ACTIVATIONS),
    "qk_norm": (False,),
    "qk_norm_over": ("head",),
    "bias": (False,),
    "smear": (False,),
    "bigram_buckets": (0,),
    "parallel_residual": (False,),
    "logit_softcap": (None,),
}
TABLE = (
    Rule("embedding", ("model.embed_tokens",)),
    Rule("blocks.{i}.attention_norm", ("model.layers.{i}.input_layernorm",)),
    Rule(
        "blocks.{i}.attention.qkv",
        (
            "model.layers.{i}.self_attn.q_proj",
            "model.layers.{i}.self_attn.k_proj",
            "model.layers.{i}.self_attn.v_proj",
        ),
        rows=qkv_rows,
    ),
    Rule("blocks.{i}.attention.q_norm", ("model.layers.{i}.self_attn.q_norm",)),
    Rule("blocks.{i}.attention.k_norm", ("model.layers.{i}.self_attn.k_norm",)),
    Rule("blocks.{i}.attention.output", ("model.layers.{i}.self_attn.o_proj",)),
    Rule("blocks.{i}.mlp_norm", ("model.layers.{i}.post_attention_layernorm",)),
    Rule(
        "blocks.{i}.mlp.up",
        ("model.layers.{i}.mlp.gate_proj", "model.layers.{i}.mlp.up_proj"),
        rows=gate_up_rows,
    ),
    Rule("blocks.{i}.mlp.down", ("model.layers.{i}.mlp.down_proj",)),
    Rule("final_norm", ("model.norm",)),
    Rule("head", ("lm_head",)),
)
OLMO2_NORMS = {
    "blocks.{i}.attention_norm": "model.layers.{i}.post_attention_layernorm",
    "blocks.{i}.mlp_norm": "model.layers.{i}.post_feedforward_layernorm",
}
IGNORED = r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"

LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    slots=SLOTS | {"bias": (False, True)},
    shape_obstacles=llama_obstacles,
    write_config=write_llama,
    read_config=read_llama,
    table=TABLE,
    prefix="model.",
    ignored=IGNORED,
)
MISTRAL = replace(
    LLAMA,
    name="mistral",
    architecture="MistralForCausalLM",
    slots=SLOTS,
    shape_obstacles=mistral_obstacles,
    write_config=write_mistral,
    read_config=read_mistral,
)
QWEN2 = replace(
    LLAMA,
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    slots=SLOTS | {"qkv_bias": (True,)},
    shape_obstacles=window_obstacles,
    write_config=write_qwen2,
    read_config=read_qwen2,
)
QWEN3 = replace(
    LLAMA,
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    slots=SLOTS | {"qk_norm": (True,)},
    shape_obstacles=qwen3_obstacles,
    write_config=write_qwen3,
    read_config=read_qwen3,
)
BIASED_LLAMA = replace(
    LLAMA,
    slots=SLOTS | {"qkv_bias": (True,)},
    shape_obstacles=shape_obstacles,
    written_as=with_biases,
)
"""Qwen2's models in Llama's class: its other biases are zero."""
OLMO2 = replace(
    LLAMA,
    name="olmo2",
    architecture="Olmo2ForCausalLM",
    slots=SLOTS | {"norm_place": ("after",), "qk_norm": (True,), "qk_norm_over": ("heads",)},
    shape_obstacles=olmo2_obstacles,
    write_config=write_olmo2,
    read_config=read_olmo2,
    table=tuple(
        replace(rule, theirs=(OLMO2_NORMS[rule.ours],)) if rule.ours in OLMO2_NORMS else rule for rule in TABLE
    ),
)
