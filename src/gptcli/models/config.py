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
    """Normalisation in each block, as norm_place says, and at the end."""
    norm_place: Literal["before", "after"] = "before"
    """Where a block normalises: what attention and MLP read, or what they add to the stream (OLMo 2)."""
    norm_weight: bool = True
    """Whether a normalisation has learnt weights (nanochat's have none)."""
    embedding_norm: bool = False
    """Whether what enters the first block is normalised too (nanochat)."""
    norm_eps: float = Field(default=1e-6, gt=0, le=1)
    """Small number that keeps a normalisation from dividing by zero."""
    position: Literal["rope", "learned", "none"] = "rope"
    """How tokens know their place: rotary embedding, a learned vector for each position, or not at all."""
    rope_theta: float = Field(default=10000.0, ge=1, le=1e15)
    """Base of RoPE's wavelengths; longer contexts use a larger one."""
    rope_scaling: RopeScaling | None = None
    """What fits RoPE to a longer context than the model was first trained on; none leaves its angles as they are."""
    rotary_fraction: float = Field(default=1.0, gt=0, le=1)
    """Part of each head that RoPE turns; 1 is all of it."""
    smear: bool = False
    """Whether each token's vector takes in a learnt share of the one before it, channel by channel."""
    bigram_buckets: int = Field(default=0, ge=0, le=LARGEST)
    """Rows of a table of vectors for pairs of neighbouring tokens, shared by hashing where there are more pairs than
    rows; 0 is none."""
    mlp: Literal["swiglu", "geglu", "gelu", "gelu_tanh", "relu2"] = "swiglu"
    """Feed-forward network: gated (swiglu, geglu) or plain (gelu, gelu_tanh as in GPT-2, relu2)."""
    qk_norm: bool = True
    """Whether queries and keys are RMS-normalised, which keeps attention stable at high learning rates."""
    qk_norm_over: Literal["head", "heads"] = "head"
    """What they are normalised over: each head, or all heads together (OLMo 2)."""
    bias: bool = False
    """Whether linear layers and layer norms have biases."""
    qkv_bias: bool | None = None
    """Whether queries, keys and values have biases (Qwen2); as bias by default."""
    tie_embeddings: bool = True
    """Whether the output projection shares the token embedding's weights."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability to drop a number of an embedding or of a block's output while training."""
    attention_dropout: float | None = Field(default=None, ge=0, lt=1)
    """Probability to drop an attention weight; as dropout by default. With 0 a CPU can use its fused kernel."""
    parallel_residual: bool = False
    """Whether attention and MLP read the same input and are added together (GPT-NeoX), not one after the other."""
    logit_softcap: float | None = Field(default=None, ge=1e-3, le=1e6)
    """Bound c on the logits, which become c tanh(logits / c) (Gemma 2); none leaves them free."""
    window_pattern: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Attention windows, cycled over the layers: 0 sees everything before, w the token itself and w - 1 before it."""
    attention: Literal["fast", "reference"] = "fast"
    """Attention through torch's fused kernels, or by the plain formula, slower, to check the other against."""
    init_std: float = Field(default=0.02, gt=0, le=1000)
    """Standard deviation of the initial weights; that of residual projections is divided by sqrt(2 n_layer)."""

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def head_width(self) -> int:
        return self.head_dim or self.n_embd // self.n_head

    @property
    def rotary_dim(self) -> int:
        """How many of a head's dimensions RoPE turns."""
        return int(self.head_width * self.rotary_fraction)

    @property
    def has_qkv_bias(self) -> bool:
        return self.bias if self.qkv_bias is None else self.qkv_bias

    @property
    def qk_norm_widths(self) -> tuple[int, int] | None:
        """What the norms of queries and keys are over, in numbers; none where there are none."""
        if not self.qk_norm:
            return None
        heads = (self.n_head, self.kv_heads) if self.qk_norm_over == "heads" else (1, 1)
        return self.head_width * heads[0], self.head_width * heads[1]

    @property
    def attention_drop(self) -> float:
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate matrix beside its up matrix."""
        return self.mlp in GATED_MLPS

    @property
    def mlp_width(self) -> int:
        if self.intermediate_size is not None:
            return self.intermediate_size
        return -(-8 * self.n_embd // (3 * 32)) * 32 if self.gated else 4 * self.n_embd

    def window(self, layer: int) -> int:
        """The attention window of a layer (0-based); 0 is no window."""
        return self.window_pattern[layer % len(self.window_pattern)] if self.window_pattern else 0

    @model_validator(mode="after")
    def check_heads(self) -> Self:
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
        if self.position == "rope" and (self.rotary_dim % 2 or self.rotary_dim == 0):
            raise ValueError(
                f"RoPE turns pairs, but rotary_fraction={self.rotary_fraction:g} of a head of {self.head_width} is "
                f"{self.rotary_dim} dimensions; choose head_dim, n_embd or rotary_fraction so that it is even"
            )
        if isinstance(self.rope_scaling, YarnScaling) and self.rope_theta <= 1:
            raise ValueError(f"rope_theta={self.rope_theta:g} must be above 1 for YaRN's ramp")
        return self
