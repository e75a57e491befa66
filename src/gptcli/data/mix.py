"""The corpora that a run is trained on in given proportions: each is prepared by itself, with one tokenizer for all.

What one of them is validated on, no other is trained on. A single corpus is a mix of one, which has no name and needs
no entry of the cache of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from gptcli import strict_json
from gptcli.data.arrays import stretches
from gptcli.data.cache import WHOLE, Share, cache_key, is_whole, new_entry, only_writer, require_whole
from gptcli.data.config import DataConfig
from gptcli.data.crew import ALL_CORES, Means
from gptcli.data.left_out import left_out_report
from gptcli.data.lost_text import read_lost_text
from gptcli.data.overlap import read_overlap, write_overlap
from gptcli.data.prepare import PreparedCorpus, assemble, learn_tokenizer, prepare_corpus, scan_corpus
from gptcli.data.sample import SAMPLE_BYTES
from gptcli.data.scan import ASSIGNMENT, SCAN, CorpusScan, Findings, open_scan, text_fingerprint
from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.data.sketch import SKETCH, TextSketch
from gptcli.data.split import OVERLAP, TRAIN, VAL, Split
from gptcli.data.stages import SplitStatistics
from gptcli.data.token_files import is_token_file
from gptcli.data.token_mix import UNNAMED, Mix, TokenMix
from gptcli.errors import ConfigError
from gptcli.manifest import MANIFEST_NAME
from gptcli.storage import create_file, write_file
from gptcli.tokenizer.config import TokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer

DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])


@dataclass(frozen=True)
class MixScan(Mix):
    """The corpora of a run as they were read and split."""

    scans: tuple[CorpusScan, ...]

    @classmethod
    def of_one(cls, scan: CorpusScan) -> MixScan:
        """The mix of a single corpus."""
        return cls(UNNAMED, (1.0,), (scan,))

    @property
    def train(self) -> SplitStatistics:
        """The sum of all training parts; of distinct characters, a lower bound."""
        return together([scan.train for scan in self.scans])

    @property
    def val(self) -> SplitStatistics:
        """The sum of all validation parts, as `train`."""
        return together([scan.val for scan in self.scans])

    @property
    def unseen_characters(self) -> int:
        """The sum over the corpora of the distinct characters that only the validation part has."""
        return sum(scan.unseen_characters for scan in self.scans)

    def report(self) -> dict[str, Any]:
        """What was kept, dropped and split, in all and of each named corpus, as JSON can write it."""
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
    """Everything that training needs of its corpora."""

    corpora: tuple[PreparedCorpus, ...]
    val: TokenShards
    """The validation parts of all corpora, one after another."""
    report: dict[str, Any]
    """What was kept, dropped, split and encoded, as JSON can write it."""
    from_cache: bool
    """Whether the tokens were there already."""
    directory: Path
    """The directory in the cache that holds `val` and the sketch of all training parts."""

    @property
    def train(self) -> TokenMix:
        """The training parts."""
        return TokenMix(self.names, self.weights, tuple(corpus.train for corpus in self.corpora))

    @property
    def vals(self) -> tuple[TokenShards, ...]:
        """The validation part of each corpus."""
        return tuple(corpus.val for corpus in self.corpora)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of all corpora."""
        return self.corpora[0].tokenizer


def together(parts: Sequence[SplitStatistics]) -> SplitStatistics:
    sums = (sum(getattr(part, name) for part in parts) for name in ("documents", "bytes", "characters"))
    return SplitStatistics(*sums, max(part.distinct_characters for part in parts))


def scan_mix(config: DataConfig, cache_dir: Path, seed: int = 0, means: Means = ALL_CORES) -> MixScan:
    """Read and split the corpora of `data.mix`, or the one of `data.corpus`, as `scan_corpus`.

    A document that another corpus of the mix is validated on counts as overlap, and is not trained on.

    Raises:
        ConfigError: one of several corpora is tokens of another program.
        DataError, StorageError, OutOfMemoryError: as `scan_corpus`.
    """
    if not config.mix:
        return MixScan.of_one(scan_corpus(config.corpus, config, cache_dir, seed, means))
    for entry in config.mix:
        if any(is_token_file(source) for source in entry.corpus):
            raise ConfigError(f"data.mix: {entry.title} is a file of tokens", "name texts, or train on it alone")
    scans = [scan_corpus(entry.corpus, config, cache_dir, seed, means) for entry in config.mix]
    held_out = [digests_of(scan, VAL) for scan in scans]
    apart = [
        without(scan, np.concatenate([*held_out[:number], *held_out[number + 1 :], np.empty(0, DIGEST)]), cache_dir)
        for number, scan in enumerate(scans)
    ]
    return MixScan(*config.names_and_weights, tuple(apart))


def digests_of(scan: CorpusScan, kind: int) -> np.ndarray:
    """(N,) of DIGEST: those of all documents of a kind."""
    found = [np.empty(0, DIGEST)]
    for _, some, kinds in stretches(scan.records, scan.assignment):
        chosen = some[kinds == kind]
        digests = np.empty(len(chosen), DIGEST)
        digests["high"], digests["low"] = chosen["high"], chosen["low"]
        found.append(digests)
    return np.concatenate(found)


def without(scan: CorpusScan, held_out: np.ndarray, cache_dir: Path) -> CorpusScan:
    """The scan with the documents of these digests dropped from what is trained on; itself if there are none."""
    places = [np.empty(0, dtype=np.int64)]
    high = np.unique(held_out["high"])
    for start, some, kinds in stretches(scan.records, scan.assignment):
        near = np.flatnonzero((kinds == TRAIN) & np.isin(some["high"], high))
        digests = np.empty(len(near), DIGEST)
        digests["high"], digests["low"] = some["high"][near], some["low"][near]
        places.append(start + near[np.isin(digests, held_out)])
    dropped = np.concatenate(places)
    if not len(dropped):
        return scan
    if len(dropped) == scan.train.documents:
        raise ConfigError(f"nothing is left to train on of {scan.files[0].name}", "all of it is validated on elsewhere")
    digest = hashlib.sha256(np.ascontiguousarray(dropped)).hexdigest()
    entry = cache_dir / "scans" / cache_key("apart", scan.entry.name, digest)
    with only_writer(entry):
        if not is_whole(entry):
            with new_entry(entry) as folder:
                manifest = shutil.ignore_patterns(MANIFEST_NAME)
                shutil.copytree(scan.entry, folder, dirs_exist_ok=True, ignore=manifest, copy_function=os.link)
                drop_documents(folder, scan, dropped)
        return open_scan(entry, scan.config, scan.passed_over)


def drop_documents(folder: Path, scan: CorpusScan, dropped: np.ndarray) -> None:
    """Mark the documents as overlap in a scan's directory, whose files may be shared with another's."""
    (folder / ASSIGNMENT).unlink()
    with create_file(folder / ASSIGNMENT) as out:
        for start, kinds in stretches(scan.assignment):
            changed = np.array(kinds)
            first, last = np.searchsorted(dropped, (start, start + len(changed)))
            changed[dropped[first:last] - start] = OVERLAP
            out.write(changed)
    assignment = np.memmap(folder / ASSIGNMENT, dtype=np.uint8, mode="r")
    gone = scan.records[dropped]
    size, train = int(gone["bytes"].sum()), scan.train
    values = {name: getattr(scan, name) for name in Findings.__dataclass_fields__} | {
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
    write_file(folder / SCAN, strict_json.dumps(asdict(Findings(**values))))


def prepare_mix(
    scan: MixScan,
    config: DataConfig,
    cache_dir: Path,
    tokenizer: Tokenizer | None = None,
    means: Means = ALL_CORES,
) -> PreparedMix:
    """Learn or load the tokenizer, if it is not given, and encode every corpus.

    Raises:
        DataError, TokenizerError, StorageError, OutOfMemoryError: as `prepare_corpus`.
    """
    if scan.is_single:
        return prepared_alone(prepare_corpus(scan.scans[0], config, cache_dir, tokenizer, means))
    report = scan.report()
    if tokenizer is None:
        tokenizer, sample = mixed_tokenizer(scan, config.tokenizer, cache_dir, means)
        report |= {"tokenizer_sample": sample} if sample else {}
    corpora = [prepare_corpus(one, config, cache_dir, tokenizer, means) for one in scan.scans]
    directory = cache_dir / "tokens" / cache_key("mix", [corpus.directory.name for corpus in corpora])
    with only_writer(directory):
        is_there = is_whole(directory)
        if not is_there:
            with new_entry(directory) as folder:
                tokenizer.save(folder / "tokenizer")
                join([corpus.val for corpus in corpora], folder / "val", tokenizer)
                sketches = [TextSketch.open(corpus.directory / SKETCH) for corpus in corpora]
                TextSketch.joined(sketches).save(folder / SKETCH)
                write_overlap(folder, [corpus.val for corpus in corpora], [corpus.train for corpus in corpora])
    from_cache = is_there and all(corpus.from_cache for corpus in corpora)
    return open_together(config, directory, corpora, report, from_cache)


def prepared_alone(corpus: PreparedCorpus) -> PreparedMix:
    """The mix of a single corpus."""
    return PreparedMix(UNNAMED, (1.0,), (corpus,), corpus.val, corpus.report, corpus.from_cache, corpus.directory)


def open_mix(
    config: DataConfig,
    directory: Path,
    directories: Sequence[Path],
    tokenizer: Tokenizer,
    report: dict[str, Any],
    share: Share = WHOLE,
) -> PreparedMix:
    """Open what `prepare_mix` has left in `directory` and, of each corpus, in `directories`.

    Their files are verified before; of several processes on a machine each has its share.

    Raises:
        DataError: a file is damaged.
    """
    reports = report.get("mix", [report])
    corpora = [assemble(*one, from_cache=True, share=share) for one in zip(directories, repeat(tokenizer), reports)]
    return open_together(config, directory, corpora, report, True, share) if config.mix else prepared_alone(corpora[0])


def open_together(
    config: DataConfig,
    directory: Path,
    corpora: Sequence[PreparedCorpus],
    report: dict[str, Any],
    from_cache: bool,
    share: Share = WHOLE,
) -> PreparedMix:
    """The mix of several corpora, with what `directory` holds of all, whose files are verified before."""
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
        "train_tokens": sum(count["train_tokens"] for count in tokens),
        "val_tokens": sum(count["val_tokens"] for count in tokens),
        "ngram_overlap": overlap,
    }
    val = TokenShards.open(directory / "val")
    return PreparedMix(*config.names_and_weights, tuple(corpora), val, report, from_cache, directory)


def join(splits: Sequence[TokenShards], folder: Path, tokenizer: Tokenizer) -> None:
    """One split of several, one after another."""
    with ShardWriter(folder, tokenizer.vocab_size, tokenizer.framing, tokenizer.fingerprint) as writer:
        for split in splits:
            writer.append_split(split, goes_on=False)


def mixed_tokenizer(
    scan: MixScan, config: TokenizerConfig, cache_dir: Path, means: Means
) -> tuple[Tokenizer, dict[str, int] | None]:
    """The tokenizer of several corpora: one that is learnt reads of each its share of the sample, or all if that is
    less."""
    wanted = [int(SAMPLE_BYTES * weight / sum(scan.weights)) for weight in scan.weights]
    texts = list(zip(scan.scans, wanted, strict=True))
    key = cache_key("mix", [(one.fingerprint, most) for one, most in texts], config.model_dump(mode="json"))
    return learn_tokenizer(config, texts, cache_dir / "tokenizers" / key, means)
