"""What a token's vector takes from the token before it: a share of that token's vector, and a vector of the pair.

A Transformer needs a layer of attention to see a token's left neighbour; these two lookups give it at once, which small
models that train for minutes gain from most. Knows nothing of the model around it, nor where a row begins: it is told
which neighbours there are. Shapes: B batch, T time, C n_embd, V vocab.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from gptcli.nn.layers import Embedding
from gptcli.nn.parameters import Role

NO_TOKEN = -1
"""The id of the token before a row's or a document's first."""

HASH_MULTIPLIER = 0x9E3779B1
"""2^32 over the golden ratio, odd: multiplying by it spreads neighbouring numbers (Knuth, TAOCP 3, section 6.4)."""


def previous_ids(
    input_ids: Tensor, before: Tensor | None = None, starts: Tensor | None = None, segment_ids: Tensor | None = None
) -> Tensor:
    """The id to the left of each of input_ids (B, T) -> (B, T); NO_TOKEN where there is none.

    Args:
        before: (B, 1) the ids left of the first column; none: there are none.
        starts: (B, T) or (1, T) bool, true where a row begins: what stands left of it is padding.
        segment_ids: (B, T) numbers of runs, such as documents, that do not see each other.
    """
    if before is None:
        before = torch.full_like(input_ids[:, :1], NO_TOKEN)
    previous = torch.cat((before, input_ids[:, :-1]), dim=1)  # (B, T)
    if starts is not None:
        previous = previous.masked_fill(starts, NO_TOKEN)
    if segment_ids is not None:
        is_first = torch.zeros_like(input_ids, dtype=torch.bool)
        is_first[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
        previous = previous.masked_fill(is_first, NO_TOKEN)
    return previous


class Smear(nn.Module):
    """x + weight * the vector of the token before, channel by channel; nothing is added where there is none.

    The weight starts at 0. After "smear" in the records of modded-nanogpt, which gates it by the token.
    """

    roles: ClassVar = {"weight": Role("vector", "zeros")}

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, previous: Tensor, embedding: nn.Embedding) -> Tensor:
        """x (B, T, C), the ids before (B, T), and the table that x came from -> (B, T, C)"""
        left = embedding(previous.clamp_min(0))  # (B, T, C)
        return torch.addcmul(x, left, self.weight * (previous != NO_TOKEN).unsqueeze(-1))


class BigramEmbedding(nn.Module):
    """A table of vectors for (token before, token): a pair's own row where there are rows enough, else a hashed one.

    After Roy et al. 2022 (N-Grammer, arXiv:2207.06366), without their clustering. Starts at 0 when initialised.
    """

    def __init__(self, buckets: int, vocab_size: int, width: int) -> None:
        super().__init__()
        self.table = Embedding(buckets, width, Role("embedding", "zeros"))
        self.vocab_size = vocab_size

    def rows(self, previous: Tensor, input_ids: Tensor) -> Tensor:
        """The rows of the pairs, (B, T) each -> (B, T)."""
        pair = (previous + 1) * self.vocab_size + input_ids  # NO_TOKEN counts as one more token
        if (self.vocab_size + 1) * self.vocab_size > self.table.num_embeddings:
            mixed = pair * HASH_MULTIPLIER  # may wrap around: it is a hash
            pair = (mixed ^ (mixed >> 16)) & 0x7FFFFFFF
        return pair % self.table.num_embeddings

    def forward(self, previous: Tensor, input_ids: Tensor) -> Tensor:
        """The ids before and the ids, (B, T) each -> (B, T, C)"""
        return self.table(self.rows(previous, input_ids))
