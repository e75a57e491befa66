"""The GPT-NeoX family: `GPTNeoXForCausalLM` (Black et al. 2022, arXiv:2204.06745), to which Pythia belongs.

Attention and MLP read the same input (or not, as `use_parallel_residual` says), each through a LayerNorm of its own;
RoPE turns a part of each head; queries, keys and values come from one matrix whose rows go head by head.
"""

from __future__ import annotations

from collections.abc import Sequence

from gptcli.interop.family import Family, ForeignConfig, Json, Key, Rule
from gptcli.interop.family_parts import PLAIN_MLPS, PLAIN_SLOTS, full_heads, no_windows, with_biases
from gptcli.interop.rope import read_rope, write_rope
from gptcli.models.config import MOST_LAYERS, ModelConfig


def more_keys(config: ModelConfig) -> Json:
    """Return RoPE's keys, by the names of both generations of transformers."""
    rope = write_rope(config)
    rope["rope_parameters"]["partial_rotary_factor"] = config.rotary_fraction
    return rope | {"rotary_pct": config.rotary_fraction, "rotary_emb_base": config.rope_theta}


def more_slots(foreign: ForeignConfig) -> Json:
    """Return the slots of RoPE."""
    return read_rope(foreign, theta="rotary_emb_base", part="rotary_pct", part_default=0.25)


def qkv_order(config: ModelConfig) -> Sequence[int]:
    """Return the order from rows of q, k and v head by head to those of all heads of q, then of k, then of v."""
    heads, width = config.n_head, config.head_width
    return [(3 * head + kind) * width + row for kind in range(3) for head in range(heads) for row in range(width)]


GPT_NEOX = Family(
    name="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    keys=(
        Key("context_length", "max_position_embeddings", default=2048),
        Key("n_layer", "num_hidden_layers", most=MOST_LAYERS),
        Key("n_head", "num_attention_heads"),
        Key("n_embd", "hidden_size"),
        Key("intermediate_size", "intermediate_size"),
        Key("norm_eps", "layer_norm_eps", default=1e-5),
        Key("mlp", "hidden_act", default="gelu", choices=PLAIN_MLPS | {"gelu_fast": "gelu_tanh"}),
        Key("parallel_residual", "use_parallel_residual", default=True),
        Key("tie_embeddings", "tie_word_embeddings", default=False),
        Key("dropout", "hidden_dropout", default=0.0),
        Key("attention_dropout", "attention_dropout", default=0.0),
    ),
    slots=PLAIN_SLOTS | {"position": ("rope",)},
    free=frozenset(("parallel_residual", "qk_norm_over", "qkv_bias", "rope_scaling", "rotary_fraction")),
    checks=(full_heads, no_windows),
    fixed={"attention_bias": True},
    more_keys=more_keys,
    more_slots=more_slots,
    written_as=with_biases,
    prefix="gpt_neox.",
    ignored=r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
    table=(
        Rule("embedding", ("gpt_neox.embed_in",)),
        Rule("blocks.{i}.attention_norm", ("gpt_neox.layers.{i}.input_layernorm",)),
        Rule("blocks.{i}.attention.qkv", ("gpt_neox.layers.{i}.attention.query_key_value",), order=qkv_order),
        Rule("blocks.{i}.attention.output", ("gpt_neox.layers.{i}.attention.dense",)),
        Rule("blocks.{i}.mlp_norm", ("gpt_neox.layers.{i}.post_attention_layernorm",)),
        Rule("blocks.{i}.mlp.up", ("gpt_neox.layers.{i}.mlp.dense_h_to_4h",)),
        Rule("blocks.{i}.mlp.down", ("gpt_neox.layers.{i}.mlp.dense_4h_to_h",)),
        Rule("final_norm", ("gpt_neox.final_layer_norm",)),
        Rule("head", ("embed_out",)),
    ),
)
