"""The GPT: token ids in, logits or loss out.

Shapes: B batch, T time, S cached keys, C n_embd, V vocab.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

import torch
from torch import Tensor, nn

from gptcli.errors import ConfigError, UsageError
from gptcli.models.block import Block, Blocks, build_norm, build_rotary
from gptcli.models.config import ModelConfig
from gptcli.nn.cache import KVCache
from gptcli.nn.dropout import drop
from gptcli.nn.layers import Embedding, Linear
from gptcli.nn.lora import initial_a, trained_rows_of
from gptcli.nn.loss import TrainedHeadRows, head_loss_sum, head_token_losses, softcapped, with_rows
from gptcli.nn.matmul import linear
from gptcli.nn.parameters import HEAD, ParameterInfo, declared_roles
from gptcli.nn.recompute import Recompute
from gptcli.nn.state import ForwardState
from gptcli.nn.token_shift import BigramEmbedding, Smear


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
            numbered = config.bigram_vocab_size or config.vocab_size
            self.bigram = BigramEmbedding(config.bigram_buckets, numbered, config.n_embd)
        if config.position == "learned":
            self.position_embedding = Embedding(config.context_length, config.n_embd)
        if config.position == "rope":
            self.rope = build_rotary(config)
        if config.embedding_norm:
            self.embedding_norm = build_norm(config)
        self.blocks = Blocks(Block(config, layer) for layer in range(config.n_layer))
        self.final_norm = build_norm(config)
        if not config.tie_embeddings:
            self.head = Linear(config.n_embd, config.vocab_size, bias=False, role=HEAD)

    def forward(self, input_ids: Tensor, cache: KVCache | None = None, *, segment_ids: Tensor | None = None) -> Tensor:
        """Map input_ids (B, T) to logits (B, T, V).

        With a `cache` the tokens follow those that its first B slots hold and are added to them. `segment_ids` (B, T)
        keep attention within runs of the same number, such as one document.

        Raises:
            UsageError: learned positions end before the sequence does.
        """
        B, T = input_ids.shape
        view = None if cache is None else cache.extend(T, slots=range(B))
        return self.logits(self.hidden_states(ForwardState(input_ids, view, segment_ids)))

    def last_logits(self, input_ids: Tensor, cache: KVCache, counts: Sequence[int] | None = None) -> Tensor:
        """Append input_ids (B, T) to the cache's first B slots and return the logits (B, V) after the last of them.

        Where rows differ in length, only the first `counts[i]` ids of row i are its own, and the rest is padding.
        """
        B, T = input_ids.shape
        counts = counts or [T] * B
        x = self.hidden_states(ForwardState(input_ids, cache.extend(T, counts, slots=range(B))))
        last = torch.tensor(counts, device=x.device) - 1
        return self.logits(x[torch.arange(B, device=x.device), last])

    def loss_sum(self, input_ids: Tensor, targets: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """Sum the nats of the targets that are not IGNORE_INDEX: input_ids and targets (B, T) -> scalar."""
        x, head, trained = self.hidden_states_and_head(input_ids, segment_ids)
        return head_loss_sum(x, head, targets, self.config.logit_softcap, trained)

    def token_losses(self, input_ids: Tensor, targets: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """Return the nats of each target, 0 where it is IGNORE_INDEX: input_ids and targets (B, T) -> (B, T)."""
        x, head, trained = self.hidden_states_and_head(input_ids, segment_ids)
        return head_token_losses(x, with_rows(head, trained), targets, self.config.logit_softcap)

    def hidden_states_and_head(
        self, input_ids: Tensor, segment_ids: Tensor | None
    ) -> tuple[Tensor, Tensor, TrainedHeadRows | None]:
        """Return the head's input (B, T, C) for input_ids (B, T), its weight (V, C), and the trained rows of that."""
        state = ForwardState(input_ids, segment_ids=segment_ids)
        if self.config.tie_embeddings:
            vectors, weight = self.embedding.look_up_and_share(input_ids)
            return self.hidden_states(state, vectors), weight, trained_rows_of(self.embedding)
        return self.hidden_states(state), self.head.weight, trained_rows_of(self.head)

    def hidden_states(self, state: ForwardState, vectors: Tensor | None = None) -> Tensor:
        """Return the head's input (B, T, C) for the state's tokens; `vectors` (B, T, C) are their embeddings."""
        x = self.embedding(state.input_ids) if vectors is None else vectors
        x = self.add_positions(x, state) if self.config.position == "learned" else x
        x = self.add_previous(x, state) if self.config.smear or self.config.bigram_buckets else x
        x = self.embedding_norm(x) if self.config.embedding_norm else x
        x = drop(x, self.config.dropout) if self.training else x
        rotary = self.rope(state.places, state.end, x.device) if self.config.position == "rope" else None
        for layer, block in enumerate(self.blocks):
            x = block(x, state.block(layer, block.window, rotary))
        hidden: Tensor = self.final_norm(x)
        return hidden

    def add_positions(self, x: Tensor, state: ForwardState) -> Tensor:
        """Add the learned vectors of their positions to x (B, T, C)."""
        if state.end > self.config.context_length:
            raise UsageError(
                f"this model has learned positions for {self.config.context_length} tokens and was given {state.end}",
                "use a shorter context",
            )
        return x + self.position_embedding.weight[state.positions()]

    def add_previous(self, x: Tensor, state: ForwardState) -> Tensor:
        """Add to the vectors x (B, T, C) what depends on the token before each."""
        previous = state.previous_ids()
        if self.config.smear:
            x = self.smear(x, previous, self.embedding)
        return x + self.bigram(previous, state.input_ids) if self.config.bigram_buckets else x

    def logits(self, x: Tensor) -> Tensor:
        """Map the head's input (..., C) to logits (..., V)."""
        logits = linear(x, self.embedding.whole_weight()) if self.config.tie_embeddings else self.head(x)
        return softcapped(logits, self.config.logit_softcap)

    def reserve_positions(self, length: int) -> GPT:
        """Make RoPE's tables long enough for sequences of `length` tokens, before a compiled or recorded step is made.

        Returns the model itself.
        """
        if self.config.position == "rope":
            self.rope.reserve(length, self.embedding.weight.device)
        return self

    def new_cache(self, slots: int, capacity: int) -> KVCache:
        """Return an empty KV cache for `capacity` tokens a slot, on the model's device and in its dtype."""
        config, weight, heads = self.config, self.embedding.weight, self.blocks[0].attention.n_kv_head
        return KVCache(config.n_layer, slots, capacity, heads, config.head_width, weight.device, weight.dtype)

    def parameter_infos(self) -> list[ParameterInfo]:
        """Return every parameter once, with the role that its module declares."""
        return [
            ParameterInfo(name, tensor, role.kind, tuple(rows for _, rows in role.parts))
            for name, tensor, role in declared_roles(self)
        ]

    def recompute(self, mode: Recompute) -> GPT:
        """Set which intermediate results the blocks' backward passes recompute; return the model itself."""
        for block in self.blocks:
            block.recompute = mode
        return self

    def parameter_count(self) -> int:
        """Return the number of weights; shared ones count once."""
        return sum(tensor.numel() for tensor in self.parameters())


def build_model(
    config: ModelConfig, *, seed: int = 0, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> GPT:
    """Return a GPT with newly drawn weights, the same for a seed on every device; on `meta` it takes no memory."""
    device = torch.device(device)
    with torch.device("meta"):
        model = GPT(config).to(dtype)
    if device.type == "meta":
        return model
    # This is model.to_empty without its import of sympy, which takes half a second.
    model._apply(  # type: ignore[no-untyped-call]  # torch does not annotate it
        lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    )
    initialize(model, seed)
    return model


def model_with(config: ModelConfig, weights: Mapping[str, Tensor]) -> GPT:
    """Return a GPT that holds these weights, without a copy."""
    model = build_model(config, device="meta")
    model.load_state_dict(weights, assign=True)
    return model


@torch.no_grad()
def initialize(model: GPT, seed: int) -> None:
    """Set every parameter to its initial weights."""
    parameters = dict(model.named_parameters())
    for name, weight in initial_weights(model, seed):
        parameters[name].copy_(weight)


def initial_weights(model: GPT, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, weight) of GPT-2's initialisation, as the parameters' roles say.

    The projections that write to the residual stream are scaled by 1/sqrt(2 n_layer), so that the stream's variance
    does not grow with depth (Radford et al. 2019, section 2.3). Drawn on the CPU in fp32, one parameter at a time;
    `model` may be on the meta device, since only shapes and roles are used.
    """
    generator = torch.Generator().manual_seed(seed)
    std = model.config.init_std
    for name, tensor, role in declared_roles(model):
        weight = torch.empty(tensor.shape, dtype=torch.float32)
        match role.init:
            case "normal":
                weight.normal_(0.0, std, generator=generator)
            case "residual":
                weight.normal_(0.0, std / (2 * model.config.n_layer) ** 0.5, generator=generator)
            case "lora":
                weight = initial_a(tensor.shape, seed, name)
            case "ones":
                weight.fill_(1.0)
            case "zeros":
                weight.zero_()
            case other:
                assert_never(other)
        yield name, weight
