"""The passages that a model finds most surprising. Knows ids and their losses, and decodes only what it shows."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gptcli.tokenizer.tokenizer import Tokenizer

PASSAGE_TOKENS = 64
SHORTEST_TAIL = 32
"""What is left at the end of a document joins the passage before it when it is shorter than this."""
AROUND_TOKENS = 32


@dataclass(frozen=True)
class Passage:
    """`tokens` consecutive tokens of a document, their mean loss in nats, and the text around them.

    `document` counts the documents of `source` from 1; `position` is the passage's first token, counted from 0 in the
    document. `before`, `text` and `after` begin and end with whole characters. `peak` is the text of the most
    surprising token, or of the characters of which that token is a part; `peak_nats` is that token's loss.
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
    """Keeps the `count` passages of highest mean loss of all documents shown to it."""

    def __init__(self, count: int, tokenizer: Tokenizer) -> None:
        self.count, self.tokenizer = count, tokenizer
        self.seen = 0
        self.heap: list[tuple[float, int, Passage]] = []

    def consider(self, source: str, document: int, ids: np.ndarray, losses: np.ndarray) -> None:
        """Cut a document into passages; `losses` (M,) are of the last M of `ids`, what precedes them is not scored."""
        if not self.count:
            return
        unscored = len(ids) - len(losses)
        edges = passage_edges(len(losses))
        for start, stop in pairwise(edges):
            loss = float(losses[start:stop].mean())
            self.seen += 1
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
            # Ties are won by the passage seen first, as in a stable sort.
            push = heapq.heappush if len(self.heap) < self.count else heapq.heappushpop
            push(self.heap, (loss, -self.seen, passage))

    def text(self, ids: np.ndarray) -> str:
        return self.tokenizer.decode(ids)

    def token_text(self, ids: np.ndarray, place: int) -> str:
        """The token at `place` for display: the whole characters of which it is a part."""
        left, right = self.character_start(ids, place), self.character_end(ids, place + 1)
        text = self.text(ids[left:right])
        return text if text and "\ufffd" not in text else self.tokenizer.token_text(int(ids[place]))

    def character_start(self, ids: np.ndarray, place: int) -> int:
        """The place at or before `place` where a character begins; `place` itself where none is near."""
        return next((p for p in range(place, max(-1, place - 4), -1) if self.is_boundary(ids, p)), place)

    def character_end(self, ids: np.ndarray, place: int) -> int:
        """The place at or after `place` where a character begins; `place` itself where none is near."""
        return next((p for p in range(place, min(len(ids), place + 3) + 1) if self.is_boundary(ids, p)), place)

    def is_boundary(self, ids: np.ndarray, place: int) -> bool:
        """Whether the token at `place` does not begin with a continuation byte of UTF-8 (10xxxxxx)."""
        if not self.tokenizer.is_byte_level or not 0 < place < len(ids):
            return True
        first = self.tokenizer.bytes_of_id.get(int(ids[place]), b"")[:1]
        return not first or first[0] & 0xC0 != 0x80

    def passages(self) -> tuple[Passage, ...]:
        """Most surprising first."""
        return tuple(passage for _, _, passage in sorted(self.heap, key=lambda item: item[:2], reverse=True))


def passage_edges(length: int) -> list[int]:
    """Where the passages of `length` scored tokens begin, and the end."""
    starts = list(range(0, length, PASSAGE_TOKENS))
    if len(starts) > 1 and length - starts[-1] < SHORTEST_TAIL:
        starts.pop()
    return [*starts, length]
