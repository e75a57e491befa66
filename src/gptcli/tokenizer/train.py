"""The tokenizer that a config asks for, learnt from the training texts where it is learnt. Knows no split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from gptcli.console import say
from gptcli.errors import TokenizerError
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
from gptcli.tokenizer.structure import Cut, pieces
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer


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
            return load_tokenizer(Path(config.path).expanduser())
        case HubTokenizerConfig():
            return load_hub_tokenizer(config.repo, config.revision)


def train_char(texts: Iterator[str]) -> Tokenizer:
    """Every distinct character in code point order from id 0, then <unk>, then <|endoftext|>.

    The specials come last, so that the characters have the ids they have in char-rnn and nanoGPT. A BPE model without
    merges is the form in which the `tokenizers` library encodes characters fastest, and it needs no split pattern.
    """
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
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
    over in pieces that end with a word: the same words are counted, in bounded memory.
    """
    backend = byte_level_tokenizer(models.BPE(), split_words=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=min_frequency,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator((piece for text in texts for piece in pieces(text, Cut.WORD_END)), trainer)
    backend.add_special_tokens([END_OF_TEXT])
    tokenizer = Tokenizer(backend)
    if tokenizer.vocab_size < vocab_size:
        say(
            f"The training texts have pairs for a vocabulary of {tokenizer.vocab_size:,} tokens, not {vocab_size:,} "
            f"(pairs seen fewer than {min_frequency} times are not merged)."
        )
    return tokenizer
