"""The scan of a corpus of examples: rows are read once, rendered, encoded, compared and split.

Unlike the scan of texts it ends with the tokens of both splits, since what an example is depends on the model that
learns it: its tokenizer, its chat template, its context.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptcli import strict_json
from gptcli.console import Progress, quantity
from gptcli.data.cache import cache_key, new_entry, only_writer, require_whole
from gptcli.data.chat_encoder import ChatEncoder
from gptcli.data.config import DataConfig
from gptcli.data.corpus import may_be_left_out, nothing_readable_error
from gptcli.data.decoding import Decoding
from gptcli.data.example_rows import read_examples, read_preferences
from gptcli.data.examples.encode import UnitEncoder, example_encoder
from gptcli.data.examples.preferences import preference_encoder
from gptcli.data.examples.split import drop_equal, split_units
from gptcli.data.examples.splits import WrittenSplit, known_answers, sketch_of, write_ends, write_prompts, write_split
from gptcli.data.examples.statistics import (
    REPORT_FIELDS,
    CorpusFigures,
    ExampleCounts,
    SplitCounts,
    example_report,
    left_out_words,
)
from gptcli.data.examples.template import template_for_examples, with_template
from gptcli.data.examples.units import Units, UnitWriter
from gptcli.data.file_formats import SourceFile
from gptcli.data.left_out import LeftOut, say_left_out, warn_of_replaced, warn_of_unused
from gptcli.data.lost_text import write_lost_text
from gptcli.data.overlap import write_overlap
from gptcli.data.readers import ScannedFile
from gptcli.data.scan import (
    SCAN,
    EncodedScan,
    FilesToScan,
    ScanSummary,
    count_grouped,
    dropped,
    is_current,
)
from gptcli.data.shards import TokenShards
from gptcli.data.sketch import SKETCH
from gptcli.data.sources import find_files
from gptcli.data.split import BLANK, TRAIN, VAL
from gptcli.data.token_sizes import TokenSizes
from gptcli.data.versions import look_at, require_same
from gptcli.data.workspace import ExampleModel, Workspace
from gptcli.errors import DataError, GptcliError, UsageError
from gptcli.storage import HUGE, read_regular, remove_tree, write_file
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

RENDERING = 5
"""A part of the cache's keys: raise it when the same rows become other tokens or another mask."""
REPORT = "examples.json"
NOT_OF_EXAMPLES = {"corpus", "mix", "tokenizer", "pack", "chat_template"}
"""The keys of `data` that do not change the scan; the template is among the settings of the tokenizer."""


@dataclass(frozen=True)
class ExampleScan(EncodedScan):
    """A scan of examples; its tokenizer has the special tokens of the chat template, and the template."""

    examples: dict[str, Any]
    """The counts of `example_report`."""

    def report(self) -> dict[str, Any]:
        """Return the figures for data.json."""
        return super().report() | {"examples": self.examples}


def require_model(workspace: Workspace) -> ExampleModel:
    """Return the model that the examples are for. Raises UsageError if there is none."""
    if workspace.model is None:
        raise UsageError(
            f"data.kind is {workspace.config.kind}, and there is no model that learns the examples",
            "name it: gptcli finetune RUN DATA, or gptcli data inspect DATA --model RUN",
        )
    return workspace.model


def scan_examples(sources: Sequence[str], workspace: Workspace) -> ExampleScan:
    """Read, encode and split a corpus of examples, or take the result from the cache if no file has changed since.

    Raises:
        UsageError: No model is known.
        DataError: A source is missing, a row is no example, or there are too few to be split.
        StorageError: A file cannot be read, or the cache cannot be written.
    """
    config, cache_dir = workspace.config, workspace.cache_dir
    model = require_model(workspace)
    template = template_for_examples(model.tokenizer, config)
    tokenizer = with_template(model.tokenizer, template)
    looked_ns = time.time_ns()
    val = find_files([config.val] if config.val is not None else [], config, cache_dir)
    corpus = find_files(sources, config, cache_dir)
    files = look_at([*val.files, *corpus.files])
    settings = config.model_dump(mode="json", exclude=NOT_OF_EXAMPLES)
    kept = {key: value for key, value in tokenizer.kept_settings.items() if key != "chat_template"}
    described = [template.source, tokenizer.fingerprint, kept, settings, model.seq_len, workspace.seed]
    entry = cache_dir / "tokens" / cache_key("examples", RENDERING, REPORT_FIELDS, files, len(val.files), *described)
    with only_writer(entry):
        from_cache = is_current(entry, files)
        if not from_cache:
            with new_entry(entry) as folder:
                tokenizer.save(folder / "tokenizer")
                found = FilesToScan(files, len(val.files), looked_ns)
                with ChatEncoder(template, tokenizer, loss_on=config.loss_on, date=config.chat_date) as encoder:
                    rows = rows_of_kind(config, encoder, model.seq_len)
                    write_examples(folder, found, workspace, tokenizer, rows)
                require_same(files)
        require_whole(entry)
        scan = open_example_scan(entry, config, (*val.left_out, *corpus.left_out), from_cache)
    say_left_out(scan.left_out)
    warn_of_unused(config.exclude, scan.left_out)
    warn_of_replaced(scan.replaced, scan.train.characters + scan.val.characters)
    return scan


def open_example_scan(
    entry: Path, config: DataConfig, passed_over: tuple[LeftOut, ...], from_cache: bool
) -> ExampleScan:
    """Open the scan of examples in a directory of the cache, which must be verified before."""
    return ExampleScan(
        **ScanSummary.fields_of(strict_json.parse(read_regular(entry / SCAN, HUGE).decode())),
        config=config,
        passed_over=passed_over,
        tokenizer=load_tokenizer(entry / "tokenizer"),
        directory=entry,
        from_cache=from_cache,
        examples=strict_json.parse(read_regular(entry / REPORT, HUGE).decode()),
    )


def write_examples(
    folder: Path, corpus: FilesToScan, workspace: Workspace, tokenizer: Tokenizer, rows: UnitRows
) -> None:
    """Read the corpus, and write both splits and the scan to `folder`."""
    config, work = workspace.config, folder / "units"
    sizes = TokenSizes(tokenizer)
    reading = Reading(corpus, config, rows)
    with UnitWriter(work, tokenizer, sizes) as writer:
        reading.read_into(writer)
    units = reading.units_in(work)
    assignment = reading.left_out_units(len(units))
    if config.deduplicate == "exact":
        drop_equal(units, reading.own_val, assignment)
    groups = units.groups()
    rule = split_units(units, reading.own_val, config, workspace.seed, assignment, groups)
    splits = [
        write_split(folder / name, units.shards, assignment == kind, tokenizer)
        for name, kind in (("train", TRAIN), ("val", VAL))
    ]
    write_lost_text(folder, [sizes.lost_text(split.token_counts) for split in splits])
    train, val = (TokenShards.open(folder / name) for name in ("train", "val"))
    sketch_of(train, tokenizer).save(folder / SKETCH)
    write_overlap(folder, [val], [train])
    write_prompts(folder, units, assignment)
    write_ends(folder, units, assignment)
    left_out = dropped(units.records, assignment)
    counts = reading.counts
    summary = ScanSummary(
        files=tuple(reading.files),
        looked_ns=corpus.looked_ns,
        **described_texts(sizes, *splits),
        duplicates=left_out["duplicates"],
        duplicate_bytes=left_out["duplicate_bytes"],
        blank=counts.no_answer + counts.empty_answers + counts.undecided,
        overlap=left_out["overlap"],
        overlap_bytes=left_out["overlap_bytes"],
        grouped=count_grouped(assignment, groups),
        cut_at=0,
        split_rule=rule,
        fingerprint=hashlib.sha256((train.fingerprint + val.fingerprint).encode()).hexdigest(),
        refused=tuple(reading.refused),
        replaced=reading.decoding.replaced,
        separator_warning="",
    )
    seq_len = require_model(workspace).seq_len
    figures = CorpusFigures(
        loss_on="answers" if config.kind == "preferences" else config.loss_on,
        context=seq_len,
        duplicates=left_out["duplicates"],
        validated_on=left_out["overlap"],
        known_answers=known_answers(units, assignment),
    )
    examples = example_report(counts, SplitCounts.of(train, seq_len), SplitCounts.of(val, seq_len), figures)
    write_file(folder / REPORT, strict_json.dumps(examples))
    write_file(folder / SCAN, strict_json.dumps(asdict(summary)))
    groups.remove_files()
    remove_tree(work)
    report = open_example_scan(folder, config, (), from_cache=False).report()
    write_file(folder / "report.json", strict_json.dumps(report, indent=2) + "\n")


def described_texts(sizes: TokenSizes, train: WrittenSplit, val: WrittenSplit) -> dict[str, Any]:
    """Return the fields of `ScanSummary` about the texts of both splits, without special tokens."""
    return {
        "train": sizes.statistics(train.units, train.token_counts),
        "val": sizes.statistics(val.units, val.token_counts),
        "unseen_characters": len(sizes.characters_of(val.token_counts) - sizes.characters_of(train.token_counts)),
    }


class UnitRows(NamedTuple):
    """The reading of the rows of a kind of corpus, and their encoding."""

    read: Callable[[SourceFile, DataConfig, Decoding], Iterator[tuple[object, Any]]]
    encode: UnitEncoder


def rows_of_kind(config: DataConfig, encoder: ChatEncoder, seq_len: int) -> UnitRows:
    """Return how the rows of the kind that is configured become units."""
    if config.kind == "preferences":
        return UnitRows(read_preferences, preference_encoder(encoder, seq_len))
    return UnitRows(read_examples, example_encoder(encoder, config, seq_len))


class Reading:
    """One reading of the files of a corpus, and what it has shown."""

    def __init__(self, corpus: FilesToScan, config: DataConfig, rows: UnitRows) -> None:
        self.corpus, self.config, self.rows = corpus, config, rows
        self.decoding = Decoding.of(config)
        self.counts = ExampleCounts()
        self.files: list[ScannedFile] = []
        """The files that were read, with the number of their units."""
        self.refused: list[LeftOut] = []
        self.unused: list[range] = []
        """Units of files that turned out to be unreadable, and are left out as a whole."""
        self.own_val = 0
        """The number of units of `data.val`, which come first."""

    def read_into(self, writer: UnitWriter) -> None:
        """Read all files.

        Raises:
            DataError: A file that the user named cannot be read, or holds a row that is no example.
        """
        with Progress("encode", unit="examples") as progress:
            for number, file in enumerate(self.corpus.files):
                first = writer.count
                try:
                    self.counts.add(self.read_file(file, writer, progress))
                except GptcliError as error:
                    if not isinstance(error, DataError) or not may_be_left_out(file.source, error):
                        raise
                    self.refused.append(LeftOut(file.name, error.message.replace(file.name, "it"), error.remedy))
                    self.unused.append(range(first, writer.count))
                else:
                    self.files.append(file._replace(documents=writer.count - first))
                if number < self.corpus.val_files:
                    self.own_val = writer.count

    def read_file(self, file: ScannedFile, writer: UnitWriter, progress: Progress) -> ExampleCounts:
        """Read one file, and return the counts of its rows."""
        counts = ExampleCounts()
        for place, example in self.rows.read(file.source, self.config, self.decoding):
            unit = self.rows.encode(example, place, counts)
            if unit is not None:
                writer.add(unit)
            progress.update()
        return counts

    def units_in(self, folder: Path) -> Units:
        """Return the units that were written to a folder.

        Raises:
            DataError: There are none.
        """
        if not self.files:
            raise nothing_readable_error(self.refused)
        counts = self.counts
        if counts.rows == counts.unusable:
            name = self.files[0].name if len(self.files) == 1 else "the corpus"
            if not counts.rows:
                raise DataError(f"{name} holds no row", "name a file that does")
            wanted = "examples with messages of the assistant"
            if self.config.kind == "preferences":
                wanted = "pairs of different answers, which fit one sequence together, each with its prompt"
            longer = ", or raise train.seq_len up to the base's context" * (counts.too_long > 0)
            raise DataError(
                f"nothing in {name} can be learnt: of {quantity(counts.rows, 'row')} {left_out_words(vars(counts))}",
                f"give {'shorter ' * (counts.too_long > 0)}{wanted}{longer}",
            )
        return Units(folder)

    def left_out_units(self, count: int) -> np.ndarray:
        """Return the assignment of all units before the split, (count,) uint8: BLANK for those that are not used."""
        assignment = np.zeros(count, dtype=np.uint8)
        for units in self.unused:
            assignment[units.start : units.stop] = BLANK
        return assignment
