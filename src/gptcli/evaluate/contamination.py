"""Contamination: the part of an evaluated text that the run was trained on.

It is estimated by the sketch of the training text, or by n-grams for the validation split. A text that was trained on
has a far lower loss than new text, which is no measure of the model on new text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.data.corpus import Document
from gptcli.data.overlap import WARN_SHARE, percent, recorded_overlap
from gptcli.data.sketch import NOTHING_KNOWN, SKETCH, WINDOW_BYTES, TextSketch
from gptcli.manifest import require_unchanged

FEWEST = 16
"""The number of sampled passages below which the estimate is too uncertain to report."""


@dataclass(frozen=True)
class Contamination:
    """The passages of a text that are in the training text.

    Attributes:
        sampled: the number of sampled passages.
        found: how many of them are in the training text.
        unit: what a passage is, in words.
        reason: why the share is unknown; empty if it is known.
        files: the share of each source, None if it is unknown.
    """

    sampled: int = 0
    found: int = 0
    unit: str = ""
    reason: str = "there is no sketch of the text that this model was trained on"
    files: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def share(self) -> float | None:
        """The estimated share of the text that was trained on, or None."""
        return None if self.reason else self.found / self.sampled

    @property
    def read_files(self) -> list[str]:
        """The sources whose share is so large that their scores are not those of new text."""
        return [name for name, share in self.files.items() if (share or 0) >= WARN_SHARE]

    @property
    def is_much(self) -> bool:
        """True if the share of the text, or of one of its files, is that large."""
        return (self.share or 0) >= WARN_SHARE or bool(self.read_files)

    def words(self) -> str:
        """Return the share and how it is estimated, or why it is not known."""
        if self.share is None:
            return f"not known: {self.reason}"
        return f"about {percent(self.share)} of this text ({self.found:,} of {self.sampled:,} sampled {self.unit})"

    def warning(self) -> str:
        """Return the warning about the scores of a text with a large share."""
        names = self.read_files
        which = f", most of it in {', '.join(names[:3])}{' ...' * (len(names) > 3)}" if len(self.files) > 1 else ""
        return f"this run has read {self.words()} in training{which}: these scores are not those of new text"

    def as_json(self) -> dict[str, Any]:
        """Return the share and what it is estimated from, or the reason why it is not known."""
        return {
            "share": self.share,
            "sampled": self.sampled,
            "found": self.found,
            "unit": self.unit or None,
            "reason": self.reason or None,
        }


UNKNOWN_CONTAMINATION = Contamination()


class ContaminationCounter:
    """Looks up the passages of documents in the sketch of a run's training text.

    Raises:
        CheckpointError: the sketch is damaged.
    """

    def __init__(self, run: RunDirectory | None) -> None:
        if run is not None:
            require_unchanged(run.path, SKETCH)
        self.sketch = TextSketch.open(run.path / SKETCH) if run else NOTHING_KNOWN
        self.counts: dict[str, tuple[int, int]] = {}

    def watch(self, documents: Iterator[Document]) -> Iterator[Document]:
        """Count the passages of each document and yield it."""
        for document in documents:
            sampled, found = (int(count[0]) for count in self.sketch.recognise([document.text]))
            before = self.counts.get(document.source, (0, 0))
            self.counts[document.source] = (before[0] + sampled, before[1] + found)
            yield document

    def contamination(self) -> Contamination:
        """Return the counts of all documents so far."""
        if not self.sketch.limit:
            return UNKNOWN_CONTAMINATION
        sampled, found = (sum(count[part] for count in self.counts.values()) for part in (0, 1))
        files = {name: (of / out_of if out_of >= FEWEST else None) for name, (out_of, of) in self.counts.items()}
        reason = "" if sampled >= FEWEST else "the text is too short for an estimate"
        return Contamination(sampled, found, f"passages of {WINDOW_BYTES} bytes", reason, files)


def validation_contamination(run: RunDirectory) -> Contamination:
    """Return the overlap of the run's validation split with its training split, as data.json records it."""
    overlap = recorded_overlap(run.path / "data.json")
    if not overlap or overlap["share"] is None:
        return Contamination(reason="data.json of the run does not record it")
    return Contamination(overlap["sampled"], overlap["found"], f"sequences of {overlap['ngram_tokens']} tokens", "")
