"""The overlap of a validation split with the training split, counted in sequences of tokens (n-grams).

A validation n-gram counts as seen when the same tokens occur anywhere in the training split: the usual measure of
contamination between training and test data (Brown et al., "Language Models are Few-Shot Learners", 2020, appendix C,
with 13-grams). A sample of the validation n-grams is hashed, and the training tokens are compared with it in one
reading, so that memory does not grow with either split. Both splits are sampled by the same hash of an n-gram's first
two tokens, so that most training tokens cost one multiplication and a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptcli import strict_json
from gptcli.data.arrays import distinct
from gptcli.data.permutation import derive, mix
from gptcli.data.shards import READ_TOKENS, TokenShards
from gptcli.storage import read_regular, write_file

NGRAM_TOKENS = 13
NGRAM_BYTES = 50
"""The least text of an n-gram, which is longer than NGRAM_TOKENS if necessary: 13 characters are only a phrase."""
SAMPLED = 1 << 15
"""The approximate number of validation n-grams in the sample; all of them if there are fewer."""
LEAST_SAMPLED = 1 << 10
LOOKED_UP = 1 << 22
"""The approximate number of training n-grams that are looked up, if LEAST_SAMPLED allows."""
BLOCK = 1 << 16
"""The tokens that are hashed at once, which fit in the cache of a processor."""
FILTER_BITS = 20
WARN_SHARE = 0.2
"""The least share with a warning that the validation loss is lower than on new text."""
OVERLAP = "overlap.json"

SEED = np.array([0x0E71A9], dtype=np.uint64)
FIRST, SECOND = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77)


@dataclass(frozen=True)
class Overlap:
    """Overlap counts: of `sampled` validation n-grams, `found` occur in the training split, both with repetitions."""

    ngram_tokens: int
    sampled: int
    found: int

    @property
    def share(self) -> float | None:
        """The estimated share of the validation split's n-grams; None if no document is as long as an n-gram."""
        return self.found / self.sampled if self.sampled else None

    def as_json(self) -> dict[str, Any]:
        """Return the counts and the share as JSON can write them."""
        return {"share": self.share, **asdict(self)}


def measure_overlap(vals: Sequence[TokenShards], trains: Sequence[TokenShards]) -> list[Overlap]:
    """Measure the overlap of each validation split with all training splits together, of one tokenizer.

    Raises:
        DataError: A file of tokens is damaged.
    """
    length = ngram_length(vals)
    shift = sampling_shift(sum(map(len, vals)), sum(map(len, trains)))
    samples = [np.concatenate([np.empty(0, np.uint64), *validation_hashes(val, length, shift)]) for val in vals]
    wanted = distinct(np.concatenate(samples))
    found = np.zeros(len(wanted), dtype=bool)
    if len(wanted):
        known = np.zeros(1 << FILTER_BITS, dtype=bool)
        known[filter_places(wanted)] = True
        for train in trains:
            for _, hashes in sampled_ngrams(train, length, shift):
                hashes = hashes[known[filter_places(hashes)]]
                places = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
                found[places[wanted[places] == hashes]] = True
    return [
        Overlap(length, len(sample), int(found[np.searchsorted(wanted, sample)].sum()) if len(sample) else 0)
        for sample in samples
    ]


def ngram_length(vals: Sequence[TokenShards]) -> int:
    """Return the tokens of an n-gram: NGRAM_TOKENS, or as many as have NGRAM_BYTES on average."""
    tokens, size = sum(map(len, vals)), sum(val.bytes for val in vals)
    return max(NGRAM_TOKENS, math.ceil(NGRAM_BYTES * tokens / max(1, size)))


def sampling_shift(val_tokens: int, train_tokens: int) -> int:
    """Return the shift by which one n-gram in 2^shift is sampled."""
    wanted = max(val_tokens / SAMPLED, min(train_tokens / LOOKED_UP, val_tokens / LEAST_SAMPLED))
    return max(0, math.ceil(math.log2(max(1.0, wanted))))


def sampled_ngrams(shards: TokenShards, length: int, shift: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (places in the stream, hashes) (N,) of the sampled n-grams of a split, including those across documents."""
    factors = derive(SEED, np.arange(length)) | np.uint64(1)
    for start in range(0, len(shards), READ_TOKENS):
        tokens = shards.read(start, min(start + READ_TOKENS + length - 1, len(shards)))
        for first in range(0, len(tokens) - length + 1, BLOCK):
            block = tokens[first : first + BLOCK + length - 1]
            places = chosen(block[: len(block) - length + 2].astype(np.uint32), shift)
            hashes = np.zeros(len(places), dtype=np.uint64)
            for offset, factor in enumerate(factors):
                hashes += block[places + offset] * factor
            yield start + first + places, mix(hashes)


def chosen(tokens: np.ndarray, shift: int) -> np.ndarray:
    """tokens (N,) uint32 -> places < N - 1 of the tokens that are sampled, each with its successor."""
    if not shift:
        return np.arange(len(tokens) - 1)
    return np.flatnonzero(tokens[:-1] * FIRST + tokens[1:] * SECOND < np.uint32(1 << (32 - shift)))


def validation_hashes(val: TokenShards, length: int, shift: int) -> Iterator[np.ndarray]:
    """Yield hashes of the sampled n-grams within one document of `val`."""
    starts = val.document_starts.astype(np.int64)
    ends = np.append(starts[1:], len(val))
    first, last = starts + len(val.framing.before), ends - len(val.framing.after)
    for places, hashes in sampled_ngrams(val, length, shift):
        documents = np.searchsorted(starts, places, side="right") - 1
        yield hashes[(places >= first[documents]) & (places + length <= last[documents])]


def filter_places(hashes: np.ndarray) -> np.ndarray:
    """Return the entries (N,) of hashes (N,) in a filter of 2^FILTER_BITS entries."""
    return (hashes >> np.uint64(64 - FILTER_BITS)).astype(np.int64)


def write_overlap(folder: Path, vals: Sequence[TokenShards], trains: Sequence[TokenShards]) -> None:
    """Measure the overlap and write it beside the tokens in `folder`."""
    each = measure_overlap(vals, trains)
    total = Overlap(each[0].ngram_tokens, sum(one.sampled for one in each), sum(one.found for one in each))
    kept = {"total": total.as_json(), "each": [one.as_json() for one in each]}
    write_file(folder / OVERLAP, strict_json.dumps(kept, indent=2) + "\n")


def read_overlap(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the overlap that `write_overlap` has written: of all validation splits together, and of each."""
    kept = strict_json.parse(read_regular(folder / OVERLAP).decode())
    return kept["total"], kept["each"]


def recorded_overlap(report: Path) -> dict[str, Any] | None:
    """Return the overlap that the data.json of a run records; None if there is no such file or record."""
    try:
        overlap = strict_json.parse(read_regular(report))["ngram_overlap"]
        return overlap if {"share", "sampled", "found", "ngram_tokens"} <= overlap.keys() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def overlap_words(overlap: Mapping[str, Any], thing: str = "document") -> str:
    """Return the overlap of a report in words; `thing` is what the splits consist of."""
    length, share = overlap["ngram_tokens"], overlap["share"]
    if share is None:
        return f"not known: no validation {thing} has {length} tokens"
    return f"{percent(share)} of the validation split's sequences of {length} tokens occur in the training split too"


def is_of_examples(report: Mapping[str, Any]) -> bool:
    """Return whether a report of prepared data is of examples."""
    return "examples" in report or any("examples" in part for part in report.get("mix", ()))


def percent(share: float) -> str:
    """Return an estimated share in words, without false precision."""
    return "less than 0.1 %" if 0 < share < 0.001 else f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def overlap_warning(report: Mapping[str, Any]) -> str | None:
    """Return the warning about the overlap in a report of prepared data; None if the overlap is small."""
    overlap = report["ngram_overlap"]
    if (overlap["share"] or 0) < WARN_SHARE:
        return None
    if is_of_examples(report):  # which have no near-duplicates, and often common phrases
        remedies = [] if "mix" in report else ["validate on other examples: --set data.val=PATH"]
        remedy = ", or ".join([*remedies, "compare exact match on examples of your own: gptcli eval RUN FILE"])
        return f"{overlap_words(overlap)}, so the validation loss is lower than it would be on new examples ({remedy})"
    can_group = report["deduplicate"] in ("exact", "none")
    remedies = ["keep near-duplicates together: --set data.deduplicate=near"] if can_group else []
    remedies += [] if "mix" in report else ["validate on another text: --set data.val=PATH"]
    remedy = ", or ".join(remedies) or "remove near-duplicate documents"
    return f"{overlap_words(overlap)}, so the validation loss is lower than it would be on new text ({remedy})"
