"""From a split corpus to token shards: learn the tokenizer on the training part, encode both, keep all in a cache.

The cache is keyed by the text and the tokenizer, so the second run on the same corpus starts at once, under whatever
name the corpus then lies. Knows no sequence and no model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli import strict_json
from gptcli.console import Progress, say, size
from gptcli.data.cache import (
    WHOLE,
    Share,
    cache_key,
    is_whole,
    new_entry,
    only_writer,
    require_whole,
    unfinished,
)
from gptcli.data.config import DataConfig
from gptcli.data.crew import ALL_CORES, Means, in_order
from gptcli.data.lost_text import read_lost_text, write_lost_text
from gptcli.data.overlap import read_overlap, write_overlap
from gptcli.data.sample import SAMPLE_BYTES, drawn_buckets
from gptcli.data.scan import CorpusScan, forgotten_if_changed
from gptcli.data.scan import scan_corpus as scan_texts
from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.data.sketch import SKETCH, SketchBuilder, TextSketch
from gptcli.data.stages import draw, drawn_texts, encode, encode_into
from gptcli.data.token_files import is_token_file
from gptcli.data.token_scan import TokenScan, scan_tokens
from gptcli.errors import DataError
from gptcli.storage import read_regular, write_file
from gptcli.tokenizer.config import TokenizerConfig
from gptcli.tokenizer.framing import DocumentFraming
from gptcli.tokenizer.lost_text import LostText
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer
from gptcli.tokenizer.train import build_tokenizer

__all__ = ["CorpusScan", "PreparedCorpus", "open_prepared", "prepare_corpus", "scan_corpus"]

LEARNT = ("char", "bpe")
"""Tokenizers that depend on the training text."""
SAMPLE = "sample.json"
"""Beside a learnt tokenizer: the sample that it was learnt from, if it was one."""


@dataclass(frozen=True)
class PreparedCorpus:
    """Both parts of a corpus as tokens."""

    train: TokenShards
    val: TokenShards
    tokenizer: Tokenizer
    report: dict[str, Any]
    """What was kept, dropped, split and encoded, as JSON can write it."""
    from_cache: bool
    """Whether the tokens were there already."""
    directory: Path
    """Where in the cache they are; `open_prepared` opens it."""


def scan_corpus(
    sources: Sequence[str], config: DataConfig, cache_dir: Path, seed: int = 0, means: Means = ALL_CORES
) -> CorpusScan:
    """Read and split a corpus of texts, or of tokens that another program wrote (.bin).

    Raises:
        DataError, StorageError, OutOfMemoryError: as `gptcli.data.scan.scan_corpus`, or `scan_tokens`.
    """
    if any(is_token_file(source) for source in sources):
        return scan_tokens(sources, config, cache_dir)
    return scan_texts(sources, config, cache_dir, seed, means)


def prepare_corpus(
    scan: CorpusScan,
    config: DataConfig,
    cache_dir: Path,
    tokenizer: Tokenizer | None = None,
    means: Means = ALL_CORES,
) -> PreparedCorpus:
    """Learn or load the tokenizer, if it is not given, and encode both parts, or take what the cache holds.

    Raises:
        DataError: the corpus changed since it was scanned.
        TokenizerError: the tokenizer cannot be learnt or read.
        StorageError: the corpus cannot be read, or the cache cannot be written.
        OutOfMemoryError: a process was killed.
    """
    if isinstance(scan, TokenScan):
        return assemble(scan.directory, scan.tokenizer, scan.report(), scan.from_cache)
    report = scan.report()
    if tokenizer is None:
        tokenizer, sample = prepare_tokenizer(scan, config.tokenizer, cache_dir, means)
        report |= {"tokenizer_sample": sample} if sample else {}
    directory = cache_dir / "tokens" / cache_key(scan.fingerprint, tokenizer.fingerprint, *framing_key(tokenizer))
    with only_writer(directory):
        from_cache = is_whole(directory)
        if not from_cache:
            with forgotten_if_changed(scan), unfinished(directory) as work, new_entry(directory) as folder:
                tokenizer.save(folder / "tokenizer")
                write_tokens(folder, scan, tokenizer, work, means)
                write_overlap(folder, [TokenShards.open(folder / "val")], [TokenShards.open(folder / "train")])
                write_file(folder / "report.json", strict_json.dumps(report, indent=2) + "\n")
        return assemble(directory, tokenizer, report, from_cache)


def open_prepared(directory: Path) -> PreparedCorpus:
    """Open what `prepare_corpus` has left in the cache, with the report of the corpus that was encoded first.

    Raises:
        DataError: it is no such directory, or damaged.
    """
    path = directory / "report.json"
    if not path.is_file():
        raise DataError(f"{directory} holds no prepared data ({path.name} is missing)", "check the path")
    require_whole(directory)
    report = strict_json.parse(read_regular(path).decode())
    return assemble(directory, load_tokenizer(directory / "tokenizer"), report, from_cache=True)


def assemble(
    directory: Path, tokenizer: Tokenizer, report: dict[str, Any], from_cache: bool, share: Share = WHOLE
) -> PreparedCorpus:
    """Open what was prepared, whose files are verified before; of several processes on a machine each has its share.

    Raises:
        DataError: a file is damaged.
    """
    require_whole(directory, share)
    train, val = TokenShards.open(directory / "train", elsewhere=True), TokenShards.open(directory / "val")
    train.verify_elsewhere(share)
    tokens = {
        "tokenizer": {"name": tokenizer.name, "vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint},
        "framing": framing_report(tokenizer),
        "train_tokens": len(train),
        "val_tokens": len(val),
        "ngram_overlap": read_overlap(directory)[0],
        "lost_text": read_lost_text([directory], tokenizer),
    }
    return PreparedCorpus(train, val, tokenizer, report | tokens, from_cache, directory)


def framing_key(tokenizer: Tokenizer) -> list[Any]:
    """The part of a cache entry's name for a framing other than one `eos_id` before each document; empty for that."""
    framing = tokenizer.framing
    return [] if framing == DocumentFraming(tokenizer.eos_id) else ["framing", framing.begin_id, framing.end_id]


def framing_report(tokenizer: Tokenizer) -> dict[str, str | None]:
    """The tokens around each document, as text."""
    ids = {"begin": tokenizer.framing.begin_id, "end": tokenizer.framing.end_id}
    return {name: None if id is None else tokenizer.token_text(id) for name, id in ids.items()}


def prepare_tokenizer(
    scan: CorpusScan, config: TokenizerConfig, cache_dir: Path, means: Means
) -> tuple[Tokenizer, dict[str, int] | None]:
    """The tokenizer that `config` asks for, and the size of the sample that it was learnt from, if it was one."""
    is_sampled = config.name == "bpe" and scan.train.bytes > SAMPLE_BYTES
    of_sample = [SAMPLE_BYTES] if is_sampled else []
    key = cache_key(scan.fingerprint, config.model_dump(mode="json"), *of_sample)
    return learn_tokenizer(config, [(scan, SAMPLE_BYTES)], cache_dir / "tokenizers" / key, means)


def learn_tokenizer(
    config: TokenizerConfig, sources: Sequence[tuple[CorpusScan, int]], entry: Path, means: Means
) -> tuple[Tokenizer, dict[str, int] | None]:
    """The tokenizer that `config` asks for, of all sources, scans with the bytes of each that BPE reads at most.

    One that is learnt is kept in the cache's `entry`, with the size of the sample that it was learnt from. The size is
    None where the whole text of a single source was read.
    """
    if config.name not in LEARNT:
        return build_tokenizer(config, lambda: iter(())), None
    scans = [scan for scan, _ in sources]
    with only_writer(entry):
        if not is_whole(entry):
            with forgotten_if_changed(*scans), unfinished(entry) as work, new_entry(entry) as folder:
                readers, samples = [], []
                for number, (scan, wanted) in enumerate(sources):
                    read, sample = learning_texts(scan, config.name, wanted, work / f"sample-{number}", means)
                    readers.append(read)
                    samples.append(sample)
                whole = {name: sum(sample[name] for sample in samples) for name in samples[0]}
                if whole["bytes"] < whole["of_bytes"]:
                    say(f"learning {config.name} from {sample_words(whole)}")
                if whole["bytes"] < whole["of_bytes"] or len(sources) > 1:
                    write_file(folder / SAMPLE, strict_json.dumps(whole))
                build_tokenizer(config, lambda: itertools.chain.from_iterable(read() for read in readers)).save(folder)
        path = entry / SAMPLE
        return load_tokenizer(entry), strict_json.parse(read_regular(path).decode()) if path.is_file() else None


def learning_texts(
    scan: CorpusScan, name: str, wanted: int, work: Path, means: Means
) -> tuple[Callable[[], Iterator[str]], dict[str, int]]:
    """What gives the texts that a tokenizer learns from, and how many they are: of BPE at most about `wanted` bytes."""
    whole = {"documents": scan.train.documents, "bytes": scan.train.bytes}
    of = {f"of_{key}": count for key, count in whole.items()}
    if name != "bpe" or scan.train.bytes <= wanted:
        return lambda: with_progress(scan, name), whole | of
    drawn = drawn_buckets(scan.records, scan.assignment, wanted)
    jobs = scan.jobs(means.section_bytes, work.with_name(f"{work.name}-{means.section_bytes}-{drawn}"))
    sample = dict.fromkeys(whole, 0)
    with Progress("sample", len(jobs), unit="parts") as progress:
        for result in in_order(draw, [(job, drawn) for job in jobs], means.processes):
            sample = {key: count + result[key] for key, count in sample.items()}
            progress.update()
    return lambda: (text for job in jobs for text in drawn_texts(job)), sample | of


def with_progress(scan: CorpusScan, name: str) -> Iterator[str]:
    """The training texts, with progress on stderr; for a tokenizer of characters these alone, once each."""
    characters = scan.train_characters() if name == "char" else None
    if characters is not None:
        yield characters
        return
    with Progress(f"learn {name}", scan.train.characters, unit="characters", scale=True) as progress:
        for text in scan.train_texts():
            yield text
            progress.update(len(text))


def sample_words(sample: Mapping[str, int]) -> str:
    """The size of a sample in words."""
    return (
        f"a sample of {size(sample['bytes'])} of {size(sample['of_bytes'])}, {sample['documents']:,} of "
        f"{sample['of_documents']:,} documents"
    )


def write_tokens(folder: Path, scan: CorpusScan, tokenizer: Tokenizer, work: Path, means: Means) -> None:
    """Encode both parts in one reading of the corpus and sketch the training part; `folder` has the tokenizer."""
    builder = SketchBuilder(scan.train.bytes)
    jobs = scan.jobs(means.section_bytes, work / f"encode-{means.section_bytes}")
    if len(jobs) == 1:
        with Progress("encode", scan.train.bytes + scan.val.bytes, unit="B", scale=True) as progress:
            result = encode_into(folder, jobs[0], tokenizer, builder, progress.update)
        write_lost_text(folder, list(map(LostText.of_json, result["lost"])))
        builder.merge().save(folder / SKETCH)
        return
    vocabulary = (tokenizer.vocab_size, tokenizer.framing, tokenizer.fingerprint)
    tasks = [(job, folder / "tokenizer", scan.train.bytes, means.process_bytes) for job in jobs]
    lost = [LostText(), LostText()]
    with (
        ShardWriter(folder / "train", *vocabulary) as train,
        ShardWriter(folder / "val", *vocabulary) as val,
        Progress("encode", len(jobs), unit="parts") as progress,
    ):
        for job, result in zip(jobs, in_order(encode, tasks, means.processes), strict=True):
            for writer, goes_on in zip((train, val), result["goes_on"], strict=True):
                writer.append_split(TokenShards.open(job.folder / writer.directory.name), goes_on)
            builder.include(TextSketch.open(job.folder / SKETCH))
            lost = [part + LostText.of_json(more) for part, more in zip(lost, result["lost"], strict=True)]
            progress.update()
    builder.merge().save(folder / SKETCH)
    write_lost_text(folder, lost)
