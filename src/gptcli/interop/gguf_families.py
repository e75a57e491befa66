"""The architectures of llama.cpp that compute exactly what some of our configs describe: their GGUF keys and names.

A table is read in both directions, as those of Hugging Face's families are. Keys begin with the architecture's name
(`llama.block_count`). llama.cpp's `llama` turns neighbouring pairs (x[2i], x[2i + 1]) where ours turns halves
(x[i], x[i + D/2]), so the rows of its queries and keys are in another order; `qwen3` turns halves.
"""

from __future__ import annotations

from dataclasses import replace

from gptcli.errors import UsageError
from gptcli.interop.family import Family, ForeignConfig, Json, Key, Rule
from gptcli.interop.family_parts import PLAIN_SLOTS, full_heads, gate_up_rows, pairs_order, qkv_rows, with_biases
from gptcli.models.config import MOST_LAYERS, ModelConfig
from gptcli.models.estimate import windows

TIED, BIASED = "has_no_output_matrix", "has_biases"
"""Properties that only the tensors show; they are added to the keys when a file is read."""


def no_narrow_windows(config: ModelConfig) -> list[str]:
    """Return the obstacles to an architecture without sliding windows; one as long as the context is none."""
    narrow = sorted({window for window in windows(config) if 0 < window < config.context_length})
    return [f"it has no sliding windows (window_pattern has {', '.join(map(str, narrow))})"] if narrow else []


def read_tensors(foreign: ForeignConfig) -> Json:
    """Return the slots that the tensors show."""
    return {"tie_embeddings": foreign.get(TIED, False)}


def write_rotary(config: ModelConfig) -> Json:
    """Return the keys that repeat the width of a head."""
    return {"attention.value_length": config.head_width, "rope.dimension_count": config.head_width}


SIZE_KEYS = (
    Key("context_length", "context_length"),
    Key("n_embd", "embedding_length"),
    Key("n_layer", "block_count", most=MOST_LAYERS),
    Key("intermediate_size", "feed_forward_length"),
    Key("n_head", "attention.head_count"),
)
SHARED_TABLE = (
    Rule("embedding", ("token_embd",)),
    Rule("blocks.{i}.attention_norm", ("blk.{i}.attn_norm",)),
    Rule("blocks.{i}.attention.output", ("blk.{i}.attn_output",)),
    Rule("blocks.{i}.mlp_norm", ("blk.{i}.ffn_norm",)),
    Rule("blocks.{i}.mlp.down", ("blk.{i}.ffn_down",)),
    Rule("final_norm", ("output_norm",)),
    Rule("head", ("output",)),
)
QKV = Rule("blocks.{i}.attention.qkv", ("blk.{i}.attn_q", "blk.{i}.attn_k", "blk.{i}.attn_v"), rows=qkv_rows)

GPT2 = Family(
    name="gpt2",
    architecture="gpt2",
    keys=(*SIZE_KEYS, Key("norm_eps", "attention.layer_norm_epsilon", default=1e-5)),
    slots=PLAIN_SLOTS | {"position": ("learned",), "mlp": ("gelu_tanh",)},
    checks=(full_heads, no_narrow_windows),
    more_slots=read_tensors,
    written_as=with_biases,
    table=(
        *SHARED_TABLE,
        Rule("position_embedding", ("position_embd",)),
        Rule("blocks.{i}.attention.qkv", ("blk.{i}.attn_qkv",)),
        Rule("blocks.{i}.mlp.up", ("blk.{i}.ffn_up",)),
    ),
)
QWEN3 = Family(
    name="qwen3",
    architecture="qwen3",
    keys=(
        *SIZE_KEYS,
        Key("n_kv_head", "attention.head_count_kv"),
        Key("head_dim", "attention.key_length"),
        Key("norm_eps", "attention.layer_norm_rms_epsilon", default=1e-6),
        Key("rope_theta", "rope.freq_base", default=10_000.0),
    ),
    slots={"norm": ("rmsnorm",), "position": ("rope",), "mlp": ("swiglu",), "qk_norm": (True,), "bias": (False,)},
    checks=(no_narrow_windows,),
    more_keys=write_rotary,
    more_slots=read_tensors,
    table=(
        *SHARED_TABLE,
        QKV,
        Rule("blocks.{i}.attention.q_norm", ("blk.{i}.attn_q_norm",)),
        Rule("blocks.{i}.attention.k_norm", ("blk.{i}.attn_k_norm",)),
        Rule("blocks.{i}.mlp.up", ("blk.{i}.ffn_gate", "blk.{i}.ffn_up"), rows=gate_up_rows),
    ),
)
LLAMA = replace(
    QWEN3,
    name="llama",
    architecture="llama",
    slots=QWEN3.slots | {"qk_norm": (False,), "bias": (False, True)},
    more_slots=lambda foreign: read_tensors(foreign) | {"bias": foreign.get(BIASED, False)},
    table=tuple(replace(rule, order=pairs_order) if rule is QKV else rule for rule in QWEN3.table),
)
FAMILIES = (GPT2, LLAMA, QWEN3)


def gguf_family(config: ModelConfig) -> Family:
    """Return the architecture that computes exactly what `config` describes.

    Raises:
        UsageError: there is none; the message has the obstacles to the nearest.
    """
    offers = [(family, family.obstacles(config)) for family in FAMILIES]
    nearest, wrong = min(offers, key=lambda offer: len(offer[1]))
    if wrong:
        raise UsageError(
            f"llama.cpp has no architecture that computes this model; for {nearest.name} {'; '.join(wrong)}",
            "--to hf writes every model",
        )
    return nearest


def gguf_family_named(name: object, path: str) -> Family:
    """Return the family of `general.architecture`.

    Raises:
        CheckpointError: it is not one that is written here.
    """
    known = {family.name: family for family in FAMILIES}
    if not isinstance(name, str) or name not in known:
        raise ForeignConfig(path, {}).unsupported(f"architecture {name!r}", f"those read are {', '.join(known)}")
    return known[name]
