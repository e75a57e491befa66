"""The GPT-NeoX family: `GPTNeoXForCausalLM` (Black et al. 2022, arXiv:2204.06745), to which Pythia belongs.

Attention and MLP read the same input (or not, as `use_parallel_residual` says), each through a LayerNorm of its own;
RoPE turns a part of each head; queries, keys and values come from one matrix whose rows go head by head.
"""

from __future__ import annotations

from collections.abc import Sequence

from gptcli.interop.family import Family, ForeignConfig, Json, Rule, with_biases
from gptcli.interop.gpt2 import shape_obstacles
from gptcli.interop.rope import read_rope, write_rope
from gptcli.models.config import MOST_LAYERS, ModelConfig

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu2": "relu2"}
MLPS = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def write_config(config: ModelConfig) -> Json:
    rope = write_rope(config)
    return {
        "max_position_embeddings": config.context_length,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "intermediate_size": config.mlp_width,
        "hidden_act": ACTIVATIONS[config.mlp],
        "layer_norm_eps": config.norm_eps,
        "use_parallel_residual": config.parallel_residual,
        "attention_bias": True,
        "attention_dropout": config.attention_drop,
        "hidden_dropout": config.dropout,
        "rotary_pct": config.rotary_fraction,
        "rotary_emb_base": config.rope_theta,
        **rope,
        "rope_parameters": rope["rope_parameters"] | {"partial_rotary_factor": config.rotary_fraction},
    }


def read_config(foreign: ForeignConfig) -> Json:
    foreign.require("attention_bias", True)
    return {
        "context_length": foreign.get("max_position_embeddings", 2048),
        "n_layer": foreign.need("num_hidden_layers", MOST_LAYERS),
        "n_head": foreign.need("num_attention_heads"),
        "n_embd": foreign.need("hidden_size"),
        "intermediate_size": foreign.need("intermediate_size"),
        "norm": "layernorm",
        "norm_eps": foreign.get("layer_norm_eps", 1e-5),
        "position": "rope",
        **read_rope(foreign, theta="rotary_emb_base", part="rotary_pct", part_default=0.25),
        "mlp": foreign.choose("hidden_act", foreign.get("hidden_act", "gelu"), MLPS),
        "qk_norm": False,
        "bias": True,
        "parallel_residual": foreign.get("use_parallel_residual", True),
        "tie_embeddings": foreign.get("tie_word_embeddings", False),
        "dropout": foreign.get("hidden_dropout", 0.0),
        "attention_dropout": foreign.get("attention_dropout", 0.0),
    }


def qkv_order(config: ModelConfig) -> Sequence[int]:
    """Theirs: of each head the rows of q, then k, then v. Ours: the q of all heads, then the k, then the v."""
    heads, width = config.n_head, config.head_width
    return [(3 * head + kind) * width + row for kind in range(3) for head in range(heads) for row in range(width)]


GPT_NEOX = Family(
    name="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    slots={
        "norm": ("layernorm",),
        "norm_place": ("before",),
        "norm_weight": (True,),
        "embedding_norm": (False,),
        "position": ("rope",),
        "mlp": tuple(ACTIVATIONS),
        "qk_norm": (False,),
        "smear": (False,),
        "bigram_buckets": (0,),
        "logit_softcap": (None,),
    },
    shape_obstacles=shape_obstacles,
    write_config=write_config,
    read_config=read_config,
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
