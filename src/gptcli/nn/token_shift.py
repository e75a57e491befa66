"""Token shift and bigram embedding: a share of the previous token's vector, and a vector for each pair of tokens.

A Transformer needs a layer of attention to see the previous token; these two lookups give it at once, which helps small
models that train for minutes most. Shapes: B batch, T time, C n_embd, V vocab.
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
"""2^32 over the golden ratio, odd: multiplying by it spreads adjacent numbers (Knuth, TAOCP 3, section 6.4)."""


def previous_ids(
    input_ids: Tensor, before: Tensor | None = None, starts: Tensor | None = None, segment_ids: Tensor | None = None
) -> Tensor:
    """Return the id before each id, NO_TOKEN where there is none: input_ids (B, T) -> (B, T).

    Args:
        before: (B, 1), the ids before the first column; None at the beginning of the rows.
        starts: (B, T) or (1, T) bool, true where a row begins; the slot before it is padding.
        segment_ids: (B, T), numbers of runs, such as documents, that do not see each other.
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
    """x + weight * the previous token's vector, channel by channel; the first token gets nothing.

    The weight starts at 0. After "smear" in the records of modded-nanogpt, which gates it by the token.
    """

    roles: ClassVar = {"weight": Role("vector", "zeros")}

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, previous: Tensor, embedding: nn.Embedding) -> Tensor:
        """Map x (B, T, C), with the previous ids (B, T) and the table that x was looked up in, to (B, T, C)."""
        left = embedding(previous.clamp_min(0))  # (B, T, C)
        return torch.addcmul(x, left, self.weight * (previous != NO_TOKEN).unsqueeze(-1))


class BigramEmbedding(nn.Module):
    """A table of vectors for pairs (previous token, token), hashed where there are more pairs than rows.

    After Roy et al. 2022 (N-Grammer, arXiv:2207.06366), without their clustering. The table starts at 0.
    """

    def __init__(self, buckets: int, vocab_size: int, width: int) -> None:
        super().__init__()
        self.table = Embedding(buckets, width, Role("embedding", "zeros"))
        self.vocab_size = vocab_size

    def rows(self, previous: Tensor, input_ids: Tensor) -> Tensor:
        """Return the rows of the pairs of previous ids and ids: (B, T) each -> (B, T)."""
        pair = (previous + 1) * self.vocab_size + input_ids  # NO_TOKEN is one more token
        if (self.vocab_size + 1) * self.vocab_size > self.table.num_embeddings:
            mixed = pair * HASH_MULTIPLIER  # may wrap around: it is a hash
            pair = (mixed ^ (mixed >> 16)) & 0x7FFFFFFF
        return pair % self.table.num_embeddings

    def forward(self, previous: Tensor, input_ids: Tensor) -> Tensor:
        """Map the previous ids and the ids, (B, T) each, to (B, T, C)."""
        vectors: Tensor = self.table(self.rows(previous, input_ids))
        return vectors
