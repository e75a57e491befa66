"""From a split corpus to token shards: learn the tokenizer on the training part, encode both, keep all in a cache.

The cache is keyed by the text and the tokenizer, so the second run on the same corpus starts at once, under whatever
name the corpus then lies. Knows no sequence and no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.console import Progress, say
from gptcli.data.cache import cache_key, default_cache_dir, only_writer
from gptcli.data.config import DataConfig
from gptcli.data.passes import SplitPiece
from gptcli.data.scan import CorpusScan
from gptcli.data.scan import scan_corpus as scan_texts
from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.data.token_files import is_token_file
from gptcli.data.token_scan import TokenScan, scan_tokens
from gptcli.errors import DataError
from gptcli.storage import atomic_directory
from gptcli.tokenizer.config import TokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer
from gptcli.tokenizer.train import build_tokenizer

__all__ = ["CorpusScan", "PreparedData", "default_cache_dir", "open_prepared", "prepare_data", "scan_corpus"]

LEARNT = ("char", "bpe")
"""Tokenizers that depend on the training text."""
BATCH_CHARACTERS = 1 << 22
"""Text that is encoded at once: its tokens are written before more is read."""


@dataclass(frozen=True)
class PreparedData:
    """Everything that training needs of a corpus."""

    train: TokenShards
    val: TokenShards
    tokenizer: Tokenizer
    report: dict[str, Any]
    """What was kept, dropped, split and encoded, as JSON can write it."""
    from_cache: bool
    """Whether the tokens were there already."""
    directory: Path
    """Where in the cache they are; `open_prepared` opens it."""


def scan_corpus(sources: Sequence[str], config: DataConfig, cache_dir: Path, seed: int = 0) -> CorpusScan:
    """Read and split a corpus of texts, or of tokens that another program wrote (.bin).

    Raises:
        DataError, StorageError: as `gptcli.data.scan.scan_corpus`, or `scan_tokens`.
    """
    if any(is_token_file(source) for source in sources):
        return scan_tokens(sources, config, cache_dir)
    return scan_texts(sources, config, cache_dir, seed)


def prepare_data(
    scan: CorpusScan, config: DataConfig, cache_dir: Path, tokenizer: Tokenizer | None = None
) -> PreparedData:
    """Learn or load the tokenizer, if it is not given, and encode both parts, or take what the cache holds.

    Raises:
        DataError: the corpus changed since it was scanned.
        TokenizerError: the tokenizer cannot be learnt or read.
        StorageError: the corpus cannot be read, or the cache cannot be written.
    """
    if isinstance(scan, TokenScan):
        return assemble(scan.directory, scan.tokenizer, scan.report(), scan.from_cache)
    tokenizer = tokenizer or prepare_tokenizer(scan, config.tokenizer, cache_dir)
    directory = cache_dir / "tokens" / cache_key(scan.fingerprint, tokenizer.fingerprint)
    with only_writer(directory):
        cached = open_cached(directory, tokenizer, scan.report())
        if cached is not None:
            return cached
        with atomic_directory(directory) as folder:
            write_tokens(folder, scan, tokenizer)
        return assemble(directory, tokenizer, scan.report(), from_cache=False)


def open_cached(directory: Path, tokenizer: Tokenizer, report: dict[str, Any]) -> PreparedData | None:
    """What the cache holds, if it holds these tokens whole; says so when they are there but damaged."""
    if not directory.exists():
        return None
    try:
        return assemble(directory, tokenizer, report, from_cache=True)
    except DataError as error:
        say(f"{error} (doing so now)")
        return None


def open_prepared(directory: Path) -> PreparedData:
    """Open what `prepare_data` has left in the cache, with the report of the corpus that was encoded first.

    Raises:
        DataError: it is no such directory, or damaged.
    """
    path = directory / "report.json"
    if not path.is_file():
        raise DataError(f"{directory} holds no prepared data ({path.name} is missing)", "check the path")
    report = json.loads(path.read_text(encoding="utf-8"))
    return assemble(directory, load_tokenizer(directory / "tokenizer"), report, from_cache=True)


def assemble(directory: Path, tokenizer: Tokenizer, report: dict[str, Any], from_cache: bool) -> PreparedData:
    train, val = TokenShards.open(directory / "train", elsewhere=True), TokenShards.open(directory / "val")
    tokens = {
        "tokenizer": {"name": tokenizer.name, "vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint},
        "train_tokens": len(train),
        "val_tokens": len(val),
    }
    return PreparedData(train, val, tokenizer, report | tokens, from_cache, directory)


def prepare_tokenizer(scan: CorpusScan, config: TokenizerConfig, cache_dir: Path) -> Tokenizer:
    """The tokenizer that `config` asks for; one that was learnt from this training text before is not learnt again."""
    if config.name not in LEARNT:
        return build_tokenizer(config, scan.train_texts)
    entry = cache_dir / "tokenizers" / cache_key(scan.fingerprint, config.model_dump(mode="json"))
    with only_writer(entry):
        if not entry.exists():
            tokenizer = build_tokenizer(config, lambda: with_progress(scan, f"learn {config.name}"))
            with atomic_directory(entry) as folder:
                tokenizer.save(folder)
        return load_tokenizer(entry)


def with_progress(scan: CorpusScan, description: str) -> Iterator[str]:
    """The training texts, with progress on stderr."""
    with Progress(description, scan.train.characters, unit="characters", scale=True) as progress:
        for text in scan.train_texts():
            yield text
            progress.update(len(text))


def write_tokens(folder: Path, scan: CorpusScan, tokenizer: Tokenizer) -> None:
    """Encode both parts in one reading of the corpus."""
    vocabulary = (tokenizer.vocab_size, tokenizer.eot_id, tokenizer.fingerprint)
    with (
        ShardWriter(folder / "train", *vocabulary) as train,
        ShardWriter(folder / "val", *vocabulary) as val,
        Progress("encode", scan.train.bytes + scan.val.bytes, unit="B", scale=True) as progress,
    ):
        for batch in batches_of_pieces(scan.pieces()):
            encoded = tokenizer.encode_batch([piece.text for piece in batch])
            for piece, ids in zip(batch, encoded, strict=True):
                (val if piece.is_val else train).add(ids, piece.bytes, piece.starts)
                progress.update(piece.bytes)
    tokenizer.save(folder / "tokenizer")
    (folder / "report.json").write_text(json.dumps(scan.report(), indent=2) + "\n", encoding="utf-8")


def batches_of_pieces(pieces: Iterable[SplitPiece]) -> Iterator[list[SplitPiece]]:
    """Pieces in lists of about BATCH_CHARACTERS characters."""
    batch: list[SplitPiece] = []
    characters = 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
