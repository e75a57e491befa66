"""What a model will cost before it is built: parameters, floating-point operations, memory. Plain arithmetic, no torch.

Letters as in the papers: L n_layer, C n_embd, H n_head, K n_kv_head, D head_dim, F MLP width, V vocab_size, T seq_len.
"""

from __future__ import annotations

from gptcli.models.config import ModelConfig

BYTES_FP32 = 4


def parameter_count(config: ModelConfig) -> int:
    """Weights of the model, exactly; tied ones count once."""
    head = 0 if config.tie_embeddings else config.vocab_size * config.n_embd
    tables = token_embedding_parameters(config) + position_parameters(config) + neighbour_parameters(config)
    return non_embedding_parameters(config) + tables + head


def non_embedding_parameters(config: ModelConfig) -> int:
    """Weights without embeddings and output head: the N of Kaplan et al. 2020, arXiv:2001.08361."""
    return config.n_layer * block_parameters(config) + (1 + config.embedding_norm) * norm_parameters(config)


def token_embedding_parameters(config: ModelConfig) -> int:
    return config.vocab_size * config.n_embd


def position_parameters(config: ModelConfig) -> int:
    return config.context_length * config.n_embd if config.position == "learned" else 0


def neighbour_parameters(config: ModelConfig) -> int:
    """What a token's vector takes from the token before it: the smear's shares and the table of pairs."""
    return (config.smear + config.bigram_buckets) * config.n_embd


def norm_parameters(config: ModelConfig) -> int:
    """One norm over n_embd; only a LayerNorm has a bias, and only where the config asks for biases."""
    if not config.norm_weight:
        return 0
    return config.n_embd * (2 if config.norm == "layernorm" and config.bias else 1)


def block_parameters(config: ModelConfig) -> int:
    """Weights of one Transformer block."""
    attention_rows = (config.n_head + 2 * config.kv_heads) * config.head_width
    mlp_rows = (2 if config.gated else 1) * config.mlp_width
    matrices = config.n_embd * (attention_rows + config.n_head * config.head_width + mlp_rows + config.mlp_width)
    biases = config.n_embd + mlp_rows + config.n_embd if config.bias else 0
    qkv_biases = attention_rows if config.has_qkv_bias else 0
    qk_norms = sum(config.qk_norm_widths or ()) if config.norm_weight else 0
    return matrices + biases + qkv_biases + qk_norms + 2 * norm_parameters(config)


def flops_per_token(config: ModelConfig, seq_len: int) -> int:
    """Floating-point operations a token of a forward and a backward pass: 6N + 12 L H D T.

    After appendix B of PaLM (Chowdhery et al. 2022, arXiv:2204.02311). N counts the blocks and the output head (tied or
    not), and not the tables that are only looked up. As in the paper the attention term takes no credit for the causal
    mask; a layer with a window counts min(T, window) keys. What activation checkpointing repeats does not count.
    """
    multiplied = non_embedding_parameters(config) + token_embedding_parameters(config)  # the head is as large
    windows = [config.window(layer) for layer in range(config.n_layer)]
    keys = sum(min(seq_len, window) if window else seq_len for window in windows)
    return 6 * multiplied + 12 * config.n_head * config.head_width * keys


def training_memory_bytes(
    config: ModelConfig,
    optimizer_state_per_parameter: int,
    batch_size: int,
    seq_len: int,
    *,
    activation_bytes: int = BYTES_FP32,
) -> int:
    """About the most memory that training takes: fp32 weights, gradients, optimizer state, and one batch's activations.

    Args:
        optimizer_state_per_parameter: fp32 numbers that the optimizer keeps for each weight (AdamW 2).
        batch_size: sequences in a micro-batch.
        activation_bytes: bytes of one activation, 4 in fp32, 2 under bf16 or fp16 autocast; logits are always fp32.
    """
    state = parameter_count(config) * BYTES_FP32 * (2 + optimizer_state_per_parameter)
    block = block_activations(config, seq_len)
    stream = config.n_embd
    kept = config.n_layer * stream + block if config.activation_checkpointing else config.n_layer * block
    logits = 3 * config.vocab_size * BYTES_FP32  # the logits, their log-softmax, and a gradient
    return state + batch_size * seq_len * ((kept + 2 * stream) * activation_bytes + logits)


def block_activations(config: ModelConfig, seq_len: int) -> int:
    """Numbers a token that one block keeps for its backward pass (approximate: kernels differ in what they save)."""
    q, k = config.n_head * config.head_width, config.kv_heads * config.head_width
    norms = 2 * 2 * config.n_embd  # input, output
    attention = q + 2 * k + q  # q, k, v and the output
    if config.qk_norm or config.position == "rope":
        attention += q + k  # as they are multiplied
    if config.attention == "reference" or config.attention_drop:  # on a CPU the fused kernel has no dropout
        attention += 2 * config.n_head * seq_len  # the attention weights, before and after what follows the softmax
    mlp = (4 if config.gated else 2) * config.mlp_width  # gate, up, activated gate and their product; or up, activated
    dropouts = 2 * config.n_embd if config.dropout else 0
    return norms + attention + mlp + dropouts
