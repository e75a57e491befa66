"""An inspection of prepared data: sizes, compression, lengths of documents, a few windows as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gptcli.console import quantity, say, size
from gptcli.data.cache import require_undamaged
from gptcli.data.config import DataSettings
from gptcli.data.examples.display import ShownPart, marked, sampled_examples
from gptcli.data.lost_text import lost_text_warnings
from gptcli.data.mix import prepare_mix, scan_mix
from gptcli.data.overlap import OVERLAP, overlap_warning, overlap_words, read_overlap, recorded_overlap
from gptcli.data.prepare import sample_words
from gptcli.data.shard_index import INDEX
from gptcli.data.shards import TokenShards
from gptcli.data.worker_pool import WorkerConfig, stop_by_signal
from gptcli.data.workspace import Workspace
from gptcli.manifest import MANIFEST_NAME, require_unchanged
from gptcli.tokenizer.files import WRITTEN_FILES
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

WINDOW_TOKENS = 48
RUN_FILE = "run.toml"


def prepare(settings: DataSettings, cache_dir: Path, workers: int = 0) -> dict[str, Any]:
    """Scan and encode a corpus, and return its report, with the cache directory that holds the tokens.

    A large corpus is prepared by `workers` processes (0: one for each core).

    Raises:
        DataError, TokenizerError, StorageError, OutOfMemoryError: As `scan_mix` and `prepare_mix`.
        Stopped: SIGINT or SIGTERM arrived.
    """
    workspace = Workspace(settings.data, cache_dir, settings.seed, WorkerConfig(workers))
    with stop_by_signal():
        prepared = prepare_mix(scan_mix(workspace), workspace)
    for one, corpus in zip(prepared.report.get("mix", ()), prepared.corpora, strict=False):
        one["directory"] = str(corpus.directory)
    for warning in filter(None, [*lost_text_warnings(prepared.report), overlap_warning(prepared.report)]):
        say(f"warning: {warning}")
    return prepared.report | {"from_cache": prepared.from_cache, "directory": str(prepared.directory)}


def inspect(settings: DataSettings, cache_dir: Path, windows: int) -> list[dict[str, Any]]:
    """Return statistics of each split of the directories that `data.corpus` names, or of a corpus, prepared first.

    A directory is either one split (it holds index.json, as RUN/val does) or a prepared corpus (it holds both).

    Raises:
        DataError: As `prepare`, or a file is damaged.
    """
    found = [splits_in(Path(source)) for source in settings.data.corpus]
    is_ours = not all(found)
    if is_ours:
        found = [splits_in(Path(prepare(settings, cache_dir)["directory"]))]
    return [inspect_split(directory, windows, is_ours) for directories in found for directory in directories]


def splits_in(directory: Path) -> list[Path]:
    """Return the directories of token shards that `directory` is or holds."""
    return [path for path in (directory, directory / "train", directory / "val") if (path / INDEX).is_file()]


def inspect_split(directory: Path, windows: int, is_ours: bool = False) -> dict[str, Any]:
    """Return statistics of one split, in the cache if `is_ours`, after every file is compared with its hash."""
    verify_beside(directory)
    shards = TokenShards.open(directory, elsewhere=is_ours)
    shards.verify()
    lengths = np.diff(np.append(shards.document_starts, len(shards))) - shards.framing.overhead
    tokenizer = find_tokenizer(directory)
    return {
        "directory": str(directory),
        "documents": shards.documents,
        "bytes": shards.bytes,
        "tokens": len(shards),
        "bytes_per_token": shards.bytes / max(1, int(lengths.sum())),
        "document_tokens": {
            "shortest": int(lengths.min()),
            "median": float(np.median(lengths)),
            "longest": int(lengths.max()),
        },
        "vocab_size": shards.vocab_size,
        "dtype": shards.dtype.name,
        "size_on_disk": sum(file["size"] for file in [*shards.index["files"].values(), *shards.elsewhere]),
        "fingerprint": shards.fingerprint,
        "ngram_overlap": find_overlap(directory),
        "windows": sample_windows(shards, tokenizer, windows) if tokenizer else [],
    }


def verify_beside(directory: Path) -> None:
    """Compare a split, and the files read beside it, with the manifest of the run or the cache entry that holds it.

    Raises:
        CheckpointError, DataError: A file is damaged.
    """
    parent = directory.parent
    if (parent / RUN_FILE).is_file():
        require_unchanged(parent, directory.name, *WRITTEN_FILES, "data.json")
    elif (parent / MANIFEST_NAME).is_file():
        require_undamaged(parent)


def find_tokenizer(directory: Path) -> Tokenizer | None:
    """Return the tokenizer beside a split, in the cache or in a run directory; None if there is none."""
    folders = (directory.parent / "tokenizer", directory.parent)
    return next((load_tokenizer(folder) for folder in folders if (folder / "tokenizer.json").is_file()), None)


def find_overlap(directory: Path) -> dict[str, Any] | None:
    """Return the recorded overlap of a validation split with its training split; None if there is no record."""
    if directory.name != "val":
        return None
    if (directory.parent / OVERLAP).is_file():
        return read_overlap(directory.parent)[0]
    return recorded_overlap(directory.parent / "data.json")


def sample_windows(shards: TokenShards, tokenizer: Tokenizer, count: int) -> list[dict[str, Any]]:
    """Return `count` windows spread evenly over the split, as text; of a masked split whole examples, with marks."""
    if shards.is_masked:
        shown = sampled_examples(shards, tokenizer, count)
        return [{"token": one["token"], "text": marked(ShownPart(**part) for part in one["parts"])} for one in shown]
    starts = [max(0, len(shards) * (2 * number + 1) // (2 * count) - WINDOW_TOKENS // 2) for number in range(count)]
    windows = (shards.read(start, min(start + WINDOW_TOKENS, len(shards))) for start in starts)
    return [{"token": start, "text": tokenizer.decode(ids)} for start, ids in zip(starts, windows, strict=True)]


def report_lines(report: dict[str, Any]) -> list[str]:
    """Return a report of `prepare` as lines for people."""
    dropped, tokenizer = report["dropped"], report["tokenizer"]
    learnt = f", learnt from {sample_words(report['tokenizer_sample'])}" if "tokenizer_sample" in report else ""
    lines = [f"files      {report['files']:,}"]
    if report["left_out"]["total"]:
        kinds = ", ".join(f"{count:,} {reason}" for reason, count in report["left_out"]["reasons"].items())
        lines.append(f"left out   {report['left_out']['total']:,}: {kinds}")
    if report["replaced_characters"]:
        lines.append(f"replaced   {quantity(report['replaced_characters'], 'character')} by U+FFFD")
    for part in ("train", "val"):
        counts = report[part]
        lines.append(
            f"{part:9}  {quantity(counts['documents'], 'document')}, {size(counts['bytes'])}, "
            f"{counts['characters']:,} characters ({counts['distinct_characters']:,} distinct), "
            f"{report[f'{part}_tokens']:,} tokens"
        )
    for one in report.get("mix", []):
        gone = one["dropped"]
        lines.append(
            f"mix        {one['weight']:.3g} of {one['name']}: {one['train_tokens']:,} tokens to train on, "
            f"{one['val_tokens']:,} to validate; {gone['duplicates']:,} duplicates and {gone['overlap']:,} that are "
            f"validated on dropped; {one['directory']}"
        )
    grouped = f"grouped    {quantity(report['grouped'], 'document')} kept beside others like them"
    lines += [
        f"split      {report['split_rule']}: {100 * report['val_fraction']:.3g} % of the bytes",
        f"dropped    {quantity(dropped['duplicates'], 'exact duplicate')} ({size(dropped['duplicate_bytes'])}), "
        f"{dropped['blank']:,} blank, {dropped['overlap']:,} that are validated on ({size(dropped['overlap_bytes'])})",
        *([grouped] if report["grouped"] else []),
        f"overlap    {overlap_words(report['ngram_overlap'])}",
        f"tokenizer  {tokenizer['name']}, {tokenizer['vocab_size']:,} tokens" + learnt,
        f"cache      {report['directory']}{' (was there already)' if report['from_cache'] else ''}",
    ]
    return lines


def split_lines(split: dict[str, Any]) -> list[str]:
    """Return one split of `inspect` as lines for people."""
    lengths = split["document_tokens"]
    return [
        split["directory"],
        f"  documents    {split['documents']:,} of {lengths['shortest']:,} to {lengths['longest']:,} tokens, "
        f"median {lengths['median']:,.0f}",
        f"  text         {size(split['bytes'])}",
        f"  tokens       {split['tokens']:,}, {split['bytes_per_token']:.2f} bytes a token",
        f"  on disk      {size(split['size_on_disk'])} as {split['dtype']}, vocabulary {split['vocab_size']:,}, whole",
        *([f"  overlap      {overlap_words(split['ngram_overlap'])}"] if split["ngram_overlap"] else []),
        *(f"  token {window['token']:<10,} {window['text']!r}" for window in split["windows"]),
    ]
