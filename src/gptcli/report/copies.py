"""Copies of the training text in generated texts: the spans, their places in the corpus, and figures for reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptcli import strict_json
from gptcli.config import RawConfig, read_toml, validate
from gptcli.console import visible
from gptcli.data.mix import PreparedMix, prepare_mix
from gptcli.data.shards import TokenShards
from gptcli.data.suffix_array import SuffixArray
from gptcli.data.workspace import ExampleModel, Workspace
from gptcli.errors import DataError, UsageError
from gptcli.evaluate.copies import CopiedSpan, CopyReport, fewest_tokens, find_copies
from gptcli.generate.config import GenerationConfig
from gptcli.generate.text import Generation, Prompt
from gptcli.manifest import require_unchanged
from gptcli.session import Session, data_settings
from gptcli.storage import read_regular
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.train.config import RunConfig
from gptcli.train.planning.subset import scan_subset

CONTEXT_TOKENS = 24
"""Tokens of the training text that are shown on either side of a span."""
PROMPT_TOKENS = 16
SWEEP_TEMPERATURES = (0.0, 0.8, 1.2)


class FoundCopy(NamedTuple):
    """A span of a text, and the place in the training text where it stands."""

    span: CopiedSpan
    corpus: str
    document: int
    """The number of the document in the training split of its corpus, from 0."""
    before: str
    text: str
    after: str

    def report(self) -> dict[str, Any]:
        """Return the copy for JSON."""
        return {
            "start": self.span.start,
            "stop": self.span.stop,
            "text": self.text,
            "corpus": self.corpus,
            "document": self.document,
            "before": self.before,
            "after": self.after,
        }


class GenerationCopies(NamedTuple):
    """The spans of the samples of a generation that are copied from the training text."""

    report: CopyReport
    found: list[list[FoundCopy]]
    """The copies of each sample, the samples of the first prompt first."""
    texts: list[str]
    """The text of each sample with [[ ]] around its copies."""

    def added_to(self, report: dict[str, Any]) -> dict[str, Any]:
        """Return the report of the generation with "copies": the figures, and in each completion its own."""
        found = iter(self.found)
        for prompt in report.get("results", [report]):
            for completion in prompt["completions"]:
                completion["copies"] = [copy.report() for copy in next(found)]
        return report | {"copies": self.report.report()}

    def text(self) -> str:
        """Return the figures and the copies of each sample as text."""
        lines = [sentence(self.report)]
        for number, copies in enumerate(self.found):
            if copies:
                lines += [f"sample {number + 1} of {len(self.found)}: {one_line(self.texts[number])}"]
                lines += map(in_place, copies)
        return "\n".join(lines)


@dataclass(frozen=True)
class CopyFinder:
    """The training text of a run, and its index."""

    data: PreparedMix
    tokenizer: Tokenizer
    index: SuffixArray
    names: tuple[str, ...]
    """The name of each corpus: its source where there is one."""

    @classmethod
    def of(cls, session: Session, cache_dir: Path) -> CopyFinder:
        """Open the training text of the session's run and its index, which are made where the cache lacks them.

        Raises:
            UsageError: the model is no run, so its training text is unknown.
            DataError, StorageError: the text is gone, has changed, or cannot be read.
        """
        data = training_text(session, cache_dir)
        sources = data_settings(session.run).get("corpus", [])
        names = (", ".join(sources),) if data.is_single else data.names
        return cls(data, session.tokenizer, SuffixArray.open_or_build(data.train, cache_dir), names)

    def examine(self, texts: Sequence[Sequence[int]]) -> CopyReport:
        """Return the copied spans of texts, each of which is given by the ids of its tokens."""
        arrays = [np.array(ids, dtype=np.int64) for ids in texts]
        return find_copies(self.index, arrays, self.data.val, fewest_tokens(self.data.train))

    def check(self, generation: Generation) -> GenerationCopies:
        """Return the copied spans of the samples of a generation, and their places in the training text."""
        texts = [one.tokens for prompt in generation.prompts for one in prompt.completions]
        report = self.examine(texts)
        found = [[self.locate(span) for span in spans] for spans in report.spans]
        return GenerationCopies(report, found, list(map(self.marked, texts, report.spans)))

    def marked(self, ids: Sequence[int], spans: Sequence[CopiedSpan]) -> str:
        """Return a text with [[ ]] around its spans."""
        parts, position = [], 0
        for span in spans:
            parts.append(self.tokenizer.decode(ids[position : span.start]))
            parts.append(f"[[{self.tokenizer.decode(ids[span.start : span.stop])}]]")
            position = span.stop
        return "".join([*parts, self.tokenizer.decode(ids[position:])])

    def locate(self, span: CopiedSpan) -> FoundCopy:
        """Return the place of a span in the training text, with the text around it."""
        place = self.index.locate(span.place)
        shards = self.data.train.parts[place.part]
        first, last = shards.document_bounds(place.document)
        end = place.token + span.stop - span.start
        decode = self.tokenizer.decode
        return FoundCopy(
            span,
            self.names[place.part],
            place.document,
            decode(shards.read(max(first, place.token - CONTEXT_TOKENS), place.token).tolist()),
            decode(shards.read(place.token, end).tolist()),
            decode(shards.read(end, min(last, end + CONTEXT_TOKENS)).tolist()),
        )


def training_text(session: Session, cache_dir: Path) -> PreparedMix:
    """Return the tokens that the session's run was trained on, from the cache or prepared again.

    Raises:
        UsageError: the model is no run, so its training text is unknown.
        DataError, StorageError: the text is gone, has changed, or cannot be read.
    """
    run = session.run
    if run is None:
        raise UsageError(f"{session.request.path} is no run, so its training text is unknown", "name a run")
    require_unchanged(run.path, run.config_path.name)
    config = validate(RunConfig, read_toml(run.config_path))
    model = ExampleModel(session.tokenizer, config.seq_len)
    workspace = Workspace(config.data, cache_dir, config.seed, model=model)
    data = prepare_mix(scan_subset(workspace, config.train.corpus_bytes), workspace, session.tokenizer)
    recorded = run.path / "data.json"
    require_unchanged(run.path, recorded.name)
    trained_on = strict_json.parse(read_regular(recorded))
    if any(trained_on.get(key) != data.report.get(key) for key in ("fingerprint", "train_tokens", "val_tokens")):
        raise DataError(f"the text of {run.path} has changed since it was trained", "restore it from a copy")
    return data


def sentence(report: CopyReport) -> str:
    """Return the figures of copying in a sentence."""
    return (
        f"copies: {report.texts} of {report.texts.tokens:,} tokens stand in the training text in spans of "
        f"{report.least} tokens or more (longest {report.texts.longest:,}); of the validation text "
        f"{report.baseline} does, so the excess is {report.excess:.1%}"
    )


def in_place(found: FoundCopy) -> str:
    """Return the lines that show a copy in its place: where it stands, and the text around it."""
    corpus = f"{found.corpus}, " if found.corpus else ""
    return (
        f"  tokens {found.span.start:,} to {found.span.stop - 1:,}: {corpus}document {found.document:,}\n"
        f"    ...{one_line(found.before)}[[{one_line(found.text)}]]{one_line(found.after)}..."
    )


def one_line(text: str) -> str:
    """Return a text with its control characters and line ends escaped."""
    return visible(text).replace("\n", "\\n")


def copy_report(session: Session, finder: CopyFinder, *, samples: int = 8, new_tokens: int = 128) -> dict[str, Any]:
    """Generate texts and return the shares of them that are copied from the training text, for JSON.

    Each of SWEEP_TEMPERATURES continues the first PROMPT_TOKENS of training documents, which are spread evenly over the
    training text ("training"), of validation documents ("validation"), and begins documents freely ("free", if the
    model knows how a document begins).

    Returns:
        "rows": a list of {"prompts", "temperature", and the figures of `CopyReport.report`}.
    """
    rows: list[dict[str, Any]] = []
    for name, prompts in prompts_of(session, finder.data, samples).items():
        for temperature in SWEEP_TEMPERATURES if prompts else ():
            settings = {"temperature": temperature, "max_new_tokens": new_tokens, "batch_size": samples}
            config = validate(GenerationConfig, RawConfig(settings))
            generation = session.complete(prompts, config, session.stop_ids)
            copies = finder.check(generation)
            rows.append({"prompts": name, "temperature": temperature, **copies.report.report()})
    return {"rows": rows}


def prompts_of(session: Session, data: PreparedMix, count: int) -> dict[str, list[Prompt]]:
    """Return the prompts of `copy_report` by their kind."""
    before = session.tokenizer.framing.before
    return {
        "training": beginnings(data.train.parts[0], count, before, session.tokenizer),
        "validation": beginnings(data.val, count, before, session.tokenizer),
        "free": [Prompt(list(before), "")] * count if before else [],
    }


def beginnings(shards: TokenShards, count: int, before: list[int], tokenizer: Tokenizer) -> list[Prompt]:
    """Return the first tokens of `count` documents, evenly spread, without those that are empty."""
    numbers = np.unique(np.linspace(0, shards.documents - 1, count).astype(int))
    found = (shards.document(int(number))[:PROMPT_TOKENS].tolist() for number in numbers)
    return [Prompt([*before, *ids], tokenizer.decode(ids)) for ids in found if ids]
