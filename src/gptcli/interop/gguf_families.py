"""The architectures of llama.cpp that compute exactly what some of our configs describe: their GGUF keys and names.

A table is read in both directions, as those of Hugging Face's families are. Keys lie below the architecture's name
(`llama.block_count`). llama.cpp's `llama` turns neighbouring pairs (x[2i], x[2i + 1]) where ours turns halves
(x[i], x[i + D/2]), so the rows of its queries and keys are in another order; `qwen3` turns halves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gptcli.errors import UsageError
from gptcli.interop.family import Family, ForeignConfig, Json, Rule, gate_up_rows, qkv_rows, show, with_biases
from gptcli.models.config import MOST_LAYERS, WITHOUT_EFFECT, ModelConfig
from gptcli.models.estimate import windows

TIED, BIASED = "has_no_output_matrix", "has_biases"
"""What the tensors say and no key does; added to the keys when a file is read."""


@dataclass(frozen=True)
class GgufFamily(Family):
    """A Family of GGUF files; `name` is `general.architecture`.

    Attributes:
        pairs_neighbours: whether its rotary embedding turns neighbouring pairs.
    """

    pairs_neighbours: bool = False

    def obstacles(self, config: ModelConfig) -> list[str]:
        """As Family's; and a slot of which this table knows nothing must be at its default."""
        sized = {
            "vocab_size",
            "context_length",
            "n_layer",
            "n_head",
            "n_kv_head",
            "n_embd",
            "head_dim",
            "intermediate_size",
        }
        known = (
            sized | self.slots.keys() | WITHOUT_EFFECT | {"norm_eps", "rope_theta", "tie_embeddings", "window_pattern"}
        )
        new = [
            f"{slot} must be {show(field.default)}, not {show(getattr(config, slot))}"
            for slot, field in ModelConfig.model_fields.items()
            if slot not in known and getattr(config, slot) != field.default
        ]
        return super().obstacles(config) + new + window_obstacles(config)

    def reorder(self, name: str, tensor: Tensor, config: ModelConfig) -> Tensor:
        """A tensor of a file as ours orders it -> as llama.cpp does; all but rotated queries and keys stay."""
        heads = self.rotated_heads(name, config)
        return tensor if heads is None else interleave(tensor, heads)

    def restore(self, name: str, tensor: Tensor, config: ModelConfig) -> Tensor:
        """The inverse of `reorder`."""
        heads = self.rotated_heads(name, config)
        return tensor if heads is None else halve(tensor, heads)

    def rotated_heads(self, name: str, config: ModelConfig) -> int | None:
        if not self.pairs_neighbours:
            return None
        return {"attn_q": config.n_head, "attn_k": config.kv_heads}.get(name.rsplit(".", 2)[-2])


def interleave(tensor: Tensor, heads: int) -> Tensor:
    """(heads * D, ...): within each head row i -> row 2i, row i + D/2 -> row 2i + 1."""
    return tensor.view(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def halve(tensor: Tensor, heads: int) -> Tensor:
    """The inverse of `interleave`."""
    return tensor.view(heads, -1, 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def window_obstacles(config: ModelConfig) -> list[str]:
    """llama.cpp gives these architectures no sliding windows; one as long as the context is none."""
    narrow = sorted({window for window in windows(config) if 0 < window < config.context_length})
    return [f"it has no sliding windows (window_pattern has {', '.join(map(str, narrow))})"] if narrow else []


def write_sizes(config: ModelConfig) -> Json:
    return {
        "context_length": config.context_length,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.mlp_width,
        "attention.head_count": config.n_head,
    }


def read_sizes(foreign: ForeignConfig) -> Json:
    return {
        "context_length": foreign.need("context_length"),
        "n_embd": foreign.need("embedding_length"),
        "n_layer": foreign.need("block_count", MOST_LAYERS),
        "intermediate_size": foreign.need("feed_forward_length"),
        "n_head": foreign.need("attention.head_count"),
        "tie_embeddings": foreign.get(TIED, False),
    }


def write_gpt2(config: ModelConfig) -> Json:
    return write_sizes(config) | {"attention.layer_norm_epsilon": config.norm_eps}


def read_gpt2(foreign: ForeignConfig) -> Json:
    return read_sizes(foreign) | {
        "norm": "layernorm",
        "norm_eps": foreign.get("attention.layer_norm_epsilon", 1e-5),
        "position": "learned",
        "mlp": "gelu_tanh",
        "qk_norm": False,
        "bias": True,
    }


def gpt2_obstacles(config: ModelConfig) -> list[str]:
    wrong = []
    if config.kv_heads != config.n_head:
        wrong.append(f"n_kv_head must be n_head ({config.n_head}), not {config.kv_heads}")
    if config.head_width * config.n_head != config.n_embd:
        wrong.append(f"n_head * head_dim must be n_embd ({config.n_embd}), not {config.n_head * config.head_width}")
    return wrong


def write_rotary(config: ModelConfig) -> Json:
    return write_sizes(config) | {
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_width,
        "attention.value_length": config.head_width,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.head_width,
        "rope.freq_base": config.rope_theta,
    }


def read_rotary(foreign: ForeignConfig) -> Json:
    return read_sizes(foreign) | {
        "n_kv_head": foreign.need("attention.head_count_kv"),
        "head_dim": foreign.need("attention.key_length"),
        "norm": "rmsnorm",
        "norm_eps": foreign.get("attention.layer_norm_rms_epsilon", 1e-6),
        "position": "rope",
        "rope_theta": foreign.get("rope.freq_base", 10_000.0),
        "mlp": "swiglu",
    }


ATTENTION_PARTS = ("blk.{i}.attn_q", "blk.{i}.attn_k", "blk.{i}.attn_v")
SHARED_TABLE = (
    Rule("embedding", ("token_embd",)),
    Rule("blocks.{i}.attention_norm", ("blk.{i}.attn_norm",)),
    Rule("blocks.{i}.attention.output", ("blk.{i}.attn_output",)),
    Rule("blocks.{i}.mlp_norm", ("blk.{i}.ffn_norm",)),
    Rule("blocks.{i}.mlp.down", ("blk.{i}.ffn_down",)),
    Rule("final_norm", ("output_norm",)),
    Rule("head", ("output",)),
)
ROTARY_TABLE = (
    *SHARED_TABLE,
    Rule("blocks.{i}.attention.qkv", ATTENTION_PARTS, rows=qkv_rows),
    Rule("blocks.{i}.attention.q_norm", ("blk.{i}.attn_q_norm",)),
    Rule("blocks.{i}.attention.k_norm", ("blk.{i}.attn_k_norm",)),
    Rule("blocks.{i}.mlp.up", ("blk.{i}.ffn_gate", "blk.{i}.ffn_up"), rows=gate_up_rows),
)
PLAIN = {"smear": (False,), "bigram_buckets": (0,), "parallel_residual": (False,), "logit_softcap": (None,)}
ROTARY = PLAIN | {"norm": ("rmsnorm",), "position": ("rope",), "rotary_fraction": (1.0,), "mlp": ("swiglu",)}

GPT2 = GgufFamily(
    name="gpt2",
    architecture="gpt2",
    slots=PLAIN
    | {
        "norm": ("layernorm",),
        "position": ("learned",),
        "mlp": ("gelu_tanh",),
        "qk_norm": (False,),
        "bias": (False, True),
        "rotary_fraction": (1.0,),
    },
    shape_obstacles=gpt2_obstacles,
    write_config=write_gpt2,
    read_config=read_gpt2,
    written_as=with_biases,
    table=(
        *SHARED_TABLE,
        Rule("position_embedding", ("position_embd",)),
        Rule("blocks.{i}.attention.qkv", ("blk.{i}.attn_qkv",)),
        Rule("blocks.{i}.mlp.up", ("blk.{i}.ffn_up",)),
    ),
)
LLAMA = GgufFamily(
    name="llama",
    architecture="llama",
    slots=ROTARY | {"qk_norm": (False,), "bias": (False, True)},
    shape_obstacles=lambda config: [],
    write_config=write_rotary,
    read_config=lambda foreign: read_rotary(foreign) | {"qk_norm": False, "bias": foreign.get(BIASED, False)},
    table=ROTARY_TABLE,
    pairs_neighbours=True,
)
QWEN3 = GgufFamily(
    name="qwen3",
    architecture="qwen3",
    slots=ROTARY | {"qk_norm": (True,), "bias": (False,)},
    shape_obstacles=lambda config: [],
    write_config=write_rotary,
    read_config=lambda foreign: read_rotary(foreign) | {"qk_norm": True},
    table=ROTARY_TABLE,
)
FAMILIES = (GPT2, LLAMA, QWEN3)


def gguf_family(config: ModelConfig) -> GgufFamily:
    """The architecture that computes exactly what `config` describes.

    Raises:
        UsageError: there is none; one line with what keeps it from being of the nearest.
    """
    offers = [(family, family.obstacles(config)) for family in FAMILIES]
    nearest, wrong = min(offers, key=lambda offer: len(offer[1]))
    if wrong:
        raise UsageError(
            f"llama.cpp has no architecture that computes this model; for {nearest.name} {'; '.join(wrong)}",
            "--to hf writes every model",
        )
    return nearest


def gguf_family_named(name: object, path: str) -> GgufFamily:
    """The family of `general.architecture`.

    Raises:
        CheckpointError: it is none of those that are written here.
    """
    known = {family.name: family for family in FAMILIES}
    if not isinstance(name, str) or name not in known:
        raise ForeignConfig(path, {}).unsupported(f"architecture {name!r}", f"those read are {', '.join(known)}")
    return known[name]


def as_array(tensor: Tensor) -> Tensor:
    """On the CPU in fp32, contiguous: what numpy takes."""
    return tensor.detach().to("cpu", torch.float32).contiguous()
