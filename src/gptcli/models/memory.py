"""An estimate of the memory of training, tensor by tensor, from what `nn` and `models` save. It imports no torch.

Activations are what autograd keeps between a forward and a backward pass, each storage once, of code that is not
compiled; torch.compile keeps less. The tests count the same storages in a model that runs. The letters are those of the
papers: B batch, T time, L n_layer, C n_embd, H n_head, K n_kv_head, D head_dim, F MLP width, V vocab_size.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from gptcli.models.adapter_config import AdapterConfig, LoraConfig, NoAdapter
from gptcli.models.config import ModelConfig
from gptcli.models.estimate import BYTES_FP32, adapter_shape, block_matrices, parameter_count, up_rows, windows
from gptcli.nn.thresholds import FIRST_TABLE, LARGE_VOCABULARY, MAX_LOGITS, MAX_MATMUL_SCORES

BYTES_ID = 8

Recompute = Literal["none", "full", "selective"]
"""The part of a block that the backward pass computes again: none, all, or all but its products and attention."""


class ComputeFormat(NamedTuple):
    """The number format and the kernels of a model, as far as they decide what is kept."""

    compute_bytes: int = BYTES_FP32
    """Bytes of an operand of a matrix product: 4 in fp32, 2 under bf16 or fp16 autocast. The residual stream between
    the blocks is fp32 in either case."""
    on_cuda: bool = False
    """Whether CUDA's kernels and autocast rules apply, which compute norms in fp32; otherwise those of a CPU do."""
    is_unfused: bool = False
    """Whether q, k and v, and gate and up, are separate matrices, as in sharded models: autocast then copies their
    input for each."""

    @property
    def is_mixed(self) -> bool:
        """Whether matrix products are computed in another precision than fp32."""
        return self.compute_bytes < BYTES_FP32

    @property
    def norm_bytes(self) -> int:
        """Bytes of a number that a norm inside a block reads; CUDA's autocast first copies it in fp32."""
        return BYTES_FP32 if self.on_cuda else self.compute_bytes


class BatchShape(NamedTuple):
    """The shape of a micro-batch: its sequences, and the tokens of each."""

    sequences: int
    seq_len: int

    @property
    def tokens(self) -> int:
        """The number of tokens of the batch."""
        return self.sequences * self.seq_len


FP32 = ComputeFormat()
NO_ADAPTER = NoAdapter()


class Activations(NamedTuple):
    """Bytes that one micro-batch keeps for its backward pass."""

    blocks: int
    """Bytes that the blocks keep until the backward pass."""
    recomputed: int
    """Further bytes while one block is computed again, including the widest gradient in it."""
    around: int
    """Bytes outside the blocks: ids, the embedding's part, the last norm."""
    loss: int
    """Bytes of the head's input, and of the gradient of the logits in their place."""
    weight_copies: int
    """Bytes of the matrices in the compute precision, which autocast makes and holds."""
    loss_peak: int
    """Bytes that the loss needs at its peak beyond those that it keeps."""

    @property
    def kept(self) -> int:
        """Bytes between the forward and the backward pass."""
        return self.blocks + self.around + self.loss + self.weight_copies

    @property
    def in_loss(self) -> int:
        """The peak while the loss is computed."""
        return self.kept + self.loss_peak

    @property
    def in_backward(self) -> int:
        """The peak when the last block is computed again, if it is."""
        return self.blocks + self.around + self.recomputed


def activations(
    config: ModelConfig,
    batch: BatchShape,
    numbers: ComputeFormat = FP32,
    recompute: Recompute = "none",
    adapter: AdapterConfig = NO_ADAPTER,
) -> Activations:
    """Return the bytes that a micro-batch keeps, and its peaks; with an adapter everything else is frozen."""
    of_layers = windows(config)
    whole = {window: block_kept_bytes(config, batch, numbers, window) for window in set(of_layers)}
    copies = numbers.compute_bytes * block_matrices(config) if numbers.is_mixed else 0
    stream = batch.tokens * config.n_embd * BYTES_FP32
    gradient = batch.tokens * up_rows(config) * numbers.compute_bytes  # the widest there is
    results, shared = product_results(config, batch, numbers) if recompute == "selective" else (0, 0)
    frozen = frozen_loss_bytes(config, batch, numbers) if adapter.name != "none" else None
    kept, peak = frozen or (loss_kept_bytes(config, batch, numbers), loss_peak_bytes(config, batch, numbers))
    return Activations(
        blocks=sum(whole[window] for window in of_layers) + adapter_bytes(config, adapter, batch, numbers)
        if recompute == "none"
        else config.n_layer * (stream + results),
        recomputed=0 if recompute == "none" else max(whole.values()) - stream - shared + gradient + copies,
        around=around_bytes(config, batch, numbers),
        loss=kept,
        weight_copies=config.n_layer * copies + (0 if frozen else head_copy_bytes(config, numbers)),
        loss_peak=peak,
    )


def adapter_bytes(config: ModelConfig, adapter: AdapterConfig, batch: BatchShape, numbers: ComputeFormat = FP32) -> int:
    """Return the further bytes that an adapter keeps for its backward pass; 0 for none.

    They are the results of A, the masks of the inputs' dropout, and with DoRA the outputs before they are scaled. The
    matrices without an adapter keep no input any more, which is not subtracted.
    """
    if not isinstance(adapter, LoraConfig):
        return 0
    shape, c = adapter_shape(config, adapter), numbers.compute_bytes
    token = shape.inner * c + shape.outputs * c * adapter.dora
    if adapter.dropout:
        token += shape.inputs * dropout_mask_bytes(numbers)
    return batch.tokens * token


def product_results(config: ModelConfig, batch: BatchShape, numbers: ComputeFormat) -> tuple[int, int]:
    """Return the bytes of the results of a block's products and attention, and those of them that it keeps anyway."""
    q, k, c = config.n_head * config.head_width, config.kv_heads * config.head_width, numbers.compute_bytes
    has_scores = attends_by_products(config, numbers, batch.seq_len)
    scores = config.n_head * batch.seq_len * c if has_scores else config.n_head * BYTES_FP32
    shared = (q + 2 * k + q + up_rows(config)) * c + config.n_head * BYTES_FP32
    results = (q + 2 * k + q + up_rows(config) + 2 * config.n_embd) * c + scores
    return batch.tokens * results, batch.tokens * shared


def training_memory_bytes(
    config: ModelConfig,
    optimizer_numbers: int,
    batch: BatchShape,
    numbers: ComputeFormat = FP32,
    recompute: Recompute = "none",
    *,
    accumulates: bool = True,
) -> int:
    """Return the peak memory of training in bytes: fp32 weights, gradients, optimizer state and activations.

    The peak is in the loss, when everything is kept, or at the end of a backward pass, when every gradient is there.

    Args:
        optimizer_numbers: fp32 numbers that the optimizer keeps in all (AdamW: two for each weight).
        accumulates: whether a step has several micro-batches, so that gradients exist during a forward pass.
    """
    weights = parameter_count(config) * BYTES_FP32
    kept = activations(config, batch, numbers, recompute)
    on_the_way = max(kept.in_loss, kept.in_backward) + (weights if accumulates else 0)
    at_the_end = weights + kept.recomputed
    tables = table_bytes(config, batch.seq_len)
    return weights + optimizer_numbers * BYTES_FP32 + tables + max(on_the_way, at_the_end)


def block_kept_bytes(config: ModelConfig, batch: BatchShape, numbers: ComputeFormat = FP32, window: int = 0) -> int:
    """Return the bytes that one block keeps for its backward pass; `window` is that of its attention, 0 for none."""
    is_masked = 0 < window < batch.seq_len
    token = input_bytes(config, numbers, 3) + mlp_input_bytes(config, numbers)
    token += attention_bytes(config, batch.seq_len, numbers, is_masked)
    token += mlp_bytes(config, numbers)
    if config.dropout:
        token += 2 * config.n_embd * dropout_mask_bytes(numbers)
    if config.attention == "reference":
        mask = batch.seq_len**2
    else:
        is_kept = is_masked and not is_written_out(numbers, batch.seq_len)
        mask = batch.seq_len**2 * numbers.compute_bytes * is_kept
    return batch.tokens * token + mask


def input_bytes(config: ModelConfig, numbers: ComputeFormat, parts: int) -> int:
    """Return the bytes of a token that a sub-layer's norm and first product, of `parts` matrices, keep.

    A norm after its sub-layer reads the result of the sub-layer; the product then reads the residual stream itself.
    """
    if config.norm_place == "before":
        normed, is_stream = config.n_embd * BYTES_FP32, True
    else:
        normed, is_stream = config.n_embd * numbers.norm_bytes, False
    copies = parts if numbers.is_unfused and numbers.is_mixed else 1
    return normed + statistics_bytes(config, numbers, is_stream) + copies * config.n_embd * numbers.compute_bytes


def mlp_input_bytes(config: ModelConfig, numbers: ComputeFormat) -> int:
    """Return the same for the MLP; a stream that attention and MLP both read is kept once."""
    shared = config.parallel_residual and (config.norm_place == "before" or not numbers.is_mixed)
    parts = 2 if config.gated else 1
    return input_bytes(config, numbers, parts) - (config.n_embd * BYTES_FP32 if shared else 0)


def statistics_bytes(config: ModelConfig, numbers: ComputeFormat, is_stream: bool) -> int:
    """Return the bytes of a token's scale in a norm, and of its mean in a LayerNorm."""
    if config.norm == "layernorm":
        return 2 * BYTES_FP32
    return BYTES_FP32 if is_stream else numbers.norm_bytes


def attention_bytes(config: ModelConfig, seq_len: int, numbers: ComputeFormat, is_masked: bool) -> int:
    """Return the bytes kept of a token between the normalised input of attention and its output projection."""
    c, q, k = numbers.compute_bytes, config.n_head * config.head_width, config.kv_heads * config.head_width
    turned = config.qk_norm or config.position == "rope"  # q and k are then other tensors than the fused product
    norm_rows = 0 if not config.qk_norm else 2 if config.qk_norm_over == "heads" else config.n_head + config.kv_heads
    copies_for_norm = bool(norm_rows) and numbers.is_mixed and (numbers.on_cuda or not config.norm_weight)
    kept = norm_rows * numbers.norm_bytes + ((q + k) * BYTES_FP32 if copies_for_norm else 0)
    holds_fused = bool(norm_rows) and not copies_for_norm
    if attends_by_products(config, numbers, seq_len):
        return kept + (q + 2 * k) * c * holds_fused + products_bytes(config, seq_len, numbers)
    # CUDA's kernels for masks or fp32 do not support groups, so keys and values are repeated for them.
    is_repeated = numbers.on_cuda and k < q and (is_masked or not numbers.is_mixed)
    holds_fused |= not is_repeated or not turned
    kept += (q + 2 * k) * c if holds_fused else 0
    kept += q * c if turned else 0
    kept += 2 * q * c if is_repeated else k * c if turned else 0
    is_copied = (
        config.position == "rope" and config.rotary_dim < config.head_width
    )  # the parts come back in another order
    return kept + q * c * (2 if is_copied and not numbers.on_cuda else 1) + config.n_head * BYTES_FP32


def attends_by_products(config: ModelConfig, numbers: ComputeFormat, seq_len: int) -> bool:
    """Return whether attention weights are tensors: in the plain formula, and with dropout on a CPU."""
    by_kernel = numbers.on_cuda or not (config.attention_drop or is_written_out(numbers, seq_len))
    return config.attention == "reference" or not by_kernel


def is_written_out(numbers: ComputeFormat, seq_len: int) -> bool:
    """Return whether attention is computed by matrix products, as for short contexts in bf16 on a CPU."""
    return numbers.is_mixed and not numbers.on_cuda and seq_len**2 <= MAX_MATMUL_SCORES


def products_bytes(config: ModelConfig, seq_len: int, numbers: ComputeFormat) -> int:
    """Return the bytes kept of a token if attention weights (H, T) are tensors: weights, q, k, v and the output."""
    q, weights = config.n_head * config.head_width, config.n_head * seq_len
    if config.attention == "reference":
        wide = numbers.norm_bytes if numbers.is_mixed else BYTES_FP32  # CUDA's autocast takes the softmax in fp32
        per_number = numbers.compute_bytes
        of_weights = wide + (per_number if wide > per_number else 0)
        if config.attention_drop:
            of_weights += dropout_mask_bytes(numbers) + (0 if wide > per_number else per_number)
    elif is_written_out(numbers, seq_len):
        per_number = numbers.compute_bytes
        of_weights = per_number * (3 if config.attention_drop else 1)  # as below
    else:
        per_number = BYTES_FP32  # torch's fallback computes in fp32
        of_weights = 3 * BYTES_FP32  # after the softmax, which are dropped, what is left
    return weights * of_weights + 3 * q * per_number + q * numbers.compute_bytes


def mlp_bytes(config: ModelConfig, numbers: ComputeFormat) -> int:
    """Return the bytes kept of a token: gate, up, the activated gate and their product, or up and its activation."""
    kept = (4 if config.gated else 2) * config.mlp_width * numbers.compute_bytes
    is_raised = config.mlp == "relu2" and numbers.on_cuda and numbers.is_mixed  # CUDA's autocast squares in fp32
    return kept + (config.mlp_width * BYTES_FP32 if is_raised else 0)


def dropout_mask_bytes(numbers: ComputeFormat) -> int:
    """Return the bytes of one number of a dropout mask: a boolean on CUDA, a factor on a CPU."""
    return 1 if numbers.on_cuda else numbers.compute_bytes


def around_bytes(config: ModelConfig, batch: BatchShape, numbers: ComputeFormat) -> int:
    """Return the bytes kept outside the blocks: ids, the embedding's part, the last norm."""
    stream, scale = config.n_embd * BYTES_FP32, statistics_bytes(config, numbers, is_stream=True)
    token = BYTES_ID + (1 + config.embedding_norm) * (stream + scale)
    token += 2 * stream if config.smear else 0
    token += config.n_embd * (1 if numbers.on_cuda else BYTES_FP32) if config.dropout else 0
    return batch.tokens * token


def loss_kept_bytes(config: ModelConfig, batch: BatchShape, numbers: ComputeFormat) -> int:
    """Return the bytes of the head's input and the logits' gradient, or of the head's gradients if logits are many."""
    hidden = batch.tokens * config.n_embd * numbers.compute_bytes
    if config.vocab_size < LARGE_VOCABULARY:
        logits = config.vocab_size * BYTES_FP32 * (2 if config.logit_softcap else 1)
        return hidden + batch.tokens * (logits + BYTES_ID)
    if batch.tokens * config.vocab_size > MAX_LOGITS:
        return hidden + config.vocab_size * config.n_embd * numbers.compute_bytes
    return hidden + batch.tokens * (config.vocab_size * numbers.compute_bytes + BYTES_ID)


def frozen_loss_bytes(config: ModelConfig, batch: BatchShape, numbers: ComputeFormat) -> tuple[int, int] | None:
    """Return the bytes that the loss of a large frozen head keeps, its input's gradient, and its peak beyond them.

    None for a small head, with which autograd keeps what it keeps of a trained one.
    """
    if config.vocab_size < LARGE_VOCABULARY:
        return None
    raised = 2 * BYTES_FP32 if numbers.is_mixed else BYTES_FP32
    of_logit = raised + numbers.compute_bytes + (2 * BYTES_FP32 if config.logit_softcap else 0)
    logits = min(batch.tokens * config.vocab_size, MAX_LOGITS)
    return batch.tokens * config.n_embd * numbers.compute_bytes, logits * of_logit + head_copy_bytes(config, numbers)


def token_loss_bytes(config: ModelConfig, batch: BatchShape, numbers: ComputeFormat) -> int:
    """Return the bytes that `GPT.token_losses` with gradients, as in DPO, needs beyond `GPT.loss_sum` at its peak.

    Where `loss_sum` computes the gradient of the logits itself, autograd keeps their log-softmax beside it.
    """
    logits = batch.tokens * config.vocab_size
    return logits * numbers.compute_bytes if config.vocab_size >= LARGE_VOCABULARY and logits <= MAX_LOGITS else 0


def loss_peak_bytes(config: ModelConfig, batch: BatchShape, numbers: ComputeFormat) -> int:
    """Return the peak of the loss beyond what it keeps: logits and log-softmax in fp32 beside their gradient."""
    logits, head = batch.tokens * config.vocab_size, config.vocab_size * config.n_embd
    raised = 2 * BYTES_FP32 if numbers.is_mixed else BYTES_FP32
    softcap = 2 * BYTES_FP32 if config.logit_softcap else 0
    if config.vocab_size < LARGE_VOCABULARY:
        return logits * (2 * BYTES_FP32 + softcap)
    if logits > MAX_LOGITS:
        return MAX_LOGITS * (raised + numbers.compute_bytes + softcap) + head * (BYTES_FP32 + numbers.compute_bytes)
    of_gradient = head * BYTES_FP32 + batch.tokens * config.n_embd * numbers.compute_bytes  # for few tokens it is more
    return max(logits * (raised + softcap), of_gradient)


def head_copy_bytes(config: ModelConfig, numbers: ComputeFormat) -> int:
    """Return the bytes of the copy of the head that autocast makes."""
    return config.vocab_size * config.n_embd * numbers.compute_bytes if numbers.is_mixed else 0


def table_bytes(config: ModelConfig, seq_len: int) -> int:
    """Return the bytes of RoPE's tables for sequences of `seq_len` tokens."""
    if config.position != "rope":
        return 0
    positions = max(seq_len, min(config.context_length, FIRST_TABLE // config.rotary_dim))
    return 2 * positions * config.rotary_dim * BYTES_FP32
