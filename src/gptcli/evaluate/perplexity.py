"""Perplexity and bits per byte of documents, each token scored exactly once. Takes a model, never a path.

Each document stands by itself: before it stands the token that began documents in training, where there is one, so that
its first token is scored too, and it is read in the windows of windows.py. The token after a document is not part of
its text and not scored. Documents are streamed: what is kept of each is a few sums.
"""

from __future__ import annotations

import re
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

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
"""With fewer than this, resampling documents understates how far another sample of them might lie."""


class TextDocument(Protocol):
    """A text and where it came from; `gptcli.data.corpus.Document` is one."""

    @property
    def text(self) -> str: ...

    @property
    def source(self) -> str: ...


class EncodedDocument(NamedTuple):
    """A document to be scored: its ids (N,) without prefix, and the text that they stand for.

    `bytes` are of the text as it was read; `text` is the same text, or what decoding the ids has made of it.
    """

    source: str
    ids: np.ndarray
    bytes: int
    text: str
    lost: LostText = NOTHING_LOST


@dataclass(frozen=True)
class FileScore:
    """The scores of all documents of one source; `uncertainty` is none where there is too little to resample."""

    source: str
    totals: Totals
    uncertainty: Uncertainty | None
    lost: LostText = NOTHING_LOST


@dataclass(frozen=True)
class Evaluation:
    """Measurements and settings. `prefix` is the text of the prefix token, None where training had no such token.

    Without a prefix the first token of each document is context only: neither it nor its bytes are counted.
    `unknown_tokens` were scored as the tokenizer's unknown token, which stands for every character that it lacks.
    `baseline` is what a compressor needs for the same text. `lost` counts the text that the tokenizer loses.
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
    """The part of the text that the model was trained on."""


@dataclass(frozen=True)
class PerplexityOptions:
    """Settings of the measurement.

    Attributes:
        context: tokens in a window; None: the model's context length, at most 8,192.
        stride: tokens from one window to the next; None: half the context.
        batch_size: windows at a time; None: as many as take a modest amount of memory.
        worst: how many of the most surprising passages to keep.
        seed: seed of the bootstrap.
    """

    context: int | None = None
    stride: int | None = None
    batch_size: int | None = None
    worst: int = 0
    seed: int = 0


DEFAULTS = PerplexityOptions()


def evaluate_documents(
    model: GPT,
    tokenizer: Tokenizer,
    documents: Iterable[EncodedDocument],
    options: PerplexityOptions = DEFAULTS,
    *,
    on_tokens: Callable[[int, float], None] | None = None,
) -> Evaluation:
    """Score documents, each token exactly once.

    Args:
        on_tokens: called after each batch with the number of tokens scored and their summed nats.

    Raises:
        UsageError: impossible options.
        DataError: nothing to score.
        OutOfMemoryError: one window does not fit the device.
    """
    batch_size = options.batch_size
    if options.worst < 0 or (batch_size is not None and batch_size < 1):
        raise UsageError("a batch holds at least one window, and the worst passages are none or more")
    began = time.monotonic()
    context, stride = resolve_windows(options.context, options.stride, model.config.context_length)
    scorer = Scorer(
        model,
        context=context,
        stride=stride,
        batch_size=usable_batch_size(batch_size, context, model.config.vocab_size, next(model.parameters()).device),
        on_tokens=on_tokens,
    )
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
        raise DataError("there is not one token to score in this text", "give a text that is not empty")
    whole = Tally.together(list(tallies.values()))
    return Evaluation(
        totals=whole.totals(),
        uncertainty=whole.uncertainty(options.seed),
        files=tuple(
            FileScore(name, tally.totals(), tally.uncertainty(options.seed), tally.lost)
            for name, tally in tallies.items()
        ),
        worst=passages.passages(),
        context=context,
        stride=stride,
        prefix=tokenizer.token_text(int(prefix[0])) if len(prefix) else None,
        unknown_tokens=unknown,
        baseline=prefix_of_text.baseline(),
        seconds=time.monotonic() - began,
        lost=lost,
    )


def encoded_texts(tokenizer: Tokenizer, documents: Iterable[TextDocument]) -> Iterator[EncodedDocument]:
    """Encode documents one at a time, and measure what the tokenizer loses of them."""
    meter = LostTextMeter(tokenizer)
    for document in documents:
        (ids,) = tokenizer.encode_batch([document.text])
        size = len(document.text.encode())
        yield EncodedDocument(document.source, ids, size, document.text, meter.add(document.text, size))


def stored_documents(
    tokenizer: Tokenizer, shards: TokenShards, name: str, lost: LostText | None = None
) -> Iterator[EncodedDocument]:
    """The documents of a split one at a time.

    `lost` is what was lost of all of them when they were encoded; None: at least what the decoded texts lack in length.
    """
    for number, (ids, size) in enumerate(shards.iter_documents()):
        text = tokenizer.decode(ids)
        if lost is None:
            part = LostText(max(0, size - len(text.encode())), size, size)
        else:
            part = NOTHING_LOST if number else lost
        yield EncodedDocument(name, ids, size, text, part)


def count_words(text: str) -> int:
    """lm-eval's number of words, len(re.split(r"\\s+", text)), without making the list."""
    return sum(1 for _ in re.finditer(r"\s+", text)) + 1


def count_unspaced(text: str) -> int:
    """Characters of scripts that put no space between words: Han, kana, Thai, Lao, Burmese and Khmer."""
    return 0 if text.isascii() else len(text) - len(UNSPACED.sub("", text))


def token_bytes(tokenizer: Tokenizer, token: int) -> int:
    """UTF-8 bytes that a token stands for; part of a character, which decodes to U+FFFD, counts as one byte."""
    return len(tokenizer.decode([token]).replace("\N{REPLACEMENT CHARACTER}", "?").encode())


class Tally:
    """Sums of the documents of one source; of a single document also those of its blocks of `block` tokens."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.nats, self.tokens = array("d"), array("q")
        self.bytes = self.words = self.unspaced = 0
        self.lost = NOTHING_LOST
        self.blocks: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def documents(self) -> int:
        return len(self.tokens)

    def add(self, sequence: ScoredSequence[EncodedDocument], unscored_bytes: int) -> None:
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
    def together(cls, tallies: list[Tally]) -> Tally:
        """The tally of all sources."""
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
        nats, tokens = float(np.sum(self.nats)), int(np.sum(self.tokens))
        return Totals(nats, tokens, self.bytes, self.words, self.documents, self.unspaced)

    def uncertainty(self, seed: int) -> Uncertainty | None:
        """By resampling documents; where there is only one, its blocks."""
        if self.blocks is not None:
            return bootstrap_ratio(*self.blocks, f"blocks of {self.block} tokens of the one document", seed)
        unit = "documents" if self.documents >= FEW_DOCUMENTS else "documents, too few for more than a rough idea"
        return bootstrap_ratio(np.asarray(self.nats), np.asarray(self.tokens), unit, seed)
