"""Several corpora trained on in given proportions: each is prepared by itself, with one tokenizer for all.

What one of them is validated on, no other is trained on. Knows no batches.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gptcli import strict_json
from gptcli.data.arrays import stretches
from gptcli.data.cache import WHOLE, Share, cache_key, is_whole, new_entry, only_writer, require_whole, unfinished
from gptcli.data.config import DataConfig
from gptcli.data.crew import ALL_CORES, Means
from gptcli.data.left_out import left_out_report
from gptcli.data.lost_text import read_lost_text
from gptcli.data.overlap import read_overlap, write_overlap
from gptcli.data.prepare import SAMPLE, PreparedData, learning_texts, prepare_data, scan_corpus
from gptcli.data.sample import SAMPLE_BYTES
from gptcli.data.scan import (
    ASSIGNMENT,
    SCAN,
    CorpusScan,
    Findings,
    forgotten_if_changed,
    open_scan,
    text_fingerprint,
)
from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.data.sketch import SKETCH, TextSketch
from gptcli.data.split import OVERLAP, TRAIN, VAL, Split
from gptcli.data.stages import SplitStatistics
from gptcli.data.token_files import is_token_file
from gptcli.errors import ConfigError
from gptcli.manifest import MANIFEST_NAME
from gptcli.storage import create_file, read_regular, write_file
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer
from gptcli.tokenizer.train import build_tokenizer

DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])


@dataclass(frozen=True)
class MixedScan:
    """The corpora of a mix as they were read and split."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    scans: tuple[CorpusScan, ...]

    @property
    def train(self) -> SplitStatistics:
        """All training parts together; of distinct characters at least so many."""
        return together([scan.train for scan in self.scans])

    @property
    def val(self) -> SplitStatistics:
        return together([scan.val for scan in self.scans])

    def report(self) -> dict[str, Any]:
        """What was kept, dropped and split, in all and of each corpus, as JSON can write it."""
        parts = [scan.report() for scan in self.scans]
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
                {"name": name, "weight": weight / sum(self.weights)} | part
                for name, weight, part in zip(self.names, self.weights, parts, strict=True)
            ],
        }


@dataclass(frozen=True)
class TokenMix:
    """The training tokens of several corpora and the share of each; `len()` is all their tokens."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    parts: tuple[TokenShards, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def fingerprint(self) -> str:
        """Hash of the tokens of all and of their weights."""
        described = [list(self.weights), [part.fingerprint for part in self.parts]]
        return hashlib.sha256(strict_json.dumps(described).encode()).hexdigest()


def together(parts: Sequence[SplitStatistics]) -> SplitStatistics:
    sums = (sum(getattr(part, name) for part in parts) for name in ("documents", "bytes", "characters"))
    return SplitStatistics(*sums, max(part.distinct_characters for part in parts))


def scan_mix(config: DataConfig, cache_dir: Path, seed: int = 0, means: Means = ALL_CORES) -> MixedScan:
    """Read and split every corpus of a mix, as `scan_corpus`.

    A document that another corpus of the mix is validated on counts as overlap, and is not trained on.

    Raises:
        ConfigError: one of the corpora is tokens of another program.
        DataError, StorageError, OutOfMemoryError: as `scan_corpus`.
    """
    for entry in config.mix:
        if any(is_token_file(source) for source in entry.corpus):
            raise ConfigError(f"data.mix: {entry.title} is a file of tokens", "name texts, or train on it alone")
    scans = [scan_corpus(entry.corpus, config, cache_dir, seed, means) for entry in config.mix]
    held_out = [digests_of(scan, VAL) for scan in scans]
    apart = [
        without(scan, np.concatenate([*held_out[:number], *held_out[number + 1 :], np.empty(0, DIGEST)]), cache_dir)
        for number, scan in enumerate(scans)
    ]
    return MixedScan(
        tuple(entry.title for entry in config.mix), tuple(entry.weight for entry in config.mix), tuple(apart)
    )


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
    scan: MixedScan,
    config: DataConfig,
    cache_dir: Path,
    tokenizer: Tokenizer | None = None,
    means: Means = ALL_CORES,
) -> PreparedData:
    """Learn or load the tokenizer, if it is not given, and encode every corpus of the mix.

    The validation parts are there twice: each by itself, and all as one, in the order of the mix.

    Raises:
        DataError, TokenizerError, StorageError, OutOfMemoryError: as `prepare_data`.
    """
    sample = None
    if tokenizer is None:
        tokenizer, sample = mixed_tokenizer(scan, config, cache_dir, means)
    parts = [prepare_data(one, config, cache_dir, tokenizer, means) for one in scan.scans]
    directory = cache_dir / "tokens" / cache_key("mix", [part.directory.name for part in parts])
    with only_writer(directory):
        is_there = is_whole(directory)
        if not is_there:
            with new_entry(directory) as folder:
                tokenizer.save(folder / "tokenizer")
                join([part.val for part in parts], folder / "val", tokenizer)
                TextSketch.joined([TextSketch.open(part.directory / SKETCH) for part in parts]).save(folder / SKETCH)
                write_overlap(folder, [part.val for part in parts], [part.train for part in parts])
    overlap, overlaps = read_overlap(directory)
    tokens = [
        {"train_tokens": len(part.train), "val_tokens": len(part.val), "ngram_overlap": one}
        for part, one in zip(parts, overlaps, strict=True)
    ]
    report = scan.report()
    report["mix"] = [one | count for one, count in zip(report["mix"], tokens, strict=True)]
    report |= {
        "tokenizer": parts[0].report["tokenizer"],
        "framing": parts[0].report["framing"],
        "lost_text": read_lost_text([part.directory for part in parts], tokenizer),
        "train_tokens": sum(count["train_tokens"] for count in tokens),
        "val_tokens": sum(count["val_tokens"] for count in tokens),
        "ngram_overlap": overlap,
    }
    report |= {"tokenizer_sample": sample} if sample else {}
    from_cache = is_there and all(part.from_cache for part in parts)
    return assemble_mix(config, directory, [part.directory for part in parts], tokenizer, report, from_cache)


def assemble_mix(
    config: DataConfig,
    directory: Path,
    directories: Sequence[Path],
    tokenizer: Tokenizer,
    report: dict[str, Any],
    from_cache: bool,
    share: Share = WHOLE,
) -> PreparedData:
    """Open what was prepared: all validation parts as one in `directory`, and each corpus in its own.

    Their files are verified before; of several processes on a machine each has its share.

    Raises:
        DataError: a file is damaged.
    """
    for one in (directory, *directories):
        require_whole(one, share)
    names, weights = tuple(entry.title for entry in config.mix), tuple(entry.weight for entry in config.mix)
    return PreparedData(
        TokenMix(names, weights, tuple(TokenShards.open(one / "train") for one in directories)),
        TokenShards.open(directory / "val"),
        tokenizer,
        report,
        from_cache,
        directory,
        tuple(directories),
        tuple(TokenShards.open(one / "val") for one in directories),
    )


def join(splits: Sequence[TokenShards], folder: Path, tokenizer: Tokenizer) -> None:
    """One split of several, one after another."""
    with ShardWriter(folder, tokenizer.vocab_size, tokenizer.framing, tokenizer.fingerprint) as writer:
        for split in splits:
            writer.append_split(split, goes_on=False)


def mixed_tokenizer(
    scan: MixedScan, config: DataConfig, cache_dir: Path, means: Means
) -> tuple[Tokenizer, dict[str, int] | None]:
    """The tokenizer of a mix: a learnt one reads of every corpus its share of the sample, or all if that is less."""
    kind = config.tokenizer
    if kind.name not in ("char", "bpe"):
        return build_tokenizer(kind, lambda: iter(())), None
    shares = [int(SAMPLE_BYTES * weight / sum(scan.weights)) for weight in scan.weights]
    texts = [(one.fingerprint, share) for one, share in zip(scan.scans, shares, strict=True)]
    entry = cache_dir / "tokenizers" / cache_key("mix", texts, kind.model_dump(mode="json"))
    with only_writer(entry):
        if not is_whole(entry):
            with forgotten_if_changed(*scan.scans), unfinished(entry) as work, new_entry(entry) as folder:
                sources: list[Callable[[], Iterator[str]]] = []
                samples = []
                for number, (one, share) in enumerate(zip(scan.scans, shares, strict=True)):
                    read, sample = learning_texts(one, kind.name, share, work / str(number), means)
                    sources.append(read)
                    samples.append(sample)
                build_tokenizer(kind, partial(chained, sources)).save(folder)
                whole = {name: sum(sample[name] for sample in samples) for name in samples[0]}
                write_file(folder / SAMPLE, strict_json.dumps(whole))
        return load_tokenizer(entry), strict_json.parse(read_regular(entry / SAMPLE).decode())


def chained(sources: Sequence[Callable[[], Iterator[str]]]) -> Iterator[str]:
    for source in sources:
        yield from source()
