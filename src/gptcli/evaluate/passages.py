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
    document; `peak` is the text of its most surprising token and `peak_nats` that token's loss.
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
            peak = int(losses[start:stop].argmax())
            passage = Passage(
                loss=loss,
                source=source,
                document=document,
                position=first,
                tokens=stop - start,
                before=self.text(ids[max(0, first - AROUND_TOKENS) : first]),
                text=self.text(ids[first:end]),
                after=self.text(ids[end : end + AROUND_TOKENS]),
                peak=self.tokenizer.token_text(int(ids[first + peak])),
                peak_nats=float(losses[start + peak]),
            )
            # Ties are won by the passage seen first, as in a stable sort.
            push = heapq.heappush if len(self.heap) < self.count else heapq.heappushpop
            push(self.heap, (loss, -self.seen, passage))

    def text(self, ids: np.ndarray) -> str:
        return self.tokenizer.decode(ids)

    def passages(self) -> tuple[Passage, ...]:
        """Most surprising first."""
        return tuple(passage for _, _, passage in sorted(self.heap, key=lambda item: item[:2], reverse=True))


def passage_edges(length: int) -> list[int]:
    """Where the passages of `length` scored tokens begin, and the end."""
    starts = list(range(0, length, PASSAGE_TOKENS))
    if len(starts) > 1 and length - starts[-1] < SHORTEST_TAIL:
        starts.pop()
    return [*starts, length]
