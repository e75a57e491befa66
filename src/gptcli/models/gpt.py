"""The GPT: token ids in, logits or loss out. Knows nothing of text, data files, optimizers or sampling.

Shapes: B batch, T time, S cached keys, C n_embd, V vocab.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from gptcli.errors import ConfigError, UsageError
from gptcli.models.block import Block, build_norm, build_rotary
from gptcli.models.config import ModelConfig
from gptcli.nn.cache import KVCache
from gptcli.nn.dropout import drop
from gptcli.nn.layers import Embedding, Linear
from gptcli.nn.loss import head_loss_sum, head_token_losses, softcapped
from gptcli.nn.mask import attention_mask
from gptcli.nn.matmul import linear
from gptcli.nn.parameters import ParameterInfo, ParameterKind
from gptcli.nn.recompute import Recompute
from gptcli.nn.token_shift import BigramEmbedding, Smear, previous_ids


class GPT(nn.Module):
    """A decoder-only Transformer (Radford et al. 2019), each part chosen by `config`. Build it with `build_model`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vocab_size == 0:
            raise ConfigError("model.vocab_size is 0", "take it from the tokenizer before the model is built")
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.n_embd)
        if config.smear:
            self.smear = Smear(config.n_embd)
        if config.bigram_buckets:
            self.bigram = BigramEmbedding(config.bigram_buckets, config.vocab_size, config.n_embd)
        if config.position == "learned":
            self.position_embedding = Embedding(config.context_length, config.n_embd)
        if config.position == "rope":
            self.rope = build_rotary(config)
        if config.embedding_norm:
            self.embedding_norm = build_norm(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.final_norm = build_norm(config)
        if not config.tie_embeddings:
            self.head = Linear(config.n_embd, config.vocab_size, bias=False)
        if config.activation_checkpointing:
            self.recompute("full")

    def forward(self, input_ids: Tensor, *, cache: KVCache | None = None, segment_ids: Tensor | None = None) -> Tensor:
        """input_ids (B, T) -> logits (B, T, V).

        With a `cache` the tokens follow those it holds and are added to it. `segment_ids` (B, T) keeps attention
        within runs of the same number, such as one document.

        Raises:
            UsageError: learned positions end before the sequence does.
        """
        if cache is None:
            return self.logits(self.hidden_states(input_ids, segment_ids=segment_ids))
        cache.begin(input_ids.shape[1])
        logits = self.logits(self.hidden_states(input_ids, cache, segment_ids))
        cache.advance(input_ids.shape[1])
        return logits

    def last_logits(self, input_ids: Tensor, cache: KVCache, counts: Sequence[int] | None = None) -> Tensor:
        """input_ids (B, T), appended to the cache -> logits (B, V) after the last of them.

        Where rows differ in length, only the first `counts[i]` ids of row i are its own, and the rest is padding.
        """
        B, T = input_ids.shape
        counts = counts or [T] * B
        cache.begin(T)
        x = self.hidden_states(input_ids, cache)
        cache.lengths = [length + count for length, count in zip(cache.lengths, counts, strict=True)]
        last = torch.tensor(counts, device=x.device) - 1
        return self.logits(x[torch.arange(B, device=x.device), last])

    def next_logits(self, input_ids: Tensor, cache: KVCache) -> Tensor:
        """input_ids (B, T), written to the cache but not counted -> logits (B, T, V)."""
        cache.begin(input_ids.shape[1])
        return self.logits(self.hidden_states(input_ids, cache))

    def loss_sum(self, input_ids: Tensor, targets: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """input_ids and targets (B, T) -> scalar: nats summed over the targets that are not IGNORE_INDEX."""
        x, head = self.hidden_states_and_head(input_ids, segment_ids)
        return head_loss_sum(x, head, targets, self.config.logit_softcap)

    def token_losses(self, input_ids: Tensor, targets: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """input_ids and targets (B, T) -> (B, T): nats of each target, 0 where it is IGNORE_INDEX. No gradients."""
        x, head = self.hidden_states_and_head(input_ids, segment_ids)
        return head_token_losses(x, head, targets, self.config.logit_softcap)

    def hidden_states_and_head(self, input_ids: Tensor, segment_ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """input_ids (B, T) -> what the head reads, (B, T, C), and its weights (V, C)."""
        if self.config.tie_embeddings:
            vectors, head = self.embedding.look_up_and_share(input_ids)
        else:
            vectors, head = None, self.head.weight
        return self.hidden_states(input_ids, segment_ids=segment_ids, vectors=vectors), head

    def hidden_states(
        self,
        input_ids: Tensor,
        cache: KVCache | None = None,
        segment_ids: Tensor | None = None,
        vectors: Tensor | None = None,
    ) -> Tensor:
        """input_ids (B, T) -> what the head reads, (B, T, C); `vectors` (B, T, C) are theirs if they are known.

        With a `cache` they are written where its `begin` says; counting them is left to the caller.
        """
        if cache is not None and segment_ids is not None:
            raise ValueError("segment_ids are for whole sequences, not for cached decoding")
        count, device = input_ids.shape[1], input_ids.device
        end, positions = (count, None) if cache is None else (cache.slots, cache.positions)
        x = self.add_positions(self.embedding(input_ids) if vectors is None else vectors, end, positions)
        if self.config.smear or self.config.bigram_buckets:
            x = self.add_neighbours(x, input_ids, cache, segment_ids)
        x = self.embedding_norm(x) if self.config.embedding_norm else x
        x = drop(x, self.config.dropout) if self.training else x
        rotary = self.rope(end, count, positions, device) if self.config.position == "rope" else None
        masks = {
            window: attention_mask(
                count, end, window=window, positions=positions, segment_ids=segment_ids, device=device
            )
            for window in sorted({block.window for block in self.blocks})
        }
        for block in self.blocks:
            x = block(x, rotary, masks[block.window], cache)
        return self.final_norm(x)

    def add_positions(self, x: Tensor, end: int, positions: Tensor | None) -> Tensor:
        """x (B, T, C) -> the same plus learned vectors, if there are any, of the T positions before `end`, or of
        `positions` (B, T)."""
        if self.config.position == "learned":
            if end > self.config.context_length:
                raise UsageError(
                    f"this model has learned positions for {self.config.context_length} tokens and was given {end}",
                    "use a shorter context",
                )
            table = self.position_embedding.weight
            x = x + (table[end - x.shape[1] : end] if positions is None else table[positions])
        return x

    def add_neighbours(self, x: Tensor, input_ids: Tensor, cache: KVCache | None, segment_ids: Tensor | None) -> Tensor:
        """x (B, T, C) of input_ids (B, T) -> the same with what each token takes from the one before it."""
        before = starts = None
        if cache is not None:
            before = cache.write_ids(input_ids)
            starts = None if cache.positions is None else cache.positions == 0  # (B, T)
        previous = previous_ids(input_ids, before, starts, segment_ids)
        if self.config.smear:
            x = self.smear(x, previous, self.embedding)
        return x + self.bigram(previous, input_ids) if self.config.bigram_buckets else x

    def logits(self, x: Tensor) -> Tensor:
        """x (..., C) -> logits (..., V)"""
        logits = linear(x, self.embedding.weight) if self.config.tie_embeddings else self.head(x)
        return softcapped(logits, self.config.logit_softcap)

    def reserve_positions(self, length: int) -> GPT:
        """Make RoPE's tables long enough for sequences of `length` tokens, as a compiled or recorded step needs them
        before it is made; returns the model itself."""
        if self.config.position == "rope":
            self.rope.reserve(length, self.embedding.weight.device)
        return self

    def new_cache(self, batch_size: int, capacity: int) -> KVCache:
        """An empty KV cache for `capacity` tokens a row, on the model's device and in its dtype."""
        config, weight, heads = self.config, self.embedding.weight, self.blocks[0].attention.n_kv_head
        return KVCache(config.n_layer, batch_size, capacity, heads, config.head_width, weight.device, weight.dtype)

    def parameter_infos(self) -> list[ParameterInfo]:
        """Every parameter once, with its role and the matrices fused in it."""
        return [
            ParameterInfo(name, tensor, parameter_kind(name, tensor), fused_rows(name, self.config))
            for name, tensor in self.named_parameters()
        ]

    def recompute(self, mode: Recompute) -> GPT:
        """Have all blocks compute again in the backward pass what `mode` says; returns the model itself."""
        for block in self.blocks:
            block.recompute = mode
        return self

    def parameter_count(self) -> int:
        """Number of weights; shared ones count once."""
        return sum(tensor.numel() for tensor in self.parameters())


def parameter_kind(name: str, tensor: Tensor) -> ParameterKind:
    if name in ("embedding.weight", "position_embedding.weight", "bigram.table.weight"):
        return "embedding"
    if name == "head.weight":
        return "head"
    return "matrix" if tensor.dim() >= 2 else "vector"


def fused_rows(name: str, config: ModelConfig) -> tuple[int, ...]:
    """Row counts of the matrices that the weight of that name holds, if it holds several."""
    if name.endswith("attention.qkv.weight"):
        return tuple(heads * config.head_width for heads in (config.n_head, config.kv_heads, config.kv_heads))
    if name.endswith("mlp.up.weight") and config.gated:
        return (config.mlp_width, config.mlp_width)
    return ()


def build_model(
    config: ModelConfig,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> GPT:
    """A GPT with freshly drawn weights, the same for the same seed on every device; `meta` takes no memory."""
    device = torch.device(device)
    with torch.device("meta"):
        model = GPT(config).to(dtype)
    if device.type == "meta":
        return model
    # As model.to_empty does, which on the way imports sympy for half a second.
    model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))
    initialize(model, seed)
    return model


def model_with(config: ModelConfig, weights: Mapping[str, Tensor]) -> GPT:
    """A GPT of these weights, which it holds without a copy."""
    model = build_model(config, device="meta")
    model.load_state_dict(weights, assign=True)
    return model


@torch.no_grad()
def initialize(model: GPT, seed: int) -> None:
    """Give every parameter its `initial_weights`."""
    parameters = dict(model.named_parameters())
    for name, weight in initial_weights(model, seed):
        parameters[name].copy_(weight)


def initial_weights(model: GPT, seed: int) -> Iterator[tuple[str, Tensor]]:
    """GPT-2's initialisation: weights normal(0, init_std), norms 1, biases 0; what neighbours add begins at 0.

    The projections that write to the residual stream are scaled by 1/sqrt(2 n_layer), so that the stream's variance
    does not grow with depth (Radford et al. 2019, section 2.3). Drawn on the CPU in fp32, one parameter at a time; of
    `model`, which may be on the meta device, only names and shapes are used.
    """
    generator = torch.Generator().manual_seed(seed)
    residual_std = model.config.init_std / (2 * model.config.n_layer) ** 0.5
    for name, tensor in model.named_parameters():
        weight = torch.empty(tensor.shape, dtype=torch.float32)
        if name.startswith(("smear.", "bigram.")) or name.endswith(".bias"):
            yield name, weight.zero_()
        elif tensor.dim() == 1:
            yield name, weight.fill_(1.0)
        else:
            residual = name.endswith(("attention.output.weight", "mlp.down.weight"))
            std = residual_std if residual else model.config.init_std
            yield name, weight.normal_(0.0, std, generator=generator)
