"""Verbatim copies: the spans of a text that stand in the training text word for word, and how many are to be expected.

A span is a longest match (`gptcli.data.suffix_array`) of at least `least` tokens; spans are taken from left to right
and do not overlap. Text that the model has never seen shares phrases with the training text too: names, quotations,
common turns. So the share of the validation text that stands in the training text is measured in the same way, and only
what exceeds it counts as copying.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gptcli.data.shards import TokenShards
from gptcli.data.suffix_array import SuffixArray
from gptcli.data.token_mix import TokenMix
from gptcli.evaluate.statistics import Uncertainty, bootstrap_ratio

SPAN_BYTES = 50
"""The bytes of text that a span has at least, on average: about ten words. Shorter phrases are common to all texts of a
kind; substrings of 50 characters were also what the authors of GPT-4 counted as contamination (OpenAI, "GPT-4 Technical
Report", 2023, appendix C)."""
FEWEST_TOKENS = 8
BASELINE_TOKENS = 50_000
"""Validation tokens that are searched, from the first document on."""


class CopiedSpan(NamedTuple):
    """Tokens `start` to `stop` - 1 of a text, which stand in the training text, and where, as the index says."""

    start: int
    stop: int
    place: int


@dataclass(frozen=True)
class CopiedShare:
    """How many of the tokens of some texts are in copied spans."""

    counts: tuple[tuple[int, int], ...] = ()
    """The copied tokens and all tokens of each text."""
    longest: int = 0
    """The tokens of the longest span."""

    @property
    def copied(self) -> int:
        """The copied tokens of all texts."""
        return sum(copied for copied, _ in self.counts)

    @property
    def tokens(self) -> int:
        """The tokens of all texts."""
        return sum(tokens for _, tokens in self.counts)

    @property
    def uncertainty(self) -> Uncertainty | None:
        """The uncertainty of the share if the texts are a random sample; None for fewer than two."""
        counts = np.array(self.counts, dtype=np.float64).reshape(-1, 2)
        return bootstrap_ratio(counts[:, 0], counts[:, 1], "texts")

    @property
    def share(self) -> float:
        """The copied part of the tokens; 0 of none."""
        return self.copied / self.tokens if self.tokens else 0.0

    def report(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        found = self.uncertainty
        return {
            "share": self.share,
            "interval": None if found is None else [found.low, found.high],
            "texts": len(self.counts),
            "copied_tokens": self.copied,
            "tokens": self.tokens,
            "longest": self.longest,
        }

    def __str__(self) -> str:
        found = self.uncertainty
        return f"{self.share:.1%}" + ("" if found is None else f" ({found.low:.1%} to {found.high:.1%})")


@dataclass(frozen=True)
class CopyReport:
    """The copied spans of several texts, their share of the tokens, and the same share of the validation text."""

    least: int
    """The fewest tokens of a span."""
    sampled: float
    """The share of the training tokens that were searched."""
    spans: list[list[CopiedSpan]]
    """The spans of each text."""
    texts: CopiedShare
    baseline: CopiedShare

    @property
    def excess(self) -> float:
        """The share of the texts that is copied beyond what the validation text shares: 0 or more."""
        return max(0.0, self.texts.share - self.baseline.share)

    def report(self) -> dict[str, Any]:
        """Return the figures for JSON, without the spans."""
        return {
            "least_tokens": self.least,
            "searched_share": self.sampled,
            "texts": self.texts.report(),
            "validation": self.baseline.report(),
            "excess": self.excess,
        }


def fewest_tokens(tokens: TokenMix) -> int:
    """Return the tokens that SPAN_BYTES of the training text have on average, at least FEWEST_TOKENS."""
    size = sum(part.bytes for part in tokens.parts)
    return max(FEWEST_TOKENS, math.ceil(SPAN_BYTES * len(tokens) / max(1, size)))


def copied_spans(index: SuffixArray, ids: np.ndarray, least: int) -> list[CopiedSpan]:
    """Return the longest spans of `ids`, (N,), that stand in the indexed text, from left to right."""
    lengths, places = index.longest(ids)
    spans, position = [], 0
    for start in np.flatnonzero(lengths >= least):
        if start >= position:
            position = int(start + lengths[start])
            spans.append(CopiedSpan(int(start), position, int(places[start])))
    return spans


def share_of(spans: Iterable[CopiedSpan], tokens: int) -> CopiedShare:
    """Return the share of a text of so many tokens that is in the spans."""
    sizes = [span.stop - span.start for span in spans]
    return CopiedShare(((sum(sizes), tokens),), max(sizes, default=0))


def baseline_of(index: SuffixArray, val: TokenShards, least: int, window: int) -> CopiedShare:
    """Return what the first BASELINE_TOKENS of the validation documents share with the indexed text.

    The documents are cut into windows, since a cut shortens the spans at both ends of a text; a rest that is shorter
    than a window is left out.
    """
    shares: list[CopiedShare] = []
    tokens = 0
    for number in range(val.documents):
        ids = val.document(number)
        for start in range(0, max(1, len(ids) - window + 1), window):
            part = ids[start : start + window]
            shares.append(share_of(copied_spans(index, part, least), len(part)))
            tokens += len(part)
        if tokens >= BASELINE_TOKENS:
            break
    return joined(shares)


def joined(shares: Sequence[CopiedShare]) -> CopiedShare:
    """Return the share of all texts together."""
    return CopiedShare(
        tuple(count for share in shares for count in share.counts), max((share.longest for share in shares), default=0)
    )


def find_copies(index: SuffixArray, texts: Iterable[np.ndarray], val: TokenShards, least: int) -> CopyReport:
    """Compare texts, each the ids of its tokens, and validation text of their mean length with the indexed text."""
    spans, each = [], []
    for ids in texts:
        spans.append(copied_spans(index, ids, least))
        each.append(share_of(spans[-1], len(ids)))
    shares = joined(each)
    window = max(least, shares.tokens // max(1, len(spans)))
    return CopyReport(least, index.sampled, spans, shares, baseline_of(index, val, least, window))
