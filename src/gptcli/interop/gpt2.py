"""The GPT-2 family: `GPT2LMHeadModel` (Radford et al. 2019), which also holds nanoGPT's models."""

from __future__ import annotations

from gptcli.interop.family import Family, ForeignConfig, Json, Rule, with_biases
from gptcli.models.config import MOST_LAYERS, ModelConfig

ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu2": "relu2"}
MLPS = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu_tanh"}


def write_config(config: ModelConfig) -> Json:
    return {
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": config.mlp_width,
        "activation_function": ACTIVATIONS[config.mlp],
        "layer_norm_epsilon": config.norm_eps,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.attention_drop,
    }


def read_config(foreign: ForeignConfig) -> Json:
    foreign.require("scale_attn_weights", True)
    foreign.require("scale_attn_by_inverse_layer_idx", False)
    foreign.require("add_cross_attention", False)
    return {
        "context_length": foreign.get("n_positions", 1024),
        "n_layer": foreign.need("n_layer", MOST_LAYERS),
        "n_head": foreign.need("n_head"),
        "n_embd": foreign.need("n_embd"),
        "intermediate_size": foreign.get("n_inner", None),
        "norm": "layernorm",
        "norm_eps": foreign.get("layer_norm_epsilon", 1e-5),
        "position": "learned",
        "mlp": foreign.choose("activation_function", foreign.get("activation_function", "gelu_new"), MLPS),
        "qk_norm": False,
        "bias": True,
        "tie_embeddings": foreign.get("tie_word_embeddings", True),
        "dropout": foreign.get("resid_pdrop", 0.1),
        "attention_dropout": foreign.get("attn_pdrop", 0.1),
    }


def shape_obstacles(config: ModelConfig) -> list[str]:
    wrong = []
    if config.kv_heads != config.n_head:
        wrong.append(f"n_kv_head must be n_head ({config.n_head}), not {config.kv_heads}")
    if config.head_width * config.n_head != config.n_embd:
        wrong.append(f"n_head * head_dim must be n_embd ({config.n_embd}), not {config.n_head * config.head_width}")
    if any(config.window_pattern):
        wrong.append("it has no sliding windows")
    return wrong


GPT2 = Family(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    slots={
        "norm": ("layernorm",),
        "position": ("learned",),
        "norm_place": ("before",),
        "norm_weight": (True,),
        "embedding_norm": (False,),
        "mlp": tuple(ACTIVATIONS),
        "qk_norm": (False,),
        "smear": (False,),
        "bigram_buckets": (0,),
        "parallel_residual": (False,),
        "logit_softcap": (None,),
    },
    shape_obstacles=shape_obstacles,
    write_config=write_config,
    read_config=read_config,
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
