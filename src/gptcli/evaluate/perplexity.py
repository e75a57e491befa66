"""Perplexity and bits per byte of documents, each token scored exactly once. This module reads no files.

Each document is scored by itself, in the windows of windows.py. The token that began documents in training, if there is
one, precedes it, so that its first token is scored too. The token that ends a document is not part of its text and not
scored. Documents are streamed, and only a few sums are kept of each.
"""

from __future__ import annotations

import re
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gptcli.data.corpus import Document
from gptcli.data.shards import TokenShards
from gptcli.errors import DataError, UsageError
from gptcli.evaluate.baseline import CompressionBaseline, TextPrefix
from gptcli.evaluate.contamination import UNKNOWN_CONTAMINATION, Contamination
from gptcli.evaluate.passages import PASSAGE_TOKENS, Passage, WorstPassages
from gptcli.evaluate.scoring import ScoredSequence, Scorer, evaluation_mode, usable_batch_size
from gptcli.evaluate.statistics import Totals, Uncertainty, bootstrap_ratio
from gptcli.evaluate.windows import resolve_windows
from gptcli.models.gpt import GPT
from gptcli.tokenizer.lost_text import NOTHING_LOST, LostText, LostTextMeter
from gptcli.tokenizer.tokenizer import Tokenizer

UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
FEW_DOCUMENTS = 10
"""The number of documents below which resampling them understates the spread of the loss."""


class EncodedDocument(NamedTuple):
    """A document to be scored: its ids (N,) without prefix, and their text.

    Attributes:
        bytes: the size of the text as it was read.
        text: the same text, or the one decoded from the ids.
        lost: the text that the tokenizer loses.
    """

    source: str
    ids: np.ndarray
    bytes: int
    text: str
    lost: LostText = NOTHING_LOST


@dataclass(frozen=True)
class FileScore:
    """The scores of all documents of one source; `uncertainty` is None if there is too little to resample."""

    source: str
    totals: Totals
    uncertainty: Uncertainty | None
    lost: LostText = NOTHING_LOST


@dataclass(frozen=True)
class Evaluation:
    """Measurements and settings.

    Attributes:
        prefix: the text of the token before each document; None if training had none. Without it the first token of
            each document is context only, and neither it nor its bytes are counted.
        unknown_tokens: characters that the tokenizer lacks, which were scored as its unknown token.
        baseline: the size of the same text under a compressor.
        lost: the text that the tokenizer loses.
        contamination: the part of the text that the model was trained on.
    """

    totals: Totals
    uncertainty: Uncertainty | None
    files: tuple[FileScore, ...]
    worst: tuple[Passage, ...]
    context: int
    stride: int
    prefix: str | None
    unknown_tokens: int
    baseline: CompressionBaseline
    seconds: float
    lost: LostText = NOTHING_LOST
    contamination: Contamination = UNKNOWN_CONTAMINATION


@dataclass(frozen=True)
class PerplexityOptions:
    """Settings of the measurement.

    Attributes:
        context: tokens in a window; None: the model's context length, at most 8,192.
        stride: tokens from one window to the next; None: half the context.
        batch_size: windows at a time; None: as many as take a modest amount of memory.
        worst: how many of the most surprising passages to keep.
        seed: seed of the bootstrap.

    Raises:
        UsageError: `batch_size` or `worst` is impossible.
    """

    context: int | None = None
    stride: int | None = None
    batch_size: int | None = None
    worst: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.worst < 0 or (self.batch_size is not None and self.batch_size < 1):
            raise UsageError("a batch holds at least one window, and the worst passages are none or more")


DEFAULTS = PerplexityOptions()


def evaluate_documents(
    model: GPT,
    tokenizer: Tokenizer,
    documents: Iterable[EncodedDocument],
    options: PerplexityOptions = DEFAULTS,
    *,
    on_tokens: Callable[[int, float], None] = lambda count, nats: None,
) -> Evaluation:
    """Score documents, each token exactly once.

    Args:
        on_tokens: called after each batch with the number of tokens scored and their summed nats.

    Raises:
        UsageError: the context or the stride is impossible.
        DataError: there is nothing to score.
        OutOfMemoryError: the device has no memory for one window.
    """
    began = time.monotonic()
    context, stride = resolve_windows(options.context, options.stride, model.config.context_length)
    device, vocab_size = model.embedding.weight.device, model.config.vocab_size
    batch_size = usable_batch_size(options.batch_size, context, vocab_size, device)
    scorer = Scorer(model, context=context, stride=stride, batch_size=batch_size, on_tokens=on_tokens)
    prefix = np.array(tokenizer.framing.before, dtype=np.uint32)
    pairs = ((document, np.concatenate((prefix, document.ids))) for document in documents)
    tallies: dict[str, Tally] = {}
    passages, prefix_of_text, unknown = WorstPassages(options.worst, tokenizer), TextPrefix(), 0
    lost = NOTHING_LOST
    with evaluation_mode(model):
        for sequence in scorer.score(pairs):
            document = sequence.key
            lost += document.lost
            if not len(sequence.losses):
                continue
            tally = tallies.setdefault(document.source, Tally(block=max(stride, PASSAGE_TOKENS)))
            tally.add(sequence, unscored_bytes=0 if len(prefix) else token_bytes(tokenizer, int(document.ids[0])))
            prefix_of_text.add(document.text, document.bytes)
            passages.consider(document.source, tally.documents, document.ids, sequence.losses)
            if tokenizer.unk_id is not None:
                unknown += int((document.ids == tokenizer.unk_id).sum())
    if not tallies:
        raise DataError("this text has no token to score", "give a text that is not empty")
    whole = Tally.combined(list(tallies.values()))
    return Evaluation(
        totals=whole.totals(),
        uncertainty=whole.uncertainty(options.seed),
        files=tuple(tally.score(name, options.seed) for name, tally in tallies.items()),
        worst=passages.passages(),
        context=context,
        stride=stride,
        prefix=tokenizer.token_text(int(prefix[0])) if len(prefix) else None,
        unknown_tokens=unknown,
        baseline=prefix_of_text.baseline(),
        seconds=time.monotonic() - began,
        lost=lost,
    )


def encoded_texts(tokenizer: Tokenizer, documents: Iterable[Document]) -> Iterator[EncodedDocument]:
    """Encode documents one at a time, and measure the text that the tokenizer loses."""
    meter = LostTextMeter(tokenizer)
    for document in documents:
        (ids,) = tokenizer.encode_batch([document.text])
        size = len(document.text.encode())
        yield EncodedDocument(document.source, ids, size, document.text, meter.add(document.text, size))


def stored_documents(
    tokenizer: Tokenizer, shards: TokenShards, name: str, lost: LostText | None = None
) -> Iterator[EncodedDocument]:
    """Yield the documents of a split one at a time.

    Args:
        lost: the text of all of them that was lost in encoding; None: estimated by the length of the decoded texts.
    """
    for number, (ids, size) in enumerate(shards.iter_documents()):
        text = tokenizer.decode(ids)
        if lost is None:
            part = LostText(max(0, size - len(text.encode())), size, size)
        else:
            part = NOTHING_LOST if number else lost
        yield EncodedDocument(name, ids, size, text, part)


def count_words(text: str) -> int:
    r"""Return lm-eval's number of words, len(re.split(r"\s+", text)), without building the list."""
    return sum(1 for _ in re.finditer(r"\s+", text)) + 1


def count_unspaced(text: str) -> int:
    """Count the characters of scripts without spaces between words: Han, kana, Thai, Lao, Burmese and Khmer."""
    return 0 if text.isascii() else len(text) - len(UNSPACED.sub("", text))


def token_bytes(tokenizer: Tokenizer, token: int) -> int:
    """Return the UTF-8 bytes of a token's text; part of a character, which decodes to U+FFFD, counts as one byte."""
    return len(tokenizer.decode([token]).replace("\N{REPLACEMENT CHARACTER}", "?").encode())


class Tally:
    """Sums over the documents of one source; for a single document also over its blocks of `block` tokens."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.nats, self.tokens = array("d"), array("q")
        self.bytes = self.words = self.unspaced = 0
        self.lost = NOTHING_LOST
        self.blocks: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def documents(self) -> int:
        """The number of documents."""
        return len(self.tokens)

    def add(self, sequence: ScoredSequence[EncodedDocument], unscored_bytes: int) -> None:
        """Add a document, of which the first `unscored_bytes` are context only."""
        losses, document = sequence.losses, sequence.key
        self.nats.append(float(losses.sum()))
        self.tokens.append(len(losses))
        self.bytes += document.bytes - unscored_bytes
        self.words += count_words(document.text)
        self.unspaced += count_unspaced(document.text)
        self.lost += document.lost
        starts = np.arange(0, len(losses), self.block)
        sizes = np.diff(starts, append=len(losses))
        self.blocks = (np.add.reduceat(losses, starts), sizes) if self.documents == 1 else None

    @classmethod
    def combined(cls, tallies: list[Tally]) -> Tally:
        """Return the tally of all sources."""
        if len(tallies) == 1:
            return tallies[0]
        whole = cls(tallies[0].block)
        for tally in tallies:
            whole.nats.extend(tally.nats)
            whole.tokens.extend(tally.tokens)
            whole.bytes += tally.bytes
            whole.words += tally.words
            whole.unspaced += tally.unspaced
        return whole

    def totals(self) -> Totals:
        """Return the sums."""
        nats, tokens = float(np.sum(self.nats)), int(np.sum(self.tokens))
        return Totals(nats, tokens, self.bytes, self.words, self.documents, self.unspaced)

    def score(self, source: str, seed: int) -> FileScore:
        """Return the scores of the source."""
        return FileScore(source, self.totals(), self.uncertainty(seed), self.lost)

    def uncertainty(self, seed: int) -> Uncertainty | None:
        """Return the uncertainty of the loss by resampling documents, or the blocks of a single one."""
        if self.blocks is not None:
            return bootstrap_ratio(*self.blocks, f"blocks of {self.block} tokens of the one document", seed)
        unit = "documents" if self.documents >= FEW_DOCUMENTS else "documents, too few for more than a rough estimate"
        return bootstrap_ratio(np.asarray(self.nats), np.asarray(self.tokens), unit, seed)
