"""The tokenizer that a config asks for, learnt from the training texts where it is learnt. Knows no split."""

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

LEARNT_WORD = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}{1,$}| ?\p{N}{1,$}| ?[^\s\p{L}\p{N}]{1,$}|\s{1,$}(?!\S)|\s{1,$}"
).replace("$", str(WORD_CHARACTERS))
"""GPT-2's split pattern with a bound: text whose words are all shorter is split into the same ones."""

DOCUMENT_CHARACTERS = 1 << 20
"""Text in which no word ends is cut after so many characters, since what is learnt from has to be in memory at once."""

BATCH_PIECES, WAITING_BATCHES = 64, 4
"""Pieces that are handed to the library's thread together, and how many times that may wait for it."""

SAID_SECONDS = 10.0
"""Seconds between two messages that the merges are still being learnt."""


def build_tokenizer(config: TokenizerConfig, texts: Callable[[], Iterator[str]]) -> Tokenizer:
    """The tokenizer that `config` asks for.

    `texts()` iterates the training documents afresh; only the kinds that learn (char, bpe) call it, once.

    Raises:
        TokenizerError: there is no text to learn from, or the tokenizer named cannot be read.
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
    """Every distinct character in code point order from id 0, then <unk>, then <|endoftext|>.

    The specials come last, so that the characters have the ids they have in char-rnn and nanoGPT. A BPE model without
    merges is the form in which the `tokenizers` library encodes characters fastest, and it needs no split pattern.
    """
    characters: set[str] = set()
    for text in texts:
        for piece in pieces(text, Boundary.ANYWHERE, DOCUMENT_CHARACTERS):
            characters.update(piece)
    if not characters:
        raise TokenizerError("there is no text to learn the characters from", "give a corpus that is not empty")
    vocabulary = {token: id for id, token in enumerate([*sorted(characters), UNKNOWN])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token=UNKNOWN, fuse_unk=False))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([UNKNOWN, END_OF_TEXT])
    return Tokenizer(backend)


def byte_tokenizer() -> Tokenizer:
    """The 256 bytes as their own ids, then <|endoftext|> as 256."""
    vocabulary = {character: byte for character, byte in BYTE_OF_CHARACTER.items()}
    backend = byte_level_tokenizer(models.BPE(vocabulary, []), split_words=False)
    backend.add_special_tokens([END_OF_TEXT])
    return Tokenizer(backend)


def train_bpe(texts: Iterator[str], vocab_size: int, min_frequency: int) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016, Radford et al. 2019): 256 bytes, then merges, then <|endoftext|> last.

    A corpus with too few frequent pairs gives a smaller vocabulary than asked, and says so. Long documents are handed
    over in pieces that end with a word: the same words are counted, in bounded memory. Words of more than
    WORD_CHARACTERS are cut, so that the time is linear in the text, whatever it is.

    Raises:
        TokenizerError: there is no text.
    """
    first = next((text for text in texts if text), None)
    if first is None:
        raise TokenizerError("there is no text to learn the merges from", "give a corpus that is not empty")
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
            pre_tokenizers.Split(Regex(LEARNT_WORD), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learn_from((piece for text in itertools.chain([first], texts) for piece in learnt_pieces(text)), backend, trainer)
    backend.pre_tokenizer = splitter
    backend.add_special_tokens([END_OF_TEXT])
    tokenizer = Tokenizer(backend)
    if tokenizer.vocab_size < vocab_size:
        say(
            f"The training texts have pairs for a vocabulary of {tokenizer.vocab_size:,} tokens, not {vocab_size:,} "
            f"(pairs seen fewer than {min_frequency} times are not merged)."
        )
    return tokenizer


def learnt_pieces(text: str) -> Iterator[str]:
    """`text` in pieces that end with a word; where none ends for long, cut anywhere."""
    for piece in pieces(text, Boundary.WORD_END):
        yield from pieces(piece, Boundary.ANYWHERE, DOCUMENT_CHARACTERS)


def learn_from(texts: Iterable[str], backend: tokenizers.Tokenizer, trainer: trainers.BpeTrainer) -> None:
    """Train `backend` on `texts`, which are read in this thread while the library works in another.

    A signal is answered at any time: its handler runs in this thread, which never enters the library.
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
        give_up(batches)
        raise
    hand_over([], batches, call)
    said = 0.0

    def say_how_long(seconds: float) -> None:
        nonlocal said
        if seconds - said >= SAID_SECONDS:
            said = seconds
            say(f"learning the merges, {duration(seconds)} so far")

    call.result(say_how_long)


def hand_over(batch: list[str], batches: queue.Queue[list[str] | None], call: CallThread[None]) -> None:
    """Put `batch` (empty: the end) where the thread finds it, unless the thread has ended."""
    while call.is_alive():
        try:
            batches.put(batch, timeout=0.2)
            return
        except queue.Full:
            continue


def give_up(batches: queue.Queue[list[str] | None]) -> None:
    """Have the thread stop reading at the next batch."""
    while True:
        with contextlib.suppress(queue.Empty):
            batches.get_nowait()
        with contextlib.suppress(queue.Full):
            batches.put_nowait(None)
            return


def received(batches: queue.Queue[list[str] | None]) -> Iterator[str]:
    """The texts that are handed over, until an empty batch.

    Raises:
        InterruptedError: None came in place of a batch, since the training was given up.
    """
    while (batch := batches.get()) != []:
        if batch is None:
            raise InterruptedError("the training was given up")
        yield from batch
