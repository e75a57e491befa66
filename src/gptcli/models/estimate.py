"""The parameters of a model and the floating-point operations for a token, before the model is built.

Plain arithmetic, no torch; the memory that training takes is in `models.memory`. Letters as in the papers: L n_layer,
C n_embd, H n_head, K n_kv_head, D head_dim, F MLP width, V vocab_size, T seq_len.
"""

from __future__ import annotations

from typing import NamedTuple

from gptcli.models.adapter_config import AdapterConfig, LoraConfig
from gptcli.models.config import ModelConfig

BYTES_FP32 = 4
BACKWARD_PASSES = 2
"""A backward pass takes two products for each of the forward pass: by the input and by the weight."""


def parameter_count(config: ModelConfig) -> int:
    """Weights of the model, exactly; tied ones count once."""
    return sum(parameters_by_part(config).values())


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Weights of embeddings (of tokens, positions and neighbours), attention, MLP, norms, and a head of its own."""
    positions = config.context_length * config.n_embd if config.position == "learned" else 0
    neighbours = (config.smear + config.bigram_buckets) * config.n_embd
    return {
        "embeddings": token_embedding_parameters(config) + positions + neighbours,
        "attention": config.n_layer * attention_parameters(config),
        "mlp": config.n_layer * mlp_parameters(config),
        "norms": config.n_layer * block_norm_parameters(config) + outer_norm_parameters(config),
        "head": 0 if config.tie_embeddings else config.vocab_size * config.n_embd,
    }


def non_embedding_parameters(config: ModelConfig) -> int:
    """Return the weights without embeddings and output head: the N of Kaplan et al. 2020, arXiv:2001.08361."""
    return config.n_layer * block_parameters(config) + outer_norm_parameters(config)


def token_embedding_parameters(config: ModelConfig) -> int:
    """Return the number of parameters of the token embedding."""
    return config.vocab_size * config.n_embd


def norm_parameters(config: ModelConfig) -> int:
    """Return the weights of a norm over n_embd; only a LayerNorm has a bias, if the config has biases."""
    if not config.norm_weight:
        return 0
    return config.n_embd * (2 if config.norm == "layernorm" and config.bias else 1)


def outer_norm_parameters(config: ModelConfig) -> int:
    """Return the weights of the norm after the last block, and of that before the first block, if any."""
    return (1 + config.embedding_norm) * norm_parameters(config)


def block_parameters(config: ModelConfig) -> int:
    """Return the weights of one Transformer block."""
    return attention_parameters(config) + mlp_parameters(config) + block_norm_parameters(config)


def attention_rows(config: ModelConfig) -> int:
    """Return the rows of the fused matrix for queries, keys and values."""
    return (config.n_head + 2 * config.kv_heads) * config.head_width


def up_rows(config: ModelConfig) -> int:
    """Return the rows of the matrix that widens the stream: up, and with a gated MLP the gate."""
    return (2 if config.gated else 1) * config.mlp_width


def attention_matrices(config: ModelConfig) -> int:
    """Return the numbers in the matrices of one block's attention."""
    return config.n_embd * (attention_rows(config) + config.n_head * config.head_width)


def mlp_matrices(config: ModelConfig) -> int:
    """Return the numbers in the matrices of one block's MLP."""
    return config.n_embd * (up_rows(config) + config.mlp_width)


def block_matrices(config: ModelConfig) -> int:
    """Return the numbers in all matrices of one block: what Muon updates, and what autocast copies."""
    return attention_matrices(config) + mlp_matrices(config)


def block_matrix_shapes(config: ModelConfig) -> list[tuple[int, int]]:
    """Return the (rows, columns) of the matrices of one block that Muon orthogonalises, with fused ones split."""
    q, kv, width = config.n_head * config.head_width, config.kv_heads * config.head_width, config.n_embd
    attention = [(q, width), (kv, width), (kv, width), (width, q)]
    return attention + [(config.mlp_width, width)] * (2 if config.gated else 1) + [(width, config.mlp_width)]


def attention_parameters(config: ModelConfig) -> int:
    """Return the numbers in matrices and biases of one block's attention."""
    biases = (attention_rows(config) if config.has_qkv_bias else 0) + (config.n_embd if config.bias else 0)
    return attention_matrices(config) + biases


def mlp_parameters(config: ModelConfig) -> int:
    """Return the numbers in matrices and biases of one block's MLP."""
    return mlp_matrices(config) + (up_rows(config) + config.n_embd if config.bias else 0)


def block_norm_parameters(config: ModelConfig) -> int:
    """Return the weights of the two norms of one block, and of those of its queries and keys."""
    qk_norms = sum(config.qk_norm_widths or ()) if config.norm_weight else 0
    return qk_norms + 2 * norm_parameters(config)


class AdapterShape(NamedTuple):
    """The numbers of an adapter in all blocks, without the rows of new tokens.

    weights: the trained numbers.
    inner, inputs, outputs: the numbers of one token between A and B, and those that enter and leave the matrices.
    """

    weights: int = 0
    inner: int = 0
    inputs: int = 0
    outputs: int = 0


def adapter_shape(config: ModelConfig, adapter: AdapterConfig) -> AdapterShape:
    """Return the numbers of an adapter on a model; all 0 for none."""
    if not isinstance(adapter, LoraConfig):
        return AdapterShape()
    width, gated = config.n_head * config.head_width, 2 if config.gated else 1
    attention = [(attention_rows(config), config.n_embd, 3), (config.n_embd, width, 1)]
    mlp = [(up_rows(config), config.n_embd, gated), (config.n_embd, config.mlp_width, 1)]
    rank, layers, targets = adapter.rank, config.n_layer, []
    targets += attention if adapter.targets != "mlp" else []
    targets += mlp if adapter.targets != "attention" else []
    return AdapterShape(
        weights=layers * sum(rank * (parts * columns + rows) + rows * adapter.dora for rows, columns, parts in targets),
        inner=layers * sum(rank * parts for *_, parts in targets),
        inputs=layers * sum(columns for _, columns, _ in targets),
        outputs=layers * sum(rows for rows, *_ in targets),
    )


def flops_per_token(config: ModelConfig, seq_len: int) -> int:
    """Return the floating-point operations of a token in a forward and a backward pass: 6N + 12 L H D T.

    After appendix B of PaLM (Chowdhery et al. 2022, arXiv:2204.02311). N counts the blocks and the output head (tied or
    not), and not the tables that are only looked up. As in the paper the attention term takes no credit for the causal
    mask; a layer with a window counts min(T, window) keys. What activation checkpointing repeats does not count.
    """
    multiplied = non_embedding_parameters(config) + token_embedding_parameters(config)  # the head is as large
    keys = sum(min(seq_len, window) if window else seq_len for window in windows(config))
    return 6 * multiplied + 12 * config.n_head * config.head_width * keys


def adapted_flops_per_token(config: ModelConfig, seq_len: int, adapter_weights: int) -> int:
    """Return the same where an adapter with so many weights is trained alone: 4N + 6A + 12 L H D T.

    Frozen matrices have no gradient. Without an adapter, which has no weights, it is `flops_per_token`.
    """
    whole = flops_per_token(config, seq_len)
    frozen = non_embedding_parameters(config) + token_embedding_parameters(config)
    return whole - 2 * frozen + 6 * adapter_weights if adapter_weights else whole


def product_flops(config: ModelConfig, seq_len: int, *, only_seen: bool = False) -> dict[str, float]:
    """Return the exact floating-point operations of the matrix products of one token's forward pass, by part.

    Every number of a matrix is multiplied and added once. Attention multiplies a query with its keys and the weights
    with their values: all T of them, as torch's counter has it, or `only_seen`: on average those that the causal mask
    and a window leave, which is what a kernel that skips the rest computes.
    """
    width = config.n_head * config.head_width
    keys = sum(mean_keys(seq_len, window) if only_seen else seq_len for window in windows(config))
    return {
        "attention": 2 * config.n_layer * attention_matrices(config),
        "attention weights": 4 * width * keys,
        "mlp": 2 * config.n_layer * mlp_matrices(config),
        "head": 2 * token_embedding_parameters(config),
    }


def training_product_flops(
    config: ModelConfig, seq_len: int, *, only_seen: bool = False, adapter_weights: int = 0
) -> float:
    """Return the same for one token's forward and backward pass together; see `adapted_flops_per_token`."""
    parts = product_flops(config, seq_len, only_seen=only_seen)
    whole = (1 + BACKWARD_PASSES) * sum(parts.values())
    frozen = sum(flops for name, flops in parts.items() if name != "attention weights")
    return whole - frozen + 6 * adapter_weights if adapter_weights else whole


def windows(config: ModelConfig) -> list[int]:
    """Return the attention window of every layer; 0 is none."""
    return [config.window(layer) for layer in range(config.n_layer)]


def mean_keys(seq_len: int, window: int) -> float:
    """Return the keys that a query sees on average: 1, 2, 3, ... up to the window or the sequence."""
    most = min(seq_len, window) if window else seq_len
    return (most * (most + 1) / 2 + (seq_len - most) * most) / seq_len
