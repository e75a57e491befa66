"""The tokenizer that a configuration sets, trained on the training texts if it needs training."""

from __future__ import annotations

import contextlib
import itertools
import queue
from collections.abc import Callable, Iterable, Iterator

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from gptcli.console import duration, say
from gptcli.errors import TokenizerError
from gptcli.interruptible import CallThread, in_main_thread
from gptcli.storage import expanded
from gptcli.tokenizer.byte_level import BYTE_OF_CHARACTER, byte_level_tokenizer
from gptcli.tokenizer.config import (
    BpeTokenizerConfig,
    ByteTokenizerConfig,
    CharTokenizerConfig,
    FileTokenizerConfig,
    HubTokenizerConfig,
    TokenizerConfig,
)
from gptcli.tokenizer.source import load_hub_tokenizer
from gptcli.tokenizer.special import END_OF_TEXT, UNKNOWN
from gptcli.tokenizer.structure import Boundary, pieces
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

WORD_CHARACTERS = 256
"""Longer words are cut for training, whose time grows with the square of a word's length."""

TRAINING_WORD = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}{1,$}| ?\p{N}{1,$}| ?[^\s\p{L}\p{N}]{1,$}|\s{1,$}(?!\S)|\s{1,$}"
).replace("$", str(WORD_CHARACTERS))
"""GPT-2's split pattern with a bound: text whose words are all shorter is split into the same ones."""

DOCUMENT_CHARACTERS = 1 << 20
"""Text in which no word ends is cut after this many characters, since a piece must be in memory as a whole."""

BATCH_PIECES, WAITING_BATCHES = 64, 4
"""Pieces that are handed to the library's thread together, and batches that may wait for it."""

REPORT_SECONDS = 10.0
"""Seconds between two messages that the merges are still being computed."""


def build_tokenizer(config: TokenizerConfig, texts: Callable[[], Iterator[str]]) -> Tokenizer:
    """Return the tokenizer that `config` sets.

    `texts()` iterates over the training documents; only the kinds that are trained (char, bpe) call it, once.

    Raises:
        TokenizerError: there is no text to train on, or the named tokenizer cannot be read.
    """
    match config:
        case CharTokenizerConfig():
            return train_char(texts())
        case ByteTokenizerConfig():
            return byte_tokenizer()
        case BpeTokenizerConfig():
            return train_bpe(texts(), config.vocab_size, config.min_frequency)
        case FileTokenizerConfig():
            return load_tokenizer(expanded(config.path))
        case HubTokenizerConfig():
            return load_hub_tokenizer(config.repo, config.revision)


def train_char(texts: Iterator[str]) -> Tokenizer:
    """Return a tokenizer of every distinct character in code point order from id 0, then <unk>, then <|endoftext|>.

    The special tokens come last, so that the characters have the ids of char-rnn and nanoGPT. A BPE model without
    merges is the form in which the `tokenizers` library encodes characters fastest, and it needs no split pattern.
    """
    characters: set[str] = set()
    for text in texts:
        for piece in pieces(text, Boundary.ANYWHERE, DOCUMENT_CHARACTERS):
            characters.update(piece)
    if not characters:
        raise TokenizerError("there is no text to train the tokenizer on", "name a corpus that is not empty")
    vocabulary = {token: id for id, token in enumerate([*sorted(characters), UNKNOWN])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token=UNKNOWN, fuse_unk=False))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([UNKNOWN, END_OF_TEXT])
    return Tokenizer(backend)


def byte_tokenizer() -> Tokenizer:
    """Return a tokenizer of the 256 bytes as their own ids, then <|endoftext|> as 256."""
    vocabulary = {character: byte for character, byte in BYTE_OF_CHARACTER.items()}
    backend = byte_level_tokenizer(models.BPE(vocabulary, []), split_words=False)
    backend.add_special_tokens([END_OF_TEXT])
    return Tokenizer(backend)


def train_bpe(texts: Iterator[str], vocab_size: int, min_frequency: int) -> Tokenizer:
    """Return byte-level BPE (Sennrich et al. 2016, Radford et al. 2019): 256 bytes, then merges, then <|endoftext|>
    last.

    A corpus with too few frequent pairs gives a smaller vocabulary than `vocab_size`, with a message. Long
    documents are trained on in pieces that end with a word: the same words are counted, in bounded memory. Words of
    more than WORD_CHARACTERS are cut, so that the time is linear in the text, whatever it is.

    Raises:
        TokenizerError: there is no text.
    """
    first = next((text for text in texts if text), None)
    if first is None:
        raise TokenizerError("there is no text to train the tokenizer on", "name a corpus that is not empty")
    backend = byte_level_tokenizer(models.BPE(), split_words=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=min_frequency,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    splitter = backend.pre_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(TRAINING_WORD), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    train_backend(
        (piece for text in itertools.chain([first], texts) for piece in training_pieces(text)), backend, trainer
    )
    backend.pre_tokenizer = splitter
    backend.add_special_tokens([END_OF_TEXT])
    tokenizer = Tokenizer(backend)
    if tokenizer.vocab_size < vocab_size:
        say(
            f"The training texts have pairs for a vocabulary of {tokenizer.vocab_size:,} tokens, not of {vocab_size:,} "
            f"(pairs that occur fewer than {min_frequency} times are not merged)."
        )
    return tokenizer


def training_pieces(text: str) -> Iterator[str]:
    """Iterate over `text` in pieces that end with a word, or are cut anywhere in a long stretch without a word's
    end.
    """
    for piece in pieces(text, Boundary.WORD_END):
        yield from pieces(piece, Boundary.ANYWHERE, DOCUMENT_CHARACTERS)


def train_backend(texts: Iterable[str], backend: tokenizers.Tokenizer, trainer: trainers.BpeTrainer) -> None:
    """Train `backend` on `texts`, which are read in this thread while the library works in another.

    Signals are handled at any time: a handler runs in this thread, which never enters the library.
    """
    if not in_main_thread():
        backend.train_from_iterator(texts, trainer)
        return
    batches: queue.Queue[list[str] | None] = queue.Queue(WAITING_BATCHES)
    source = iter(texts)
    call = CallThread(lambda: backend.train_from_iterator(received(batches), trainer))
    try:
        while call.is_alive() and (batch := list(itertools.islice(source, BATCH_PIECES))):
            hand_over(batch, batches, call)
    except BaseException:
        abandon(batches)
        raise
    hand_over([], batches, call)
    said = 0.0

    def say_how_long(seconds: float) -> None:
        nonlocal said
        if seconds - said >= REPORT_SECONDS:
            said = seconds
            say(f"training the tokenizer's merges, {duration(seconds)} so far")

    call.result(say_how_long)


def hand_over(batch: list[str], batches: queue.Queue[list[str] | None], call: CallThread[None]) -> None:
    """Put `batch` (empty for the end) into the queue, unless the thread has ended."""
    while call.is_alive():
        try:
            batches.put(batch, timeout=0.2)
            return
        except queue.Full:
            continue


def abandon(batches: queue.Queue[list[str] | None]) -> None:
    """Make the thread stop reading at the next batch."""
    while True:
        with contextlib.suppress(queue.Empty):
            batches.get_nowait()
        with contextlib.suppress(queue.Full):
            batches.put_nowait(None)
            return


def received(batches: queue.Queue[list[str] | None]) -> Iterator[str]:
    """Iterate over the texts that are handed over, until an empty batch.

    Raises:
        InterruptedError: a batch is None, because the training was abandoned.
    """
    while (batch := batches.get()) != []:
        if batch is None:
            raise InterruptedError("the training was abandoned")
        yield from batch
