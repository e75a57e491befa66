"""The part of a text that a tokenizer loses: the bytes that do not survive decode(encode(text)).

Byte-level tokenizers lose nothing. Others may drop line breaks, lowercase, or write an unknown token for what their
vocabulary lacks; bits per byte of the text then count bytes that the model never had to predict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptcli.tokenizer.encode import TableEncoder, encoded
from gptcli.tokenizer.tokenizer import Tokenizer

WITHHELD_SHARE = 0.001
"""The largest lost part of a text whose bits per byte can be compared with those of other tokenizers."""
PIECE_CHARACTERS = 1 << 16
"""Characters of the pieces in which a text is measured, at most."""
WHOLE_CHARACTERS = 1 << 18
"""Characters of a text that are all measured; of the rest, one piece in SAMPLING is."""
SAMPLING = 32
SEGMENT_CHARACTERS = 256
"""Characters of the segments, about, in which a piece is compared with its decoded tokens."""
CONTEXT_TOKENS = 8
"""Tokens before a segment that are decoded with it: decoders treat the beginning of a text differently."""


@dataclass(frozen=True)
class LostText:
    """Counts for a text of `text_bytes` UTF-8 bytes, of which `measured_bytes` were encoded and decoded, and
    `lost_bytes` of these lost.
    """

    lost_bytes: int = 0
    measured_bytes: int = 0
    text_bytes: int = 0

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> LostText:
        """Return the counts that `as_json` wrote."""
        return cls(*(int(values[name]) for name in ("lost_bytes", "measured_bytes", "text_bytes")))

    def as_json(self) -> dict[str, Any]:
        """Return the counts as JSON."""
        return {
            "lost_bytes": self.lost_bytes,
            "measured_bytes": self.measured_bytes,
            "text_bytes": self.text_bytes,
            "share": self.share,
        }

    def __add__(self, other: LostText) -> LostText:
        return LostText(
            self.lost_bytes + other.lost_bytes,
            self.measured_bytes + other.measured_bytes,
            self.text_bytes + other.text_bytes,
        )

    @property
    def share(self) -> float:
        """The lost part of the measured bytes."""
        return self.lost_bytes / max(1, self.measured_bytes)

    @property
    def is_withheld(self) -> bool:
        """Whether bits per byte of this text are not shown."""
        return self.share > WITHHELD_SHARE

    def words(self, text: str) -> str:
        """Return a sentence about what is lost of the text that `text` names, or an empty text if nothing is."""
        if not self.lost_bytes:
            return ""
        share = f"{100 * self.share:.2g} %" if self.share >= 1e-5 else "less than 0.001 %"
        measured = f", measured on {self.measured_bytes:,} bytes of it" if self.measured_bytes < self.text_bytes else ""
        consequence = "so its bits per byte cannot be compared" if self.is_withheld else "so its bits per byte are off"
        return f"the tokenizer loses {share} of {text} ({self.lost_bytes:,} bytes{measured}), {consequence}"


NOTHING_LOST = LostText()


class LostTextMeter:
    """Measures what a tokenizer loses of a text that comes in parts: a short text is measured whole, a long one
    sampled.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.found = LostText()
        self.seen = self.measured = 0

    def add(self, text: str, size: int) -> LostText:
        """Measure a part of the text, of `size` UTF-8 bytes, and return what is lost of it."""
        part = LostText(0, size, size) if self.tokenizer.is_lossless else self.measure(text, size)
        self.found += part
        return part

    def measure(self, text: str, size: int) -> LostText:
        """Return what is lost of a part, without adding it to the whole."""
        part = LostText(text_bytes=size)
        for piece in pieces(text):
            if self.measured < WHOLE_CHARACTERS or self.measured * SAMPLING <= self.seen:
                part += LostText(lost_bytes(self.tokenizer, piece), len(encoded(piece, "utf-8")))
                self.measured += len(piece)
            self.seen += len(piece)
        return part


def pieces(text: str) -> Iterator[str]:
    """Iterate over `text` in pieces of at most PIECE_CHARACTERS, cut after white space where there is some."""
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        limit = start + PIECE_CHARACTERS
        spaces = (place for place in range(limit, start, -1) if text[place - 1].isspace())
        end = next(spaces, limit)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def lost_bytes(tokenizer: Tokenizer, text: str) -> int:
    """Return the UTF-8 bytes of the characters of `text` that do not survive encoding and decoding, in their order.

    An unknown token counts as nothing, however it is written.
    """
    if isinstance(tokenizer.encoder, TableEncoder):  # each character is one token
        unknown = tokenizer.encode_batch([text])[0] == tokenizer.unk_id
        return sum(len(text[place].encode()) for place in np.flatnonzero(unknown))
    encoding = tokenizer.encoding(text)
    ids, offsets = encoding.ids, encoding.offsets
    if tokenizer.unk_id not in ids and tokenizer.decode(ids) == text:
        return 0
    lost, first, start = 0, 0, 0
    for number, (begin, _) in enumerate(offsets):
        if begin - start < SEGMENT_CHARACTERS or offsets[number - 1][1] > begin:
            continue
        decoded = decoded_after(tokenizer, ids, first, number)
        if decoded is not None:
            lost += unmatched_bytes(text[start:begin], decoded)
            first, start = number, begin
    decoded = decoded_after(tokenizer, ids, first, len(ids))
    rest = decoded if decoded is not None else known_text(tokenizer, ids[first:])
    return lost + unmatched_bytes(text[start:], rest)


def decoded_after(tokenizer: Tokenizer, ids: list[int], start: int, stop: int) -> str | None:
    """Return the text that ids start..stop-1 add to that of the ids before them, or None if they change that text."""
    context = ids[max(0, start - CONTEXT_TOKENS) : start]
    before = known_text(tokenizer, context)
    whole = known_text(tokenizer, context + ids[start:stop])
    return whole[len(before) :] if whole.startswith(before) else None


def known_text(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Return the text of the ids that are not unknown."""
    return tokenizer.decode([id for id in ids if id != tokenizer.unk_id])


def unmatched_bytes(text: str, other: str) -> int:
    """Return the UTF-8 bytes of the characters of `text` that are not in a longest common subsequence of both texts.

    This is the bit-parallel algorithm of Crochemore et al. (2001): bit i of `free` is 0 where the i-th character
    lengthens the common subsequence.
    """
    if text == other:
        return 0
    places: dict[str, int] = {}
    for place, character in enumerate(text):
        places[character] = places.get(character, 0) | 1 << place
    every = (1 << len(text)) - 1
    free = every
    for character in other:
        matching = places.get(character, 0) & free
        free = ((free + matching) | (free - matching)) & every
    if text.isascii():
        return free.bit_count()
    return sum(len(character.encode()) for place, character in enumerate(text) if free >> place & 1)
