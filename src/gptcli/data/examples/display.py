"""Examples as text, with special tokens by their names and marks around the tokens in the loss."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from gptcli.data.shards import TokenShards
from gptcli.tokenizer.tokenizer import Tokenizer

BEGIN, END = "⟦", "⟧"
"""The marks around the tokens in the loss, where there are no colours."""


class ShownPart(NamedTuple):
    """A stretch of a document. If it `is_special`, its text consists of the names of special tokens."""

    text: str
    is_special: bool
    in_loss: bool


def shown_parts(tokenizer: Tokenizer, ids: np.ndarray, in_loss: np.ndarray) -> list[ShownPart]:
    """Return the longest stretches of a document, ids (T,) and mask (T,) bool, of one kind: special or not, in the loss
    or not.
    """
    kinds = ((int(id), int(id) in tokenizer.special_ids, bool(bit)) for id, bit in zip(ids, in_loss, strict=True))
    return [
        ShownPart(text_of(tokenizer, [id for id, _, _ in run], is_special), is_special, is_in)
        for (is_special, is_in), run in groupby(kinds, key=lambda kind: kind[1:])
    ]


def text_of(tokenizer: Tokenizer, ids: list[int], is_special: bool) -> str:
    """Return the text of tokens, which are all special or none of them."""
    return "".join(map(tokenizer.token_text, ids)) if is_special else tokenizer.decode(ids)


def marked(parts: Iterable[ShownPart]) -> str:
    """Return the text of a document with marks around the tokens in the loss."""
    return "".join(
        f"{BEGIN}{text}{END}" if is_in else text
        for is_in, run in groupby(parts, key=lambda part: part.in_loss)
        for text in ["".join(part.text for part in run)]
    )


def sampled_examples(shards: TokenShards, tokenizer: Tokenizer, count: int) -> list[dict[str, Any]]:
    """Return `count` documents spread evenly over a split, as JSON can write them: the parts and the tokens of each."""
    count = min(count, shards.documents)
    numbers = [shards.documents * (2 * number + 1) // (2 * count) for number in range(count)]
    found = []
    for number in numbers:
        first, last = shards.document_bounds(number)
        in_loss = shards.read_mask(first, last)
        parts = shown_parts(tokenizer, shards.read(first, last), in_loss)
        found.append(
            {
                "example": number,
                "token": first,
                "tokens": last - first,
                "tokens_in_loss": int(in_loss.sum()),
                "parts": [part._asdict() for part in parts],
            }
        )
    return found
