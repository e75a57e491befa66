"""The preparation of a corpus: learn the tokenizer on the training split, encode both splits, keep all in a cache.

The cache is keyed by the text and the tokenizer, so that the second run on the same corpus starts at once, even if
its files were moved or renamed.
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
    VerifiedShare,
    cache_key,
    is_whole,
    new_entry,
    only_writer,
    require_whole,
    unfinished,
)
from gptcli.data.examples.scan import scan_examples
from gptcli.data.lost_text import read_lost_text, write_lost_text
from gptcli.data.overlap import read_overlap, write_overlap
from gptcli.data.sample import SAMPLE_BYTES, drawn_buckets
from gptcli.data.scan import CorpusScan, EncodedScan, discarded_if_changed, scan_texts
from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.data.sketch import SKETCH, SketchBuilder, TextSketch
from gptcli.data.stages import EncodeTask, ShardEncoder, draw, drawn_texts, encode
from gptcli.data.token_files import is_token_file
from gptcli.data.token_scan import scan_tokens
from gptcli.data.worker_pool import WorkerConfig, in_order
from gptcli.data.workspace import Workspace
from gptcli.storage import read_regular, write_file
from gptcli.tokenizer.framing import DocumentFraming
from gptcli.tokenizer.lost_text import LostText
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer
from gptcli.tokenizer.train import build_tokenizer

LEARNT = ("char", "bpe")
"""The tokenizers that depend on the training text."""
SAMPLE = "sample.json"
"""The file beside a tokenizer that was learnt from a sample, with the size of the sample."""


@dataclass(frozen=True)
class PreparedCorpus:
    """Both splits of a corpus as tokens."""

    train: TokenShards
    val: TokenShards
    tokenizer: Tokenizer
    report: dict[str, Any]
    """The report of the documents that were kept, dropped, split and encoded, as JSON can write it."""
    from_cache: bool
    """Whether the tokens were in the cache already."""
    directory: Path
    """The directory in the cache, which `open_corpus` opens."""


def scan_corpus(sources: Sequence[str], workspace: Workspace) -> CorpusScan | EncodedScan:
    """Read and split a corpus of texts, of examples, or of tokens that another program wrote (.bin).

    Raises:
        DataError, StorageError, OutOfMemoryError: As `scan_texts`, `scan_examples` or `scan_tokens`.
    """
    if workspace.config.kind != "text":
        return scan_examples(sources, workspace)
    is_tokens = any(is_token_file(source) for source in sources)
    return scan_tokens(sources, workspace) if is_tokens else scan_texts(sources, workspace)


def prepare_corpus(
    scan: CorpusScan | EncodedScan, workspace: Workspace, tokenizer: Tokenizer | None = None
) -> PreparedCorpus:
    """Encode both splits of a corpus, or take the result from the cache.

    The tokenizer is learnt or loaded as `data.tokenizer` says if it is not given. Tokens and examples have their own.

    Raises:
        DataError: The corpus has changed since it was scanned.
        TokenizerError: The tokenizer cannot be learnt or read.
        StorageError: The corpus cannot be read, or the cache cannot be written.
        OutOfMemoryError: A process was killed.
    """
    report = scan.report()
    if isinstance(scan, EncodedScan):
        return open_corpus(scan.directory, scan.tokenizer, report, scan.from_cache)
    if tokenizer is None:
        tokenizer, sample = prepare_tokenizer(scan, workspace)
        report |= {"tokenizer_sample": sample} if sample else {}
    key = cache_key(scan.fingerprint, tokenizer.fingerprint, *framing_key(tokenizer))
    directory = workspace.cache_dir / "tokens" / key
    with only_writer(directory):
        from_cache = is_whole(directory)
        if not from_cache:
            with discarded_if_changed(scan), unfinished(directory) as work, new_entry(directory) as folder:
                tokenizer.save(folder / "tokenizer")
                write_tokens(folder, scan, tokenizer, work, workspace.workers)
                write_overlap(folder, [TokenShards.open(folder / "val")], [TokenShards.open(folder / "train")])
                write_file(folder / "report.json", strict_json.dumps(report, indent=2) + "\n")
        return open_corpus(directory, tokenizer, report, from_cache)


def open_corpus(
    directory: Path, tokenizer: Tokenizer, report: dict[str, Any], from_cache: bool, share: VerifiedShare = WHOLE
) -> PreparedCorpus:
    """Open a prepared corpus and verify its files, of which each of several processes has its share.

    Raises:
        DataError: A file is damaged.
    """
    require_whole(directory, share)
    train, val = TokenShards.open(directory / "train", elsewhere=True), TokenShards.open(directory / "val")
    train.verify_elsewhere(share)
    tokens = {
        "tokenizer": {"name": tokenizer.name, "vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint},
        "framing": framing_report(tokenizer, train.framing),
        "train_tokens": len(train),
        "val_tokens": len(val),
        "ngram_overlap": read_overlap(directory)[0],
        "lost_text": read_lost_text([directory], tokenizer),
    }
    return PreparedCorpus(train, val, tokenizer, report | tokens, from_cache, directory)


def framing_key(tokenizer: Tokenizer) -> list[Any]:
    """Return the part of a cache key for a framing other than one `eos_id` before each document; empty for that one."""
    framing = tokenizer.framing
    return [] if framing == DocumentFraming(tokenizer.eos_id) else ["framing", framing.begin_id, framing.end_id]


def framing_report(tokenizer: Tokenizer, framing: DocumentFraming) -> dict[str, str | None]:
    """Return the tokens around each document, as text."""
    ids = {"begin": framing.begin_id, "end": framing.end_id}
    return {name: None if id is None else tokenizer.token_text(id) for name, id in ids.items()}


def prepare_tokenizer(scan: CorpusScan, workspace: Workspace) -> tuple[Tokenizer, dict[str, int] | None]:
    """Return the tokenizer that `data.tokenizer` sets, and the size of its sample, as `learn_tokenizer`."""
    config = workspace.config.tokenizer
    is_sampled = config.name == "bpe" and scan.train.bytes > SAMPLE_BYTES
    of_sample = [SAMPLE_BYTES] if is_sampled else []
    key = cache_key(scan.fingerprint, config.model_dump(mode="json"), *of_sample)
    return learn_tokenizer([(scan, SAMPLE_BYTES)], key, workspace)


def learn_tokenizer(
    sources: Sequence[tuple[CorpusScan, int]], key: str, workspace: Workspace
) -> tuple[Tokenizer, dict[str, int] | None]:
    """Return the tokenizer that `data.tokenizer` sets, and the size of the sample that it was learnt from.

    One that is learnt is kept in the cache under `key`. The size is None if the whole text of a single source was read.

    Args:
        sources: Scans, each with the most bytes that a BPE tokenizer is learnt from.
    """
    config = workspace.config.tokenizer
    if config.name not in LEARNT:
        return build_tokenizer(config, lambda: iter(())), None
    entry = workspace.cache_dir / "tokenizers" / key
    with only_writer(entry):
        if not is_whole(entry):
            scans = [scan for scan, _ in sources]
            with discarded_if_changed(*scans), unfinished(entry) as work, new_entry(entry) as folder:
                readers, samples = [], []
                for number, (scan, wanted) in enumerate(sources):
                    read, sample = learning_texts(scan, wanted, work / f"sample-{number}", workspace)
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
    scan: CorpusScan, wanted: int, folder: Path, workspace: Workspace
) -> tuple[Callable[[], Iterator[str]], dict[str, int]]:
    """Return a reader of the texts that a tokenizer is learnt from, about `wanted` bytes for BPE, and their size.

    The parts of a sample are kept in a folder whose name begins with that of `folder`.
    """
    name, section_bytes = workspace.config.tokenizer.name, workspace.workers.section_bytes
    whole = {"documents": scan.train.documents, "bytes": scan.train.bytes}
    of = {f"of_{key}": count for key, count in whole.items()}
    if name != "bpe" or scan.train.bytes <= wanted:
        return lambda: with_progress(scan, name), whole | of
    drawn = drawn_buckets(scan.records, scan.assignment, wanted)
    jobs = scan.jobs(section_bytes, folder.with_name(f"{folder.name}-{section_bytes}-{drawn}"))
    sample = dict.fromkeys(whole, 0)
    with Progress("sample", len(jobs), unit="parts") as progress:
        for result in in_order(draw, [(job, drawn) for job in jobs], workspace.workers.processes):
            sample = {key: count + result[key] for key, count in sample.items()}
            progress.update()
    return lambda: (text for job in jobs for text in drawn_texts(job)), sample | of


def with_progress(scan: CorpusScan, name: str) -> Iterator[str]:
    """Yield the training texts, with progress on stderr; for a tokenizer of characters each character once."""
    if name == "char":
        yield scan.train_characters()
        return
    with Progress(f"learn {name}", scan.train.characters, unit="characters", scale=True) as progress:
        for text in scan.train_texts():
            yield text
            progress.update(len(text))


def sample_words(sample: Mapping[str, int]) -> str:
    """Return the size of a sample in words."""
    return (
        f"a sample of {size(sample['bytes'])} of {size(sample['of_bytes'])}, {sample['documents']:,} of "
        f"{sample['of_documents']:,} documents"
    )


def write_tokens(folder: Path, scan: CorpusScan, tokenizer: Tokenizer, work: Path, workers: WorkerConfig) -> None:
    """Encode both splits in one reading of the corpus and sketch the training split; `folder` has the tokenizer."""
    builder = SketchBuilder(scan.train.bytes)
    jobs = scan.jobs(workers.section_bytes, work / f"encode-{workers.section_bytes}")
    if len(jobs) == 1:
        with Progress("encode", scan.train.bytes + scan.val.bytes, unit="B", scale=True) as progress:
            encoder = ShardEncoder(tokenizer, builder, progress.update)
            result = encoder.encode_into(folder, jobs[0].reader.pieces())
        write_lost_text(folder, list(map(LostText.of_json, result["lost"])))
        builder.merge().save(folder / SKETCH)
        return
    vocabulary = (tokenizer.vocab_size, tokenizer.framing, tokenizer.fingerprint)
    tasks = [EncodeTask(job, folder / "tokenizer", scan.train.bytes, workers.process_bytes) for job in jobs]
    lost = [LostText(), LostText()]
    with (
        ShardWriter(folder / "train", *vocabulary) as train,
        ShardWriter(folder / "val", *vocabulary) as val,
        Progress("encode", len(jobs), unit="parts") as progress,
    ):
        for job, result in zip(jobs, in_order(encode, tasks, workers.processes), strict=True):
            for writer, continues in zip((train, val), result["goes_on"], strict=True):
                writer.append_split(TokenShards.open(job.folder / writer.directory.name), continues)
            builder.include(TextSketch.open(job.folder / SKETCH))
            lost = [part + LostText.of_json(more) for part, more in zip(lost, result["lost"], strict=True)]
            progress.update()
    builder.merge().save(folder / SKETCH)
    write_lost_text(folder, lost)
