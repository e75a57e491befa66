"""What a sample of a corpus tells of it: bytes a token for each tokenizer in question, and seconds to prepare a byte.

The sample is read from the beginnings of files all over the corpus, before it is split: it decides how large a
vocabulary is worth its price and becomes part of no tokenizer and no training.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from gptcli import strict_json
from gptcli.data.archives import file_status
from gptcli.data.config import DataConfig
from gptcli.data.corpus import read_pieces, refusal
from gptcli.data.file_formats import SourceFile
from gptcli.data.sources import find_files
from gptcli.errors import DataError
from gptcli.tokenizer.config import (
    SMALLEST_BPE,
    BpeTokenizerConfig,
    ByteTokenizerConfig,
    CharTokenizerConfig,
    TokenizerConfig,
)
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer
from gptcli.train.planning.subset import in_drawn_order

VOCABULARIES = tuple(2**power for power in range(9, 16))
"""BPE's candidates; a vocabulary is one only where the corpus has BYTES_PER_ENTRY for each of its entries."""
BYTES_PER_ENTRY = 128
SAMPLED_FILES = 16
"""A sample comes from so many files, if there are."""
READINGS = 8
"""How often a corpus is read through, in effect: twice to split it, then to learn and to encode, with what is done to
each byte besides."""
MAX_CHARACTERS = 16_384
"""Characters are a candidate for alphabets up to this size."""


class TokenizerFacts(NamedTuple):
    """A tokenizer in question, with what it does to this corpus and costs on this machine."""

    config: TokenizerConfig
    vocab_size: int
    bytes_per_token: float
    seconds_per_byte: float
    """To learn it and to encode with it, at most: both grow more slowly than the text."""


class TextSample(NamedTuple):
    """Text from all over a corpus, what the corpus has in all (bytes on disk), and seconds to read a byte."""

    text: str
    corpus_bytes: int
    reading_seconds_per_byte: float

    @property
    def bytes(self) -> int:
        return len(self.text.encode())


def read_sample(config: DataConfig, wanted: int, cache_dir: Path, seed: int) -> TextSample:
    """About `wanted` characters from the beginnings of files all over the corpus.

    Raises:
        DataError: the corpus is missing, or is no text.
    """
    files = find_files(config.corpus, config, cache_dir).files
    share = max(wanted // SAMPLED_FILES, wanted // len(files), 1)
    parts, missing = [], wanted
    began = time.perf_counter()
    for file in in_drawn_order(files, seed):
        parts.append(beginning(file, config, min(share, missing)))
        missing -= len(parts[-1])
        if missing <= 0:
            break
    seconds, text = time.perf_counter() - began, "".join(parts)
    if not text.strip():
        raise DataError(f"{', '.join(config.corpus[:3])} begins with no text", "name a file with text")
    return TextSample(text, sum(file_status(file.path).size for file in files), seconds / len(text.encode()))


def beginning(file: SourceFile, config: DataConfig, wanted: int) -> str:
    """The first documents or pieces of a file, about `wanted` characters of them; "" where it is to be left out."""
    if file.is_optional and refusal(file, config, wanted) is not None:
        return ""
    parts: list[str] = []
    for piece in read_pieces(file, config):
        parts.append(piece.text[:wanted])
        wanted -= len(parts[-1])
        if wanted <= 0:
            break
    return "".join(parts)


def tokenizer_facts(sample: TextSample, given: TokenizerConfig | None, vocab_given: bool) -> list[TokenizerFacts]:
    """The facts of every tokenizer in question: of all kinds, or of those that leave `given` as the user set it.

    Args:
        vocab_given: the user set BPE's vocabulary too.
    """
    cut = len(sample.text) * 9 // 10
    learn, test = sample.text[:cut], sample.text[cut:]
    if given is not None and (vocab_given or not isinstance(given, BpeTokenizerConfig)):
        return [facts_of(given, learn, test)]
    facts = bpe_facts(given or BpeTokenizerConfig(), sample.corpus_bytes, learn, test)
    if given is None:
        is_alphabet = len(set(sample.text)) <= MAX_CHARACTERS
        facts.append(facts_of(CharTokenizerConfig() if is_alphabet else ByteTokenizerConfig(), learn, test))
    return facts


def bpe_facts(given: BpeTokenizerConfig, corpus_bytes: int, learn: str, test: str) -> list[TokenizerFacts]:
    """Facts of BPE with every vocabulary that sample and corpus are large enough for; small ones begin the largest."""
    entries = min(len(learn.encode()), corpus_bytes) // BYTES_PER_ENTRY
    sizes = [size for size in VOCABULARIES if size <= entries] or [VOCABULARIES[0]]
    largest, seconds = timed_tokenizer(given.model_copy(update={"vocab_size": sizes[-1]}), learn)
    spec = strict_json.parse(largest.backend.to_str())
    found = sorted({min(size, largest.vocab_size) for size in sizes})
    return [
        TokenizerFacts(
            given.model_copy(update={"vocab_size": size}), size, bytes_per_token(shortened(spec, size), test), seconds
        )
        for size in found
    ]


def facts_of(config: TokenizerConfig, learn: str, test: str) -> TokenizerFacts:
    """Facts of a tokenizer that is learnt, or only opened, and tried."""
    tokenizer, seconds = timed_tokenizer(config, learn)
    return TokenizerFacts(config, tokenizer.vocab_size, bytes_per_token(tokenizer, test), seconds)


def timed_tokenizer(config: TokenizerConfig, learn: str) -> tuple[Tokenizer, float]:
    """The tokenizer, and seconds to learn and encode a byte."""
    began = time.perf_counter()
    tokenizer = build_tokenizer(config, lambda: iter([learn]))
    tokenizer.encode_batch([learn])
    return tokenizer, (time.perf_counter() - began) / len(learn.encode())


def bytes_per_token(tokenizer: Tokenizer, test: str) -> float:
    return len(test.encode()) / max(1, sum(map(len, tokenizer.encode_batch([test]))))


def shortened(spec: Mapping[str, Any], vocab_size: int) -> Tokenizer:
    """A BPE of ours with its first entries only; `spec` is its tokenizer.json."""
    merges = spec["model"]["merges"][: vocab_size - SMALLEST_BPE]
    kept = {token: id for token, id in spec["model"]["vocab"].items() if id < vocab_size - 1}
    model = {**spec["model"], "vocab": kept, "merges": merges}
    added = [{**token, "id": vocab_size - 1} for token in spec["added_tokens"]]
    return Tokenizer(tokenizers.Tokenizer.from_str(strict_json.dumps({**spec, "model": model, "added_tokens": added})))


def preparing_seconds(sample: TextSample, facts: Sequence[TokenizerFacts]) -> float:
    """Seconds to read, split and encode a byte of the corpus with the slowest of the tokenizers, at most."""
    return READINGS * sample.reading_seconds_per_byte + max(fact.seconds_per_byte for fact in facts)
