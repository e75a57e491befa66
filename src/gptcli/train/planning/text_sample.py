"""A sample of a corpus: the bytes of a token for each tokenizer in question, and the seconds to prepare a byte.

The sample is read from the beginnings of files all over the corpus before it is split. It decides only which vocabulary
is worth its cost; no tokenizer and no training uses it.
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
"""BPE's vocabularies in question. The corpus must have BYTES_PER_ENTRY for each entry."""
BYTES_PER_ENTRY = 128
SAMPLED_FILES = 16
"""Files from which a sample is read, if there are as many."""
READINGS = 8
"""Time of preparing a corpus, in passes of reading it: two to split it, one to train the tokenizer, one to encode, and
the other work on each byte."""
MAX_CHARACTERS = 16_384
"""Largest alphabet for which characters are a candidate."""
LEARNING_TENTHS = 9
"""Tenths of the sample on which tokenizers are trained; the rest measures them."""


class TokenizerFacts(NamedTuple):
    """A tokenizer in question, with its effect on this corpus and its time on this machine."""

    config: TokenizerConfig
    vocab_size: int
    bytes_per_token: float
    seconds_per_byte: float
    """Seconds to train it and to encode with it, at most: both grow more slowly than the text."""


class TextSample(NamedTuple):
    """Text from all over a corpus, the bytes of the corpus on disk, and the seconds to read a byte."""

    text: str
    corpus_bytes: int
    reading_seconds_per_byte: float

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the text."""
        return len(self.text.encode())


def read_sample(config: DataConfig, wanted: int, cache_dir: Path, seed: int) -> TextSample:
    """Read about `wanted` characters from the beginnings of files all over the corpus.

    Raises:
        DataError: the corpus is missing, or is no text.
    """
    files = find_files(config.corpus, config, cache_dir).files
    share = max(wanted // SAMPLED_FILES, wanted // len(files), 1)
    parts, missing = [], wanted
    began = time.perf_counter()
    for file in in_drawn_order(files, seed):
        parts.append(file_prefix(file, config, min(share, missing)))
        missing -= len(parts[-1])
        if missing <= 0:
            break
    seconds, text = time.perf_counter() - began, "".join(parts)
    if not text.strip():
        raise DataError(f"{', '.join(config.corpus[:3])} begins with no text", "name a file with text")
    return TextSample(text, sum(file_status(file.path).size for file in files), seconds / len(text.encode()))


def file_prefix(file: SourceFile, config: DataConfig, wanted: int) -> str:
    """Return about the first `wanted` characters of a file's documents; "" if the file is left out."""
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
    """Return the facts of every tokenizer in question.

    Args:
        sample: the sample of the corpus.
        given: the tokenizer that the user set, of which only the vocabulary may be open; None: all kinds are.
        vocab_given: whether the user set BPE's vocabulary too.
    """
    cut = len(sample.text) * LEARNING_TENTHS // 10
    learn, test = sample.text[:cut], sample.text[cut:]
    if given is not None and (vocab_given or not isinstance(given, BpeTokenizerConfig)):
        return [facts_of(given, learn, test)]
    facts = bpe_facts(given or BpeTokenizerConfig(), sample.corpus_bytes, learn, test)
    if given is None:
        is_alphabet = len(set(sample.text)) <= MAX_CHARACTERS
        facts.append(facts_of(CharTokenizerConfig() if is_alphabet else ByteTokenizerConfig(), learn, test))
    return facts


def bpe_facts(given: BpeTokenizerConfig, corpus_bytes: int, learn: str, test: str) -> list[TokenizerFacts]:
    """Return the facts of BPE with every vocabulary for which sample and corpus are large enough.

    A smaller vocabulary consists of the first entries of the largest one.
    """
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
    """Return the facts of a tokenizer that is trained or only opened, and then used on `test`."""
    tokenizer, seconds = timed_tokenizer(config, learn)
    return TokenizerFacts(config, tokenizer.vocab_size, bytes_per_token(tokenizer, test), seconds)


def timed_tokenizer(config: TokenizerConfig, learn: str) -> tuple[Tokenizer, float]:
    """Return the tokenizer, and the seconds to train it and to encode, for each byte."""
    began = time.perf_counter()
    tokenizer = build_tokenizer(config, lambda: iter([learn]))
    tokenizer.encode_batch([learn])
    return tokenizer, (time.perf_counter() - began) / len(learn.encode())


def bytes_per_token(tokenizer: Tokenizer, test: str) -> float:
    """Return the mean UTF-8 bytes of a token."""
    return len(test.encode()) / max(1, sum(map(len, tokenizer.encode_batch([test]))))


def shortened(spec: Mapping[str, Any], vocab_size: int) -> Tokenizer:
    """Return a BPE tokenizer of ours with its first entries only; `spec` is its tokenizer.json."""
    merges = spec["model"]["merges"][: vocab_size - SMALLEST_BPE]
    kept = {token: id for token, id in spec["model"]["vocab"].items() if id < vocab_size - 1}
    model = {**spec["model"], "vocab": kept, "merges": merges}
    added = [{**token, "id": vocab_size - 1} for token in spec["added_tokens"]]
    return Tokenizer(tokenizers.Tokenizer.from_str(strict_json.dumps({**spec, "model": model, "added_tokens": added})))


def preparing_seconds(sample: TextSample, facts: Sequence[TokenizerFacts]) -> float:
    """Return the most seconds to read, split and encode a byte of the corpus, with the slowest of the tokenizers."""
    return READINGS * sample.reading_seconds_per_byte + max(fact.seconds_per_byte for fact in facts)
