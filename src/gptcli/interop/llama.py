"""The families that share Llama's tensor names: `LlamaForCausalLM`, `MistralForCausalLM`, `Qwen3ForCausalLM`.

All are pre-norm RMSNorm, RoPE, grouped-query, gated-MLP decoders. Mistral adds a sliding window in every layer; Qwen3
adds RMSNorm on queries and keys, and a window in the layers that `layer_types` names.
"""

from __future__ import annotations

from gptcli.interop.family import Family, ForeignConfig, Json, Rule, gate_up_rows, qkv_rows
from gptcli.models.config import MOST_LAYERS, ModelConfig

ACTIVATIONS = {"swiglu": "silu", "geglu": "gelu"}
MLPS = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"swish": "swiglu"}
ROPE_THETA = 10_000.0
SLIDING, FULL = "sliding_attention", "full_attention"


def write_shared(config: ModelConfig) -> Json:
    """The keys that all of these classes have. transformers 4 reads rope_theta, transformers 5 rope_parameters."""
    return {
        "max_position_embeddings": config.context_length,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        "hidden_act": ACTIVATIONS[config.mlp],
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_dropout": config.attention_drop,
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
        "rope_theta": read_rope_theta(foreign),
        "mlp": foreign.choose("hidden_act", foreign.get("hidden_act", "silu"), MLPS),
        "qk_norm": False,
        "tie_embeddings": foreign.get("tie_word_embeddings", False),
    }


def read_rope_theta(foreign: ForeignConfig) -> float:
    """The base of the rotary frequencies, from either generation's keys; scaled frequencies are refused."""
    rope = foreign.get("rope_parameters", {}) or foreign.get("rope_scaling", {}) or {}
    if any(isinstance(value, dict) for value in rope.values()):
        raise foreign.unsupported("rope_parameters that differ from layer to layer")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind != "default":
        raise foreign.unsupported(f"rope scaling {kind!r}", "only models with unscaled rotary frequencies can be read")
    if rope.get("partial_rotary_factor", foreign.get("partial_rotary_factor", None)) not in (None, 1.0):
        raise foreign.unsupported("partial_rotary_factor")
    return float(rope.get("rope_theta") or foreign.get("rope_theta", None) or ROPE_THETA)


def write_llama(config: ModelConfig) -> Json:
    return write_shared(config) | {"attention_bias": config.bias, "mlp_bias": config.bias}


def read_llama(foreign: ForeignConfig) -> Json:
    attention_bias, mlp_bias = foreign.get("attention_bias", False), foreign.get("mlp_bias", False)
    if attention_bias != mlp_bias:
        raise foreign.unsupported(f"attention_bias = {attention_bias} with mlp_bias = {mlp_bias}", "both or neither is")
    return read_shared(foreign) | {"bias": attention_bias}


def llama_obstacles(config: ModelConfig) -> list[str]:
    wrong = ["it has no sliding windows"] if any(config.window_pattern) else []
    if config.n_embd % config.n_head:
        wrong.append(f"n_embd ({config.n_embd}) must be a multiple of n_head ({config.n_head})")
    return wrong


def write_mistral(config: ModelConfig) -> Json:
    return write_shared(config) | {"sliding_window": config.window(0) or None}


def read_mistral(foreign: ForeignConfig) -> Json:
    window = foreign.get("sliding_window", 4096)
    return read_shared(foreign, heads_default=8) | {"window_pattern": (window,) if window else ()}


def mistral_obstacles(config: ModelConfig) -> list[str]:
    windows = {config.window(layer) for layer in range(config.n_layer)}
    return ["every layer must have the same sliding window"] if len(windows) > 1 else []


def write_qwen3(config: ModelConfig) -> Json:
    windows = [config.window(layer) for layer in range(config.n_layer)]
    return write_shared(config) | {
        "attention_bias": False,
        "use_sliding_window": any(windows),
        "sliding_window": max(windows) or None,
        "layer_types": [SLIDING if window else FULL for window in windows],
    }


def read_qwen3(foreign: ForeignConfig) -> Json:
    foreign.require("attention_bias", False)
    window = foreign.get("sliding_window", 4096) if foreign.get("use_sliding_window", False) else None
    first_windowed = foreign.get("max_window_layers", 28)
    default_types = [
        SLIDING if i >= first_windowed else FULL for i in range(foreign.need("num_hidden_layers", MOST_LAYERS))
    ]
    layer_types = foreign.get("layer_types", default_types) or default_types
    windowed = [kind == SLIDING for kind in layer_types] if window else []
    pattern = tuple(window if slides else 0 for slides in windowed) if any(windowed) else ()
    return read_shared(foreign, heads_default=32) | {
        "head_dim": foreign.get("head_dim", 128),
        "qk_norm": True,
        "window_pattern": pattern,
    }


def qwen3_obstacles(config: ModelConfig) -> list[str]:
    widths = {config.window(layer) for layer in range(config.n_layer)} - {0}
    return [f"its sliding windows must have one width, not {sorted(widths)}"] if len(widths) > 1 else []


SLOTS = {
    "norm": ("rmsnorm",),
    "position": ("rope",),
    "rotary_fraction": (1.0,),
    "mlp": tuple(ACTIVATIONS),
    "qk_norm": (False,),
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
MISTRAL = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    slots=SLOTS,
    shape_obstacles=mistral_obstacles,
    write_config=write_mistral,
    read_config=read_mistral,
    table=TABLE,
    prefix="model.",
    ignored=IGNORED,
)
QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    slots=SLOTS | {"qk_norm": (True,)},
    shape_obstacles=qwen3_obstacles,
    write_config=write_qwen3,
    read_config=read_qwen3,
    table=TABLE,
    prefix="model.",
    ignored=IGNORED,
)
