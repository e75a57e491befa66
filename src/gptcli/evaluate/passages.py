"""The passages of highest loss. They are found by ids and losses, and only those that are shown are decoded."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gptcli.tokenizer.tokenizer import Tokenizer

PASSAGE_TOKENS = 64
SHORTEST_TAIL = 32
"""A rest at the end of a document that is shorter than this joins the passage before it."""
AROUND_TOKENS = 32


@dataclass(frozen=True)
class Passage:
    """Consecutive tokens of a document with their mean loss in nats, and the text around them.

    Attributes:
        document: the number of the document in `source`, from 1.
        position: the number of the passage's first token in the document, from 0.
        before, text, after: texts that begin and end with whole characters.
        peak: the text of the token of highest loss, or of the characters that it is a part of.
        peak_nats: the loss of that token.
    """

    loss: float
    source: str
    document: int
    position: int
    tokens: int
    before: str
    text: str
    after: str
    peak: str
    peak_nats: float


class WorstPassages:
    """The `count` passages of highest mean loss of all documents considered."""

    def __init__(self, count: int, tokenizer: Tokenizer) -> None:
        self.count, self.tokenizer = count, tokenizer
        self.considered = 0
        self.heap: list[tuple[float, int, Passage]] = []

    def consider(self, source: str, document: int, ids: np.ndarray, losses: np.ndarray) -> None:
        """Consider the passages of a document; `losses` (M,) belong to the last M of `ids`."""
        if not self.count:
            return
        unscored = len(ids) - len(losses)
        edges = passage_edges(len(losses))
        for start, stop in pairwise(edges):
            loss = float(losses[start:stop].mean())
            self.considered += 1
            if len(self.heap) == self.count and loss <= self.heap[0][0]:
                continue
            first, end = unscored + start, unscored + stop
            peak = start + int(losses[start:stop].argmax())
            left, right = self.character_start(ids, first), self.character_end(ids, end)
            passage = Passage(
                loss=loss,
                source=source,
                document=document,
                position=first,
                tokens=stop - start,
                before=self.text(ids[self.character_start(ids, max(0, left - AROUND_TOKENS)) : left]),
                text=self.text(ids[left:right]),
                after=self.text(ids[right : self.character_end(ids, right + AROUND_TOKENS)]),
                peak=self.token_text(ids, unscored + peak),
                peak_nats=float(losses[peak]),
            )
            # The earlier of two equal passages is kept, as in a stable sort.
            push = heapq.heappush if len(self.heap) < self.count else heapq.heappushpop
            push(self.heap, (loss, -self.considered, passage))

    def text(self, ids: np.ndarray) -> str:
        """Return the text of ids (N,)."""
        return self.tokenizer.decode(ids)

    def token_text(self, ids: np.ndarray, place: int) -> str:
        """Return the text of the token at `place`, with the characters that it is a part of whole."""
        left, right = self.character_start(ids, place), self.character_end(ids, place + 1)
        text = self.text(ids[left:right])
        return text if text and "\ufffd" not in text else self.tokenizer.token_text(int(ids[place]))

    def character_start(self, ids: np.ndarray, place: int) -> int:
        """Return the place at or before `place` where a character begins; `place` if none is near."""
        return next((p for p in range(place, max(-1, place - 4), -1) if self.is_boundary(ids, p)), place)

    def character_end(self, ids: np.ndarray, place: int) -> int:
        """Return the place at or after `place` where a character begins; `place` if none is near."""
        return next((p for p in range(place, min(len(ids), place + 3) + 1) if self.is_boundary(ids, p)), place)

    def is_boundary(self, ids: np.ndarray, place: int) -> bool:
        """Return whether the token at `place` begins without a continuation byte of UTF-8 (10xxxxxx)."""
        if not self.tokenizer.is_byte_level or not 0 < place < len(ids):
            return True
        first = self.tokenizer.bytes_of_id.get(int(ids[place]), b"")[:1]
        return not first or first[0] & 0xC0 != 0x80

    def passages(self) -> tuple[Passage, ...]:
        """Return the passages, highest loss first."""
        return tuple(passage for _, _, passage in sorted(self.heap, key=lambda item: item[:2], reverse=True))


def passage_edges(length: int) -> list[int]:
    """Return the beginnings of the passages of `length` scored tokens, and the end."""
    starts = list(range(0, length, PASSAGE_TOKENS))
    if len(starts) > 1 and length - starts[-1] < SHORTEST_TAIL:
        starts.pop()
    return [*starts, length]
