"""The families that share Llama's tensor names: Llama, Mistral, Qwen2, Qwen3 and OLMo 2.

All are RMSNorm, RoPE, grouped-query, gated-MLP decoders. Mistral adds a sliding window in every layer, Qwen2 and Qwen3
one in the layers that `layer_types` names; Qwen2 has biases on queries, keys and values, Qwen3 RMSNorm on queries and
keys. OLMo 2 normalises what attention and MLP add, not what they read, and queries and keys over all heads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gptcli.interop.family import Family, ForeignConfig, Json, Key, Rule
from gptcli.interop.family_parts import gate_up_rows, no_windows, qkv_rows, uniform_bias, with_biases
from gptcli.interop.rope import read_rope, write_rope
from gptcli.models.config import MOST_LAYERS, ModelConfig

SLIDING, FULL = "sliding_attention", "full_attention"
KEYS = (
    Key("context_length", "max_position_embeddings"),
    Key("n_layer", "num_hidden_layers", most=MOST_LAYERS),
    Key("n_head", "num_attention_heads"),
    Key("n_kv_head", "num_key_value_heads", default=None),
    Key("n_embd", "hidden_size"),
    Key("head_dim", "head_dim", default=None),
    Key("intermediate_size", "intermediate_size"),
    Key("norm_eps", "rms_norm_eps", default=1e-6),
    Key("mlp", "hidden_act", default="silu", choices={"silu": "swiglu", "gelu": "geglu", "swish": "swiglu"}),
    Key("tie_embeddings", "tie_word_embeddings", default=False),
)


def with_defaults(**defaults: Any) -> tuple[Key, ...]:
    """Return KEYS with other defaults, given by slot."""
    return tuple(replace(key, default=defaults.get(key.slot, key.default)) for key in KEYS)


def write_shared(config: ModelConfig) -> Json:
    """Return the keys that all of these classes have beside KEYS."""
    return {"attention_dropout": config.attention_drop, **write_rope(config)}


def read_whole_rope(foreign: ForeignConfig) -> Json:
    """Return the slots of RoPE; none of these classes turns only a part of each head, whatever a config.json says."""
    rope = read_rope(foreign)
    if rope["rotary_fraction"] != 1.0:
        raise foreign.unsupported(f"RoPE for a part of each head ({rope['rotary_fraction']:g})")
    return rope


def write_llama(config: ModelConfig) -> Json:
    """Return Llama's own keys."""
    return write_shared(config) | {"attention_bias": config.bias, "mlp_bias": config.bias}


def read_llama(foreign: ForeignConfig) -> Json:
    """Return the slots of Llama's own keys."""
    attention_bias, mlp_bias = foreign.get("attention_bias", False), foreign.get("mlp_bias", False)
    if attention_bias != mlp_bias:
        raise foreign.unsupported(f"attention_bias = {attention_bias} with mlp_bias = {mlp_bias}", "both or neither is")
    return read_whole_rope(foreign) | {"bias": attention_bias}


def even_heads(config: ModelConfig) -> list[str]:
    """Return the obstacles to a class whose width is a multiple of its heads, however wide those are."""
    if config.n_embd % config.n_head == 0:
        return []
    return [f"n_embd ({config.n_embd}) must be a multiple of n_head ({config.n_head})"]


def write_mistral(config: ModelConfig) -> Json:
    """Return Mistral's own keys."""
    return write_shared(config) | {"sliding_window": config.window(0) or None}


def read_mistral(foreign: ForeignConfig) -> Json:
    """Return the slots of Mistral's own keys."""
    window = foreign.get("sliding_window", 4096)
    return read_whole_rope(foreign) | {"window_pattern": (window,) if window else ()}


def one_window(config: ModelConfig) -> list[str]:
    """Return the obstacles to a class whose layers all have the same window."""
    windows = {config.window(layer) for layer in range(config.n_layer)}
    return ["every layer must have the same sliding window"] if len(windows) > 1 else []


def write_qwen(config: ModelConfig) -> Json:
    """Return Qwen's keys for a window in some layers."""
    windows = [config.window(layer) for layer in range(config.n_layer)]
    return write_shared(config) | {
        "use_sliding_window": any(windows),
        "sliding_window": max(windows) or None,
        "layer_types": [SLIDING if window else FULL for window in windows],
    }


def read_qwen(foreign: ForeignConfig) -> Json:
    """Return the slots of Qwen's keys for a window in some layers."""
    window = foreign.get("sliding_window", 4096) if foreign.get("use_sliding_window", False) else None
    first_windowed = foreign.get("max_window_layers", 28)
    default_types = [
        SLIDING if i >= first_windowed else FULL for i in range(foreign.need("num_hidden_layers", MOST_LAYERS))
    ]
    layer_types = foreign.get("layer_types", default_types) or default_types
    windowed = [kind == SLIDING for kind in layer_types] if window else []
    pattern = tuple(window if slides else 0 for slides in windowed) if any(windowed) else ()
    return read_whole_rope(foreign) | {"window_pattern": pattern}


def one_window_width(config: ModelConfig) -> list[str]:
    """Return the obstacles to a class whose windows all have the same width."""
    widths = {config.window(layer) for layer in range(config.n_layer)} - {0}
    return [f"its sliding windows must have one width, not {sorted(widths)}"] if len(widths) > 1 else []


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

SLOTS = {
    "norm": ("rmsnorm",),
    "position": ("rope",),
    "mlp": ("swiglu", "geglu"),
    "qk_norm": (False,),
    "bias": (False,),
}
FREE = frozenset(("qkv_bias", "rope_scaling"))

LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    keys=KEYS,
    slots=SLOTS | {"bias": (False, True)},
    free=FREE,
    checks=(no_windows, even_heads, uniform_bias),
    more_keys=write_llama,
    more_slots=read_llama,
    prefix="model.",
    ignored=IGNORED,
    table=TABLE,
)
BIASED_LLAMA = replace(
    LLAMA,
    slots=SLOTS | {"qkv_bias": (True,)},
    free=FREE - {"qkv_bias"},
    checks=(no_windows, even_heads),
    written_as=with_biases,
)
"""Qwen2's models in Llama's class: its other biases are zero."""
MISTRAL = replace(
    LLAMA,
    name="mistral",
    architecture="MistralForCausalLM",
    keys=with_defaults(n_kv_head=8),
    slots=SLOTS,
    checks=(one_window, uniform_bias),
    more_keys=write_mistral,
    more_slots=read_mistral,
)
QWEN3 = replace(
    LLAMA,
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    keys=with_defaults(n_kv_head=32, head_dim=128),
    slots=SLOTS | {"qk_norm": (True,)},
    checks=(one_window_width, uniform_bias),
    fixed={"attention_bias": False},
    more_keys=write_qwen,
    more_slots=read_qwen,
)
QWEN2 = replace(
    QWEN3,
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    keys=with_defaults(n_kv_head=32),
    slots=SLOTS | {"qkv_bias": (True,)},
    free=FREE - {"qkv_bias"},
    checks=(one_window_width,),
    fixed={},
)
OLMO2 = replace(
    LLAMA,
    name="olmo2",
    architecture="Olmo2ForCausalLM",
    keys=with_defaults(norm_eps=1e-5),
    slots=SLOTS | {"norm_place": ("after",), "qk_norm": (True,), "qk_norm_over": ("heads",)},
    checks=(no_windows, uniform_bias),
    fixed={"attention_bias": False},
    more_keys=write_shared,
    more_slots=read_whole_rope,
    table=tuple(
        replace(rule, theirs=(OLMO2_NORMS[rule.ours],)) if rule.ours in OLMO2_NORMS else rule for rule in TABLE
    ),
)
