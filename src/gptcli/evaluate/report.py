"""The report of an evaluation of texts: a table for people, one JSON object for programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gptcli.console import quantity
from gptcli.evaluate.passages import Passage
from gptcli.evaluate.perplexity import Evaluation
from gptcli.evaluate.statistics import Totals, Uncertainty, exponential
from gptcli.figures import Interval, figure, figure_with_interval
from gptcli.tokenizer.lost_text import LostText

MAX_FILES_SHOWN = 10
LARGEST_EXPONENT = 709
"""The largest whole number whose exponential a 64-bit floating-point number holds."""


@dataclass(frozen=True)
class PerplexityReport:
    """An evaluation of texts and the model that it is of, in words."""

    evaluation: Evaluation
    model: str

    def as_dict(self) -> dict[str, Any]:
        """Return the object that `gptcli eval --json` prints.

        JSON has no infinity: a perplexity that no number holds is None, and `perplexity_withheld` has the reason.
        """
        found = self.evaluation
        return {
            "model": self.model,
            **scores(found.totals, found.uncertainty, found.lost),
            "lost_text": found.lost.as_json(),
            "bits_per_byte_withheld": found.lost.words("this text") if found.lost.is_withheld else None,
            "perplexity_withheld": overflow_words(found.totals),
            "context": found.context,
            "stride": found.stride,
            "prefix": found.prefix,
            "unknown_characters": found.unknown_tokens,
            "seen_in_training": found.contamination.as_json(),
            "xz_bits_per_byte": found.baseline.bits_per_byte,
            "xz_bytes": found.baseline.bytes,
            "seconds": round(found.seconds, 3),
            "files": [
                {
                    "file": file.source,
                    **scores(file.totals, file.uncertainty, worse(found.lost, file.lost)),
                    "seen_in_training": found.contamination.files.get(file.source),
                }
                for file in found.files
            ],
            "worst": [passage_as_dict(passage) for passage in found.worst],
        }

    def text(self) -> str:
        """Return what `gptcli eval` prints: the method, the scores, the files and the worst passages."""
        found = self.evaluation
        warnings = [f"WARNING          {warning}" for warning in self.warnings()]
        lines = [f"model            {self.model}", *method(found), *warnings, "", *headline(found)]
        if len(found.files) > 1:
            lines += ["", *file_table(found)]
        for number, passage in enumerate(found.worst, start=1):
            lines += ["", *passage_lines(number, passage)]
        return "\n".join(lines)

    def warnings(self) -> Iterator[str]:
        """Yield the reasons why the scores do not mean what they seem to."""
        found = self.evaluation
        if found.contamination.is_much:
            yield found.contamination.warning()
        if found.unknown_tokens:
            yield (
                f"the tokenizer lacks {found.unknown_tokens:,} characters of this text, and <unk> was scored in their "
                "place: do not compare these figures with those of a tokenizer that has them"
            )
        if lost := found.lost.words("this text"):
            yield lost


def worse(one: LostText, other: LostText) -> LostText:
    """Return the one with the larger lost share, since a single file may have no part in a sample."""
    return max(one, other, key=lambda lost: lost.share)


def scores(totals: Totals, uncertainty: Uncertainty | None, lost: LostText) -> dict[str, Any]:
    """Return the figures of a text; those by byte or word are None if too much of it is lost to compare them."""
    found, withheld = uncertainty, lost.is_withheld
    return {
        "loss": finite(totals.loss),
        "perplexity": finite(totals.perplexity),
        "bits_per_byte": None if withheld else finite(totals.bits_per_byte),
        "byte_perplexity": None if withheld else finite(totals.byte_perplexity),
        "word_perplexity": None if withheld else finite(totals.word_perplexity),
        "tokens": totals.tokens,
        "bytes": totals.bytes,
        "words": totals.words,
        "documents": totals.documents,
        "loss_stderr": found and finite(found.stderr),
        "loss_interval": found and [finite(found.low), finite(found.high)],
        "perplexity_interval": found and [finite(exponential(found.low)), finite(exponential(found.high))],
        "resampled": found and found.unit,
    }


def overflow_words(totals: Totals) -> str | None:
    """Return the reason why a perplexity is not given, that the loss of a unit is too large; None if all are given."""
    perplexities = {"token": totals.perplexity, "byte": totals.byte_perplexity, "word": totals.word_perplexity}
    units = [unit for unit, perplexity in perplexities.items() if not math.isfinite(perplexity)]
    if not units:
        return None
    return (
        f"the loss of a {' and of a '.join(units)} is above {LARGEST_EXPONENT} nats, whose exponential no number holds"
    )


def finite(value: float) -> float | None:
    """Return the value, None if it is not finite."""
    return value if math.isfinite(value) else None


def passage_as_dict(passage: Passage) -> dict[str, Any]:
    """Return a passage for JSON."""
    return {
        "loss": finite(passage.loss),
        "file": passage.source,
        "document": passage.document,
        "position": passage.position,
        "tokens": passage.tokens,
        "before": passage.before,
        "text": passage.text,
        "after": passage.after,
        "peak": passage.peak,
        "peak_nats": finite(passage.peak_nats),
    }


def method(evaluation: Evaluation) -> list[str]:
    """Return lines that say what was scored and how."""
    totals = evaluation.totals
    if evaluation.prefix is None:
        prefix = "no prefix: training had no token before documents, so each document's first token is not scored"
    else:
        prefix = f"each prefixed with {evaluation.prefix}"
    only = one_line(evaluation.files[0].source) if len(evaluation.files) == 1 else f"{len(evaluation.files):,} files"
    return [
        f"text             {only}",
        f"documents        {totals.documents:,}, {prefix}",
        f"scored           {quantity(totals.tokens, 'token')}, each exactly once, "
        f"for {quantity(totals.bytes, 'byte')} and {quantity(totals.words, 'word')}",
        f"windows          context {evaluation.context} tokens, stride {evaluation.stride}: after the first window "
        f"each token sees at least {max(1, evaluation.context - evaluation.stride)} tokens before it",
        f"seen in training {evaluation.contamination.words()}",
    ]


def headline(evaluation: Evaluation) -> list[str]:
    """Return the lines of the scores of the whole text."""
    totals, found = evaluation.totals, evaluation.uncertainty
    if found is None:
        sure = ["                 (no confidence interval: too little text to resample)"]
    else:
        low, high = (figure(end, found.interval) for end in found.interval)
        sure = [
            f"                 95 % interval {low} to {high}, standard error {figure(found.stderr, found.interval)}: "
            f"bootstrap over {found.unit}"
        ]
    perplexity = figure_with_interval(totals.perplexity, interval_of(found, exponential))
    lines = [
        f"loss             {figure(totals.loss, interval_of(found))} nats per token",
        *sure,
        f"perplexity       {perplexity}",
    ]
    if evaluation.lost.is_withheld:
        return [*lines, "bits per byte    not comparable, so it is not shown"]
    return [
        *lines,
        f"bits per byte    {bits_per_byte(totals, found)}{beside(evaluation)}",
        f"byte perplexity  {per_unit(totals, found, totals.bytes)}",
        f"word perplexity  {word_perplexity(totals, found)}",
    ]


def interval_of(found: Uncertainty | None, rising: Callable[[float], float] = float) -> Interval | None:
    """Return the interval of an increasing function of the loss, None if it is not known."""
    return None if found is None else found.through(rising)


def bits_per_byte(totals: Totals, found: Uncertainty | None) -> str:
    """Return the bits per byte, with an interval that takes the number of bytes a token as known."""
    scale = totals.tokens / totals.bytes / math.log(2)
    return figure(totals.bits_per_byte, interval_of(found, lambda loss: loss * scale))


def beside(evaluation: Evaluation) -> str:
    """Return the baseline of the bits per byte, or the reason why it is missing."""
    baseline = evaluation.baseline
    if baseline.bits_per_byte is None:
        return f" (no figure of xz -9 beside it: {baseline.reason})"
    return f"; xz -9 needs {baseline.bits_per_byte:.2f} for {baseline.text}"


def per_unit(totals: Totals, found: Uncertainty | None, units: int) -> str:
    """Return the perplexity of a byte or a word, of which there are `units`."""
    interval = interval_of(found, lambda loss: exponential(loss * totals.tokens / units))
    return figure(exponential(totals.nats / units), interval)


def word_perplexity(totals: Totals, found: Uncertainty | None) -> str:
    """Return the perplexity of a word, if the text has words between spaces."""
    if totals.has_words:
        return per_unit(totals, found, totals.words)
    return "not given: spaces do not separate the words of this text"


def file_table(evaluation: Evaluation) -> list[str]:
    """Return one line for each file, in the order of reading; of many files only those with the most bits per byte."""
    files = shown = evaluation.files
    if len(files) > MAX_FILES_SHOWN:
        shown = tuple(sorted(files, key=lambda file: file.totals.bits_per_byte, reverse=True)[:MAX_FILES_SHOWN])
    names = [one_line(file.source) for file in shown]
    width = min(60, max(map(len, names)))
    lines = [f"{'file':{width}}  {'documents':>9}  {'tokens':>11}  {'loss':>17}  {'perplexity':>12}  {'bits/byte':>9}"]
    for name, file in zip(names, shown, strict=True):
        totals, found = file.totals, file.uncertainty
        name = name if len(name) <= width else f"…{name[1 - width :]}"
        loss = figure(totals.loss, interval_of(found))
        spread = f" ± {figure(found.stderr, found.interval)}" if found else ""
        perplexity = figure(totals.perplexity, interval_of(found, exponential))
        bits = "-" if worse(evaluation.lost, file.lost).is_withheld else bits_per_byte(totals, found)
        lines.append(
            f"{name:{width}}  {totals.documents:>9,}  {totals.tokens:>11,}  {loss + spread:>17}  {perplexity:>12}  "
            f"{bits:>9}"
        )
    if len(files) > len(shown):
        lines.append(
            f"these are the {len(shown)} of {len(files):,} files with the most bits per byte; --json lists all files"
        )
    return lines


def passage_lines(number: int, passage: Passage) -> list[str]:
    """Return the lines of a passage."""
    return [
        f"{number}. {passage.loss:.3f} nats per token over {passage.tokens} tokens, from token {passage.position:,} of "
        f"document {passage.document:,} of {one_line(passage.source)}",
        f"   most surprising: '{one_line(passage.peak)}' with {passage.peak_nats:.2f} nats",
        f"   {one_line(passage.before)}>>>{one_line(passage.text)}<<<{one_line(passage.after)}",
    ]


def one_line(text: str) -> str:
    """Return the text with line breaks and other control characters as escapes."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
