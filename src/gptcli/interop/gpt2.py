"""The GPT-2 family: `GPT2LMHeadModel` (Radford et al. 2019), which also holds nanoGPT's models."""

from __future__ import annotations

from gptcli.interop.family import Family, ForeignConfig, Json, Key, Rule
from gptcli.interop.family_parts import PLAIN_MLPS, PLAIN_SLOTS, full_heads, no_windows, with_biases
from gptcli.models.config import MOST_LAYERS, ModelConfig


def more_keys(config: ModelConfig) -> Json:
    """Return the keys that repeat another one."""
    return {"n_ctx": config.context_length, "embd_pdrop": config.dropout}


def more_slots(foreign: ForeignConfig) -> Json:
    """Refuse the variants of the class."""
    foreign.require("scale_attn_weights", True)
    foreign.require("scale_attn_by_inverse_layer_idx", False)
    foreign.require("add_cross_attention", False)
    return {}


GPT2 = Family(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    keys=(
        Key("context_length", "n_positions", default=1024),
        Key("n_layer", "n_layer", most=MOST_LAYERS),
        Key("n_head", "n_head"),
        Key("n_embd", "n_embd"),
        Key("intermediate_size", "n_inner", default=None),
        Key("norm_eps", "layer_norm_epsilon", default=1e-5),
        Key("mlp", "activation_function", default="gelu_new", choices=PLAIN_MLPS),
        Key("tie_embeddings", "tie_word_embeddings", default=True),
        Key("dropout", "resid_pdrop", default=0.1),
        Key("attention_dropout", "attn_pdrop", default=0.1),
    ),
    slots=PLAIN_SLOTS | {"position": ("learned",)},
    free=frozenset(("qk_norm_over", "qkv_bias", "rope_scaling", "rotary_fraction")),
    checks=(full_heads, no_windows),
    more_keys=more_keys,
    more_slots=more_slots,
    written_as=with_biases,
    prefix="transformer.",
    ignored=r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",
    table=(
        Rule("embedding", ("transformer.wte",)),
        Rule("position_embedding", ("transformer.wpe",)),
        Rule("blocks.{i}.attention_norm", ("transformer.h.{i}.ln_1",)),
        Rule("blocks.{i}.attention.qkv", ("transformer.h.{i}.attn.c_attn",), transposed=True),
        Rule("blocks.{i}.attention.output", ("transformer.h.{i}.attn.c_proj",), transposed=True),
        Rule("blocks.{i}.mlp_norm", ("transformer.h.{i}.ln_2",)),
        Rule("blocks.{i}.mlp.up", ("transformer.h.{i}.mlp.c_fc",), transposed=True),
        Rule("blocks.{i}.mlp.down", ("transformer.h.{i}.mlp.c_proj",), transposed=True),
        Rule("final_norm", ("transformer.ln_f",)),
        Rule("head", ("lm_head",)),
    ),
)
