"""The shape of a GPT, as a config of slots. Knows no tensors: importing it does not import torch."""

from __future__ import annotations

from math import isqrt
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gptcli.config import Config
from gptcli.models.rope_scaling import RopeScaling, YarnScaling

GATED_MLPS = ("swiglu", "geglu")

MOST_LAYERS, LARGEST = 10_000, 2**27
"""Far above any model, and low enough that a hostile config.json cannot take all memory before its weights are read."""

WITHOUT_EFFECT = frozenset(("dropout", "attention_dropout", "attention", "init_std"))
"""Slots on which nothing depends that a finished model computes."""


class ModelConfig(Config):
    """`[model]`: one decoder-only Transformer, assembled from slots. The defaults are Qwen3's architecture, small."""

    vocab_size: int = Field(default=0, ge=0, le=LARGEST)
    """Number of token ids; 0 takes it from the tokenizer."""
    context_length: int = Field(default=256, ge=1, le=LARGEST)
    """Longest sequence, in tokens, that the model is trained on and made for."""
    n_layer: int = Field(default=4, ge=1, le=MOST_LAYERS)
    """Number of Transformer blocks."""
    n_head: int = Field(default=4, ge=1, le=LARGEST)
    """Number of attention (query) heads in a block."""
    n_kv_head: int | None = Field(default=None, ge=1, le=LARGEST)
    """Number of key and value heads: n_head is multi-head (the default), fewer is grouped-query, 1 is multi-query."""
    n_embd: int = Field(default=128, ge=1, le=LARGEST)
    """Width of the residual stream."""
    head_dim: int | None = Field(default=None, ge=1, le=LARGEST)
    """Width of one attention head; n_embd / n_head by default."""
    intermediate_size: int | None = Field(default=None, ge=1, le=LARGEST)
    """Hidden width of the MLP; by default 4 n_embd, and for gated MLPs 8/3 n_embd rounded up to a multiple of 32."""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """Normalisation in each block, at the place that norm_place names, and at the end."""
    norm_place: Literal["before", "after"] = "before"
    """The place of a block's normalisations: before attention and MLP, or after them, on their results (OLMo 2)."""
    norm_weight: bool = True
    """Give each normalisation learned weights (nanochat's have none)."""
    embedding_norm: bool = False
    """Normalise the input of the first block too (nanochat)."""
    norm_eps: float = Field(default=1e-6, gt=0, le=1)
    """Small number that prevents a division by zero in a normalisation."""
    position: Literal["rope", "learned", "none"] = "rope"
    """The encoding of positions: rotary embedding, a learned vector for each position, or none."""
    rope_theta: float = Field(default=10000.0, ge=1, le=1e15)
    """Base of RoPE's wavelengths; longer contexts use a larger one."""
    rope_scaling: RopeScaling | None = None
    """The scaling of RoPE to a longer context than that of the first training; by default its angles are unchanged."""
    rotary_fraction: float = Field(default=1.0, gt=0, le=1)
    """Part of each head that RoPE rotates; 1 is all of it."""
    smear: bool = False
    """Add a learned share of the previous token's vector to each token's vector, channel by channel."""
    bigram_buckets: int = Field(default=0, ge=0, le=LARGEST)
    """Rows of a table of vectors for pairs of neighbouring tokens, shared by hashing where there are more pairs than
    rows; 0 turns it off."""
    bigram_vocab_size: int | None = Field(default=None, ge=1, le=LARGEST)
    """Number of token ids by which pairs are numbered; by default vocab_size. A model to which tokens were added keeps
    the number from before, and so the rows of its pairs."""
    mlp: Literal["swiglu", "geglu", "gelu", "gelu_tanh", "relu2"] = "swiglu"
    """Feed-forward network: gated (swiglu, geglu) or plain (gelu, gelu_tanh as in GPT-2, relu2)."""
    qk_norm: bool = True
    """Normalise queries and keys by their RMS, which keeps attention stable at high learning rates."""
    qk_norm_over: Literal["head", "heads"] = "head"
    """The numbers over which they are normalised: each head, or all heads together (OLMo 2)."""
    bias: bool = False
    """Give linear layers and layer norms biases."""
    qkv_bias: bool | None = None
    """Give queries, keys and values biases (Qwen2); by default as bias."""
    tie_embeddings: bool = True
    """Use the token embedding's weights for the output projection too."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropping a number of an embedding or of a block's output in training."""
    attention_dropout: float | None = Field(default=None, ge=0, lt=1)
    """Probability of dropping an attention weight; by default as dropout. With 0 a CPU can use its fused kernel."""
    parallel_residual: bool = False
    """Let attention and MLP read the same input and add both results (GPT-NeoX), instead of one after the other."""
    logit_softcap: float | None = Field(default=None, ge=1e-3, le=1e6)
    """Bound c on the logits, which become c tanh(logits / c) (Gemma 2); if not set, they have no bound."""
    window_pattern: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Attention windows, cycled over the layers: 0 sees all earlier tokens, w the token itself and w - 1 before it."""
    attention: Literal["fast", "reference"] = "fast"
    """Attention by torch's fused kernels, or by the plain formula, which is slower and serves as a reference."""
    init_std: float = Field(default=0.02, gt=0, le=1000)
    """Standard deviation of the initial weights; that of residual projections is divided by sqrt(2 n_layer)."""

    @property
    def kv_heads(self) -> int:
        """The number of key and value heads."""
        return self.n_kv_head or self.n_head

    @property
    def head_width(self) -> int:
        """The width of a head."""
        return self.head_dim or self.n_embd // self.n_head

    @property
    def rotary_dim(self) -> int:
        """The number of a head's dimensions that RoPE rotates."""
        return int(self.head_width * self.rotary_fraction)

    @property
    def has_qkv_bias(self) -> bool:
        """Whether the projections of queries, keys and values have biases."""
        return self.bias if self.qkv_bias is None else self.qkv_bias

    @property
    def qk_norm_widths(self) -> tuple[int, int] | None:
        """The widths of the norms of queries and keys; None if the model has no such norms."""
        if not self.qk_norm:
            return None
        heads = (self.n_head, self.kv_heads) if self.qk_norm_over == "heads" else (1, 1)
        return self.head_width * heads[0], self.head_width * heads[1]

    @property
    def attention_drop(self) -> float:
        """The dropout of attention weights."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate matrix beside its up matrix."""
        return self.mlp in GATED_MLPS

    @property
    def mlp_width(self) -> int:
        """The width of the hidden layer of the MLP."""
        if self.intermediate_size is not None:
            return self.intermediate_size
        return -(-8 * self.n_embd // (3 * 32)) * 32 if self.gated else 4 * self.n_embd

    def window(self, layer: int) -> int:
        """The attention window of a layer (0-based); 0 is no window."""
        return self.window_pattern[layer % len(self.window_pattern)] if self.window_pattern else 0

    @model_validator(mode="after")
    def check_heads(self) -> Self:
        """Check that the heads fit together and the width."""
        if self.head_dim is None and self.n_embd % self.n_head:
            below = self.n_embd // self.n_head * self.n_head
            nearest = f"n_embd={below} or n_embd={below + self.n_head}" if below else f"n_embd={self.n_head}"
            raise ValueError(
                f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}; set {nearest}, or give head_dim"
            )
        if self.n_head % self.kv_heads:
            small = [d for d in range(1, isqrt(self.n_head) + 1) if self.n_head % d == 0]
            divisors = map(str, sorted({*small, *(self.n_head // d for d in small)}))
            raise ValueError(
                f"n_kv_head={self.kv_heads} does not divide n_head={self.n_head}; choose one of {', '.join(divisors)}"
            )
        return self

    @model_validator(mode="after")
    def check_rotary(self) -> Self:
        """Check the settings of rotary positions."""
        if self.position == "rope" and (self.rotary_dim % 2 or self.rotary_dim == 0):
            raise ValueError(
                f"RoPE turns pairs, but rotary_fraction={self.rotary_fraction:g} of a head of {self.head_width} is "
                f"{self.rotary_dim} dimensions; choose head_dim, n_embd or rotary_fraction so that it is even"
            )
        if isinstance(self.rope_scaling, YarnScaling) and self.rope_theta <= 1:
            raise ValueError(f"rope_theta={self.rope_theta:g} must be above 1 for YaRN's ramp")
        return self
