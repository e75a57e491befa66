"""The counts of examples: what was read, left out, cut and learnt, for data.json, the first screen and inspections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gptcli.console import quantity
from gptcli.data.examples.sequences import ExampleSequences
from gptcli.data.overlap import percent
from gptcli.data.shards import TokenShards

PERCENTILES = (50, 90, 99)
LEFT_OUT = {
    "duplicates": "equal to an earlier one",
    "empty_answers": "with an empty answer",
    "no_answer": "without an answer",
    "too_long": "too long",
    "undecided": "with equal answers",
    "validated_on": "with a prompt that is validated on",
}
"""The reasons for which examples are left out, in words."""


class SplitCounts(NamedTuple):
    """The counts of one split."""

    examples: int
    tokens: int
    tokens_in_loss: int
    sequences: int
    """The rows into which the examples are packed."""
    filled: float
    """The part of all places in these rows that is not padding."""

    @classmethod
    def of(cls, shards: TokenShards, seq_len: int) -> SplitCounts:
        """Return the counts of a split that is packed into rows of `seq_len`."""
        packed = ExampleSequences(shards, seq_len, seed=0)
        units = shards.documents // shards.unit_documents
        return cls(units, len(shards), shards.targets, packed.sequences_per_epoch, packed.filled)


@dataclass
class ExampleCounts:
    """The counts of the rows of a corpus of examples."""

    rows: int = 0
    empty_answers: int = 0
    """Rows left out since an answer of the assistant says nothing, or nothing that the template writes."""
    no_answer: int = 0
    """Rows left out since the assistant says nothing that is learnt."""
    out_of_order: int = 0
    """Examples in which the roles are out of the usual order, which are learnt as they are."""
    empty_prompts: int = 0
    """Examples in which the user says nothing, which are learnt as they are."""
    cut: int = 0
    """Examples that are longer than the context, of which the end is not learnt."""
    too_long: int = 0
    """Examples left out since they are longer than the context."""
    undecided: int = 0
    """Preferences left out since both answers are the same."""
    lengths: Counter[int] = field(default_factory=Counter)
    """The examples by their number of tokens before they are cut."""

    @property
    def unusable(self) -> int:
        """The number of rows that are left out."""
        return self.empty_answers + self.no_answer + self.too_long + self.undecided

    def add(self, other: ExampleCounts) -> None:
        """Add the counts of other rows."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)

    def length_report(self) -> dict[str, int]:
        """Return percentiles of the tokens of an example, and the most, before any is cut."""
        if not self.lengths:
            return {}
        lengths, numbers = (np.array(values) for values in zip(*sorted(self.lengths.items()), strict=True))
        ends = np.cumsum(numbers)
        places = [int(np.searchsorted(ends, part / 100 * ends[-1])) for part in PERCENTILES]
        found = {f"p{part}": int(lengths[place]) for part, place in zip(PERCENTILES, places, strict=True)}
        return found | {"longest": int(lengths[-1])}


class CorpusFigures(NamedTuple):
    """The figures of a whole corpus of examples."""

    loss_on: str
    """The tokens in the loss, as `data.loss_on`, or answers for preferences."""
    context: int
    """The tokens of a sequence."""
    duplicates: int
    validated_on: int
    """Examples left out of training since their prompt is validated on."""
    known_answers: int
    """Validation examples whose last answer occurs in training too."""


REPORT_FIELDS = (*ExampleCounts.__dataclass_fields__, *SplitCounts._fields, *CorpusFigures._fields, *PERCENTILES)
"""All that decides which fields an `example_report` has."""


def example_report(
    counts: ExampleCounts, train: SplitCounts, val: SplitCounts, corpus: CorpusFigures
) -> dict[str, Any]:
    """Return the report of the examples of a corpus, as `data.json` has it under "examples"."""
    counted = {name: count for name, count in vars(counts).items() if name != "lengths"}
    splits = {"train": train._asdict(), "val": val._asdict()}
    return {**counted, "tokens": counts.length_report(), **splits, **corpus._asdict()}


def example_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the report of examples in words, a line each: what is learnt, what is left out, how it is packed."""
    train, val, tokens = report["train"], report["val"], report["tokens"]
    lines = [
        f"{train['tokens_in_loss']:,} of {quantity(train['tokens'], 'token')} are in the loss "
        f"({loss_words(report['loss_on'])}), {val['tokens_in_loss']:,} of {val['tokens']:,} in validation",
        f"{tokens['p50']:,} tokens at the median, {tokens['p90']:,} at 90 %, {tokens['p99']:,} at 99 %, "
        f"{tokens['longest']:,} at most; packed into {quantity(train['sequences'], 'sequence')} of "
        f"{report['context']:,}, {100 * train['filled']:.0f} % filled",
    ]
    if left_out := left_out_words(report):
        lines.append(f"left out: {left_out}")
    if report["out_of_order"]:
        lines.append(
            f"{quantity(report['out_of_order'], 'example')} with roles out of order (such as two turns of the user in "
            "a row), learnt as they are"
        )
    if report.get("empty_prompts"):  # of data prepared before, it is not known
        lines.append(
            f"{quantity(report['empty_prompts'], 'example')} in which a message of the user is empty or none is there, "
            "learnt as they are"
        )
    if report["cut"]:
        lines.append(f"{quantity(report['cut'], 'example')} cut to the context of {report['context']:,} tokens")
    if report["known_answers"]:
        share = percent(report["known_answers"] / max(1, val["examples"]))
        lines.append(f"{share} of the answers that are validated on occur in training too")
    return lines


def left_out_words(counts: Mapping[str, Any]) -> str:
    """Return how many examples are left out for each reason; `counts` has those that are not zero by their names."""
    return ", ".join(f"{counts[name]:,} {words}" for name, words in LEFT_OUT.items() if counts.get(name))


def loss_words(loss_on: str) -> str:
    """Return the name of the tokens in the loss."""
    return {
        "assistant": "of the assistant's messages",
        "completion": "of the last answer of each",
        "answers": "of the answers",
        "all": "all but the first of each",
    }[loss_on]
