"""An inspection of examples as a model would learn them, before any training: `gptcli data inspect DATA --model BASE`.

The examples are read, encoded and split by the functions of the training, and land in the cache where it finds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptcli.config import RawConfig, merge, validate
from gptcli.config.load import with_origin
from gptcli.console import quantity
from gptcli.data.examples.display import ShownPart, sampled_examples
from gptcli.data.examples.statistics import example_lines
from gptcli.data.mix import prepare_mix, scan_mix
from gptcli.data.overlap import overlap_words
from gptcli.data.workspace import ExampleModel, Workspace
from gptcli.errors import UsageError
from gptcli.train.config import RunConfig
from gptcli.train.finetune import EXAMPLES, METHODS
from gptcli.train.initial_checkpoint import open_initial_checkpoint, settings_from
from gptcli.train.planning.corpus import DRAFT_FACTS
from gptcli.train.planning.fine_tuning import choose_settings


def inspect_examples(user: RawConfig, base: str, cache_dir: Path, count: int) -> list[dict[str, Any]]:
    """Return a report of each corpus of examples, and `count` of its examples with what is in the loss.

    Args:
        user: the settings; the kind of the corpus is examples if they do not name another one.
        base: the model that is to learn them: a run, a Hugging Face directory or hf:NAME.
        cache_dir: the directory of the cache.
        count: the number of examples to show.

    Raises:
        UsageError: the corpus is one of texts.
        DataError, CheckpointError, TokenizerError: as a training on the examples.
    """
    kind = user.values.get("data", {}).get("kind")
    defaults = METHODS["dpo"] if kind == "preferences" else EXAMPLES
    user = merge(with_origin(defaults, "--model"), user, with_origin({"train": {"init_from": base}}, "--model"))
    start = open_initial_checkpoint(user, None)
    if start is not None:
        user = settings_from(start, user)
    draft = validate(RunConfig, merge(choose_settings(DRAFT_FACTS, user), user))
    if draft.data.kind == "text":
        raise UsageError("data.kind is text, which every model learns in the same way", "leave --model out")
    model = ExampleModel(start.tokenizer, draft.seq_len) if start else None
    workspace = Workspace(draft.data, cache_dir, draft.seed, model=model)
    data = prepare_mix(scan_mix(workspace), workspace)
    reports = data.report.get("mix", [data.report])
    return [
        {
            "name": name or ", ".join(draft.data.corpus),
            "directory": str(corpus.directory),
            "split_rule": report["split_rule"],
            "ngram_overlap": report["ngram_overlap"],
            **report["examples"],
            "shown": sampled_examples(corpus.train, corpus.tokenizer, count),
        }
        for name, report, corpus in zip(data.names, reports, data.corpora, strict=True)
    ]


def inspection_lines(report: dict[str, Any]) -> list[str]:
    """Return the report of one corpus in words, without its examples."""
    train, val = report["train"], report["val"]
    return [
        report["name"],
        f"  examples     {train['examples']:,} to train on, {val['examples']:,} to validate: {report['split_rule']}",
        *(f"  {'loss' if number == 0 else '':<12} {line}" for number, line in enumerate(example_lines(report))),
        f"  overlap      {overlap_words(report['ngram_overlap'], 'example')}",
        f"  cache        {report['directory']}",
    ]


def shown_examples(report: dict[str, Any]) -> Iterator[tuple[str, list[ShownPart]]]:
    """Yield the heading of each example of a report, and its parts."""
    for shown in report["shown"]:
        tokens = quantity(shown["tokens"], "token")
        heading = f"--- example {shown['example']:,} to train on: {tokens}, {shown['tokens_in_loss']:,} in the loss"
        yield heading, [ShownPart(**part) for part in shown["parts"]]
