"""The corpora that a run is trained on in given proportions: each is prepared by itself, with one tokenizer for all.

A document in the validation split of one corpus is in no training split. A single corpus is a mix of one, which has no
name and needs no entry of the cache of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gptcli import strict_json
from gptcli.data.arrays import stretches
from gptcli.data.cache import WHOLE, VerifiedShare, cache_key, is_whole, new_entry, only_writer, require_whole
from gptcli.data.config import DataConfig
from gptcli.data.examples.apart import scan_apart
from gptcli.data.left_out import left_out_report
from gptcli.data.lost_text import read_lost_text
from gptcli.data.overlap import read_overlap, write_overlap
from gptcli.data.prepare import PreparedCorpus, learn_tokenizer, open_corpus, prepare_corpus, scan_corpus
from gptcli.data.sample import SAMPLE_BYTES
from gptcli.data.scan import SCAN, CorpusScan, EncodedScan, ScanSummary, open_scan, scan_texts, text_fingerprint
from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.data.sketch import SKETCH, TextSketch
from gptcli.data.split import OVERLAP, TRAIN, VAL, Split
from gptcli.data.split_reader import ASSIGNMENT
from gptcli.data.stages import SplitStatistics
from gptcli.data.token_files import is_token_file
from gptcli.data.token_mix import UNNAMED, Mix, TokenMix
from gptcli.data.workspace import Workspace
from gptcli.errors import ConfigError
from gptcli.manifest import MANIFEST_NAME
from gptcli.storage import create_file, write_file
from gptcli.tokenizer.tokenizer import Tokenizer

HALVES = ["high", "low"]
DIGEST = np.dtype([(half, "<u8") for half in HALVES])


@dataclass(frozen=True)
class MixScan(Mix):
    """The corpora of a run as they were read and split."""

    scans: tuple[CorpusScan | EncodedScan, ...]

    @classmethod
    def of_one(cls, scan: CorpusScan | EncodedScan) -> MixScan:
        """Return the mix of a single corpus."""
        return cls(UNNAMED, (1.0,), (scan,))

    @property
    def train(self) -> SplitStatistics:
        """The sum over all training splits; a lower bound for the distinct characters."""
        return sum_of([scan.train for scan in self.scans])

    @property
    def val(self) -> SplitStatistics:
        """The sum over all validation splits, as `train`."""
        return sum_of([scan.val for scan in self.scans])

    @property
    def unseen_characters(self) -> int:
        """The sum over the corpora of the distinct characters that only the validation split has."""
        return sum(scan.unseen_characters for scan in self.scans)

    def report(self) -> dict[str, Any]:
        """Return a report of the documents of all corpora, and of each named one, as JSON can write it."""
        parts = [scan.report() for scan in self.scans]
        if self.is_single:
            return parts[0]
        return {
            "files": sum(part["files"] for part in parts),
            "train": asdict(self.train),
            "val": asdict(self.val),
            "left_out": left_out_report(one for scan in self.scans for one in scan.left_out),
            "replaced_characters": sum(part["replaced_characters"] for part in parts),
            "dropped": {name: sum(part["dropped"][name] for part in parts) for name in parts[0]["dropped"]},
            "deduplicate": parts[0]["deduplicate"],
            "grouped": sum(part["grouped"] for part in parts),
            "split_rule": "each corpus by itself",
            "val_fraction": self.val.bytes / (self.train.bytes + self.val.bytes),
            "fingerprint": hashlib.sha256("".join(part["fingerprint"] for part in parts).encode()).hexdigest(),
            "mix": [
                {"name": name, "weight": share} | part
                for name, share, part in zip(self.names, self.shares, parts, strict=True)
            ],
        }


@dataclass(frozen=True)
class PreparedMix(Mix):
    """The corpora of a run as tokens."""

    corpora: tuple[PreparedCorpus, ...]
    val: TokenShards
    """The validation splits of all corpora, one after another."""
    report: dict[str, Any]
    """The report of the documents that were kept, dropped, split and encoded, as JSON can write it."""
    from_cache: bool
    """Whether the tokens were in the cache already."""
    directory: Path
    """The directory in the cache that holds `val` and the sketch of all training splits."""

    @property
    def train(self) -> TokenMix:
        """The training splits."""
        return TokenMix(self.names, self.weights, tuple(corpus.train for corpus in self.corpora))

    @property
    def vals(self) -> tuple[TokenShards, ...]:
        """The validation split of each corpus."""
        return tuple(corpus.val for corpus in self.corpora)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of all corpora."""
        return self.corpora[0].tokenizer


def sum_of(splits: Sequence[SplitStatistics]) -> SplitStatistics:
    """Return the sizes of several splits together; a lower bound for the distinct characters."""
    return SplitStatistics(
        documents=sum(split.documents for split in splits),
        bytes=sum(split.bytes for split in splits),
        characters=sum(split.characters for split in splits),
        distinct_characters=max(split.distinct_characters for split in splits),
    )


def scan_mix(workspace: Workspace) -> MixScan:
    """Read and split the corpora of `data.mix`, or the one of `data.corpus`, as `scan_corpus`.

    A document that another corpus of the mix is validated on counts as overlap, and is not trained on.

    Raises:
        ConfigError: One of several corpora is a file of tokens.
        DataError, StorageError, OutOfMemoryError: As `scan_corpus`.
    """
    config = workspace.config
    if not config.mix:
        return MixScan.of_one(scan_corpus(config.corpus, workspace))
    if config.kind != "text":
        examples = scan_apart([entry.corpus for entry in config.mix], workspace)
        return MixScan(*config.names_and_weights, tuple(examples))
    for entry in config.mix:
        if any(is_token_file(source) for source in entry.corpus):
            raise ConfigError(f"data.mix: {entry.title} is a file of tokens", "name texts, or train on it alone")
    scans = [scan_texts(entry.corpus, workspace) for entry in config.mix]
    held_out = [digests_of(scan, VAL) for scan in scans]
    apart = [
        without(scan, np.concatenate([*held_out[:number], *held_out[number + 1 :], np.empty(0, DIGEST)]), workspace)
        for number, scan in enumerate(scans)
    ]
    return MixScan(*config.names_and_weights, tuple(apart))


def digests_of(scan: CorpusScan, kind: int) -> np.ndarray:
    """Return (N,) of DIGEST: those of all documents of a kind."""
    parts = stretches(scan.records, scan.assignment)
    found = [some[HALVES][kinds == kind].astype(DIGEST) for _, some, kinds in parts]
    return np.concatenate([np.empty(0, DIGEST), *found])


def without(scan: CorpusScan, held_out: np.ndarray, workspace: Workspace) -> CorpusScan:
    """Return the scan without training documents whose digests are in `held_out`; the same scan if there are none."""
    places = [np.empty(0, dtype=np.int64)]
    high = np.unique(held_out["high"])
    for start, some, kinds in stretches(scan.records, scan.assignment):
        near = np.flatnonzero((kinds == TRAIN) & np.isin(some["high"], high))
        places.append(start + near[np.isin(some[HALVES][near].astype(DIGEST), held_out)])
    dropped = np.concatenate(places)
    if not len(dropped):
        return scan
    if len(dropped) == scan.train.documents:
        raise ConfigError(f"nothing is left to train on of {scan.files[0].name}", "all of it is validated on elsewhere")
    digest = hashlib.sha256(np.ascontiguousarray(dropped).data).hexdigest()
    entry = workspace.cache_dir / "scans" / cache_key("apart", scan.entry.name, digest)
    with only_writer(entry):
        if not is_whole(entry):
            with new_entry(entry) as folder:
                manifest = shutil.ignore_patterns(MANIFEST_NAME)
                shutil.copytree(scan.entry, folder, dirs_exist_ok=True, ignore=manifest, copy_function=os.link)
                drop_documents(folder, scan, dropped)
        return open_scan(entry, scan.config, scan.passed_over)


def drop_documents(folder: Path, scan: CorpusScan, dropped: np.ndarray) -> None:
    """Mark the documents as overlap in the directory of a scan, whose files may be links to those of another."""
    (folder / ASSIGNMENT).unlink()
    with create_file(folder / ASSIGNMENT) as out:
        for start, kinds in stretches(scan.assignment):
            changed = np.array(kinds)
            first, last = np.searchsorted(dropped, (start, start + len(changed)))
            changed[dropped[first:last] - start] = OVERLAP
            out.write(changed.data)
    assignment = np.memmap(folder / ASSIGNMENT, dtype=np.uint8, mode="r")
    gone = scan.records[dropped]
    size, train = int(gone["bytes"].sum()), scan.train
    values = {name: getattr(scan, name) for name in ScanSummary.__dataclass_fields__} | {
        "train": replace(
            train,
            documents=train.documents - len(gone),
            bytes=train.bytes - size,
            characters=train.characters - int(gone["characters"].sum()),
        ),
        "overlap": scan.overlap + len(gone),
        "overlap_bytes": scan.overlap_bytes + size,
        "fingerprint": text_fingerprint(scan.records, Split(assignment, scan.cut_at, scan.split_rule)),
    }
    (folder / SCAN).unlink()
    write_file(folder / SCAN, strict_json.dumps(asdict(ScanSummary(**values))))


def prepare_mix(scan: MixScan, workspace: Workspace, tokenizer: Tokenizer | None = None) -> PreparedMix:
    """Encode every corpus with one tokenizer, which is learnt or loaded if it is not given.

    Raises:
        DataError, TokenizerError, StorageError, OutOfMemoryError: As `prepare_corpus`.
    """
    if scan.is_single:
        return prepared_alone(prepare_corpus(scan.scans[0], workspace, tokenizer))
    report, first = scan.report(), scan.scans[0]
    if isinstance(first, EncodedScan):
        tokenizer = first.tokenizer
    if tokenizer is None:
        tokenizer, sample = mixed_tokenizer(scan, workspace)
        report |= {"tokenizer_sample": sample} if sample else {}
    corpora = [prepare_corpus(one, workspace, tokenizer) for one in scan.scans]
    directory = workspace.cache_dir / "tokens" / cache_key("mix", [corpus.directory.name for corpus in corpora])
    with only_writer(directory):
        is_there = is_whole(directory)
        if not is_there:
            with new_entry(directory) as folder:
                tokenizer.save(folder / "tokenizer")
                join([corpus.val for corpus in corpora], folder / "val")
                sketches = [TextSketch.open(corpus.directory / SKETCH) for corpus in corpora]
                TextSketch.joined(sketches).save(folder / SKETCH)
                write_overlap(folder, [corpus.val for corpus in corpora], [corpus.train for corpus in corpora])
    from_cache = is_there and all(corpus.from_cache for corpus in corpora)
    return open_together(workspace.config, directory, corpora, report, from_cache)


def prepared_alone(corpus: PreparedCorpus) -> PreparedMix:
    """Return the mix of a single corpus."""
    return PreparedMix(UNNAMED, (1.0,), (corpus,), corpus.val, corpus.report, corpus.from_cache, corpus.directory)


def open_mix(
    config: DataConfig,
    directory: Path,
    directories: Sequence[Path],
    tokenizer: Tokenizer,
    report: dict[str, Any],
    share: VerifiedShare = WHOLE,
) -> PreparedMix:
    """Open a prepared mix in `directory`, and its corpora in `directories`.

    Their files are verified before; each of several processes has its share.

    Raises:
        DataError: A file is damaged.
    """
    reports = report.get("mix", [report])
    corpora = [
        open_corpus(one, tokenizer, of_corpus, from_cache=True, share=share)
        for one, of_corpus in zip(directories, reports, strict=True)
    ]
    return open_together(config, directory, corpora, report, True, share) if config.mix else prepared_alone(corpora[0])


def open_together(
    config: DataConfig,
    directory: Path,
    corpora: Sequence[PreparedCorpus],
    report: dict[str, Any],
    from_cache: bool,
    share: VerifiedShare = WHOLE,
) -> PreparedMix:
    """Open a mix of several corpora, whose common files in `directory` are verified before."""
    require_whole(directory, share)
    overlap, overlaps = read_overlap(directory)
    tokens = [
        {"train_tokens": len(corpus.train), "val_tokens": len(corpus.val), "ngram_overlap": one}
        for corpus, one in zip(corpora, overlaps, strict=True)
    ]
    first = corpora[0]
    report = report | {
        "mix": [one | count for one, count in zip(report["mix"], tokens, strict=True)],
        "tokenizer": first.report["tokenizer"],
        "framing": first.report["framing"],
        "lost_text": read_lost_text([corpus.directory for corpus in corpora], first.tokenizer),
        "train_tokens": sum(len(corpus.train) for corpus in corpora),
        "val_tokens": sum(len(corpus.val) for corpus in corpora),
        "ngram_overlap": overlap,
    }
    val = TokenShards.open(directory / "val")
    return PreparedMix(*config.names_and_weights, tuple(corpora), val, report, from_cache, directory)


def join(splits: Sequence[TokenShards], folder: Path) -> None:
    """Write several splits of one tokenizer as one, one after another."""
    first = splits[0]
    described = (first.vocab_size, first.framing, first.tokenizer_fingerprint)
    with ShardWriter(folder, *described, masked=first.is_masked) as writer:
        for split in splits:
            writer.append_split(split, continues=False)


def mixed_tokenizer(scan: MixScan, workspace: Workspace) -> tuple[Tokenizer, dict[str, int] | None]:
    """Return the tokenizer of several corpora; one that is learnt reads a sample with the share of each corpus."""
    wanted = [int(SAMPLE_BYTES * weight / sum(scan.weights)) for weight in scan.weights]
    texts = [(one, most) for one, most in zip(scan.scans, wanted, strict=True) if isinstance(one, CorpusScan)]
    settings = workspace.config.tokenizer.model_dump(mode="json")
    key = cache_key("mix", [(one.fingerprint, most) for one, most in texts], settings)
    return learn_tokenizer(texts, key, workspace)
