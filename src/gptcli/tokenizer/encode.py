"""Encoding of text in the fastest way that a tokenizer's structure allows, always with the ids of its backend.

The way is chosen once for each tokenizer, from its tokenizer.json. Special tokens are not recognised: text that looks
like one is text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from gptcli.console import say
from gptcli.errors import GptcliError, TokenizerError, first_line, is_panic
from gptcli.interruptible import call_interruptibly
from gptcli.tokenizer.byte_level import BYTE_OF_CHARACTER, CHARACTER_OF_BYTE
from gptcli.tokenizer.library import call_within, library_errors
from gptcli.tokenizer.structure import Boundary, chunk_boundary, is_known, pieces

WINDOW_CHARACTERS = 1 << 20
"""Characters handed to the backend at a time: until they are ids, its encodings take some hundred bytes a token."""

PIECE_CHARACTERS = 1 << 16
"""Characters that the faster encoders take at a time: what is computed for each character stays in the processor's
cache."""

WORTH_LOADING = 10
"""Characters for each entry of the vocabulary that the backend encodes in the time that gigatoken takes to load."""

CACHED_BYTES = 1 << 26
"""Bytes of text after which gigatoken starts afresh. It keeps every word that it has seen: about 0.1 GB after this much
natural text, 0.8 GB at worst."""


UNINTERRUPTED_CHARACTERS = 1 << 18
"""A longer text, which may take a second, is encoded so that signals are handled meanwhile."""


class Encoder(Protocol):
    """A way to encode text."""

    def encode_batch(self, texts: Iterable[str]) -> list[np.ndarray]:
        """Return the ids of every text, uint32. Raises a TokenizerError if a text holds a surrogate."""

    def clear_cache(self) -> None:
        """Free what is kept of earlier texts, which only makes encoding faster."""


def encoder_for(backend: tokenizers.Tokenizer, spec: Mapping[str, Any]) -> Encoder:
    """Return the fastest encoder for `backend`, whose tokenizer.json is `spec`."""
    cut, model = chunk_boundary(spec), spec["model"]
    plain = BackendEncoder(backend, cut, is_known(spec))
    vocabulary = model["vocab"]
    if cut is Boundary.ANYWHERE:
        if not spec.get("pre_tokenizer"):
            unknown = vocabulary.get(model.get("unk_token"))
            return plain if unknown is None else TableEncoder("utf-32-le", character_table(vocabulary, unknown))
        if vocabulary.keys() >= BYTE_OF_CHARACTER.keys():
            return TableEncoder("utf-8", byte_table(vocabulary))
    elif cut in (Boundary.WORD_END, Boundary.BLANK) and vocabulary.keys() >= BYTE_OF_CHARACTER.keys():
        return WordEncoder(plain, len(vocabulary))
    return plain


class BackendEncoder:
    """Encoder through `tokenizers`, for every structure: in parallel and in pieces, so that memory grows with the ids
    alone.
    """

    def __init__(self, backend: tokenizers.Tokenizer, cut: Boundary, is_known: bool) -> None:
        self.backend, self.cut, self.is_known = backend, cut, is_known

    def encode_batch(self, texts: Iterable[str]) -> list[np.ndarray]:
        """Return the ids of every text, uint32."""
        parts: list[list[np.ndarray]] = []
        window: list[str] = []
        owners: list[int] = []
        waiting = 0

        def flush() -> None:
            for owner, ids in zip(owners, encode_pieces(self.backend, window, self.is_known), strict=True):
                parts[owner].append(ids)
            window.clear()
            owners.clear()

        for owner, text in enumerate(texts):
            parts.append([])
            for piece in pieces(text, self.cut):
                window.append(piece)
                owners.append(owner)
                waiting += len(piece)
                if waiting >= WINDOW_CHARACTERS:
                    flush()
                    waiting = 0
        flush()
        return [joined(part) for part in parts]

    def clear_cache(self) -> None:
        """Do nothing: `tokenizers` keeps ten thousand words and no more."""


class TableEncoder:
    """Encoder for vocabularies without merges: the ids are looked up in an array, by byte or by code point.

    `table` (N,) uint32 is indexed by the units of `codec`; its last entry also stands for all units from N on.
    """

    def __init__(self, codec: str, table: np.ndarray) -> None:
        self.codec, self.table = codec, table
        self.unit = np.dtype("u1" if codec == "utf-8" else "<u4")

    def encode_batch(self, texts: Iterable[str]) -> list[np.ndarray]:
        """Return the ids of every text, uint32."""
        return [
            joined([self.encode(piece) for piece in pieces(text, Boundary.ANYWHERE, PIECE_CHARACTERS)])
            for text in texts
        ]

    def clear_cache(self) -> None:
        """Do nothing: nothing is kept."""

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of one piece."""
        return self.table.take(np.frombuffer(encoded(text, self.codec), self.unit), mode="clip")


class WordEncoder:
    """Encoder for byte-level BPE over words, through gigatoken (Rød 2026), a hundred times as fast as `tokenizers`.

    gigatoken finds the words with vector instructions and keeps the ids of each. The ids equal those of `tokenizers`
    except where the two libraries use different versions of Unicode: a text with a character that they split
    differently is encoded by `plain`. So is the first text, until there is enough of it to pay for the loading, and all
    text if gigatoken is not installed.
    """

    def __init__(self, plain: BackendEncoder, vocab_size: int) -> None:
        self.plain = plain
        self.characters_left: float = WORTH_LOADING * vocab_size
        self.fast: Any = None
        self.cached = 0
        self.comparison = SplitComparison()

    def encode_batch(self, texts: Iterable[str]) -> list[np.ndarray]:
        """Return the ids of every text, uint32."""
        texts = list(texts)
        self.characters_left -= sum(map(len, texts))
        if self.characters_left > 0 or (self.fast is None and not self.start(max(texts, key=len, default=""))):
            return self.plain.encode_batch(texts)
        cut = self.plain.cut
        return [joined([self.encode(piece) for piece in pieces(text, cut, PIECE_CHARACTERS)]) for text in texts]

    def start(self, text: str) -> bool:
        """Load gigatoken, and check its ids on the beginning of `text`. Return False if it cannot be used."""
        sample = next(pieces(text, self.plain.cut))
        try:
            self.fast = load_gigatoken(self.plain.backend)
            if np.array_equal(self.encode(sample), self.plain.encode_batch([sample])[0]):
                return True
            say("gigatoken gives other ids than tokenizers on this machine and is not used: encoding is slower.")
        except ImportError:
            say("gigatoken is not installed: encoding is slower (pip install gigatoken).")
        except BaseException as error:
            if isinstance(error, GptcliError) or not (isinstance(error, Exception) or is_panic(error)):
                raise
            say(f"gigatoken cannot read this tokenizer and is not used: encoding is slower ({first_line(error)}).")
        self.fast, self.characters_left = None, math.inf
        return False

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of one piece, once gigatoken is loaded."""
        data = encoded(text, "utf-8")
        if not self.comparison.are_split_alike(text):
            return self.plain.encode_batch([text])[0]
        self.cached += len(data)
        if self.cached > CACHED_BYTES:
            self.clear_cache()
        encode = partial(self.fast.encode, data)
        ids: np.ndarray = call_interruptibly(encode) if len(data) > UNINTERRUPTED_CHARACTERS else encode()
        return ids.copy()  # gigatoken's array has room for far more ids than it holds

    def __getstate__(self) -> dict[str, Any]:
        """Return the state that is sent to another process, such as a rank, which loads gigatoken by itself."""
        return {**self.__dict__, "fast": None, "cached": 0}

    def clear_cache(self) -> None:
        """Start gigatoken afresh."""
        if self.fast is not None:
            self.fast, self.cached = load_gigatoken(self.plain.backend), 0


def load_gigatoken(backend: tokenizers.Tokenizer) -> Any:
    """Return gigatoken's encoder with the merges and the splits of `backend`, without its special tokens.

    Raises:
        ImportError: gigatoken is not installed.
    """
    from gigatoken import Tokenizer

    bare = tokenizers.Tokenizer(backend.model)
    bare.pre_tokenizer = backend.pre_tokenizer
    return Tokenizer.from_json(bare.to_str()).backend


class SplitComparison:
    """The characters that `tokenizers` and gigatoken split alike, found by splitting each character once with both.

    ASCII is split alike.
    """

    def __init__(self) -> None:
        self.alike = np.zeros(0x110000, dtype=np.int8)
        """One value for each code point: 1 if both libraries split it alike, -1 if not, 0 if not yet compared."""

    def are_split_alike(self, text: str) -> bool:
        """Return whether both libraries split every character of `text` alike."""
        if text.isascii():
            return True
        codes = np.frombuffer(encoded(text, "utf-32-le"), "<u4")
        answers = self.alike.take(codes)
        if answers.min() > 0:
            return True
        for code in np.unique(codes[answers == 0]).tolist():
            self.alike[code] = 1 if is_split_alike(chr(code)) else -1
        return bool(self.alike.take(codes).min() > 0)


def is_split_alike(character: str) -> bool:
    """Return whether both libraries treat `character` as a letter, as a digit, as white space, or as neither.

    It stays together with a letter, a digit or a sign before it if it is one too, and with none if it is white space.
    """
    from gigatoken import pretokenizer

    text = f"a{character}1{character}!{character}"
    words = [text[start:end].encode() for _, (start, end) in ByteLevel(add_prefix_space=False).pre_tokenize_str(text)]
    return words == list(pretokenizer(text.encode()))


def character_table(vocabulary: Mapping[str, int], unknown: int) -> np.ndarray:
    """Return the ids by code point, `unknown` for all characters that the vocabulary lacks."""
    ids = {ord(token): id for token, id in vocabulary.items() if len(token) == 1}
    table = np.full(max(ids, default=-1) + 2, unknown, dtype=np.uint32)
    table[list(ids)] = list(ids.values())
    return table


def byte_table(vocabulary: Mapping[str, int]) -> np.ndarray:
    """Return the ids (256,) by byte."""
    return np.array([vocabulary[CHARACTER_OF_BYTE[byte]] for byte in range(256)], dtype=np.uint32)


def encode_pieces(backend: tokenizers.Tokenizer, texts: Sequence[str], is_known: bool) -> list[np.ndarray]:
    """Return the ids of every text, uint32, without the tokens that a post-processor would add.

    Args:
        is_known: whether the structure of the tokenizer is known to take time in proportion to the text.

    Raises:
        TokenizerError: a text cannot be encoded, or not in the time that any tokenizer needs.
    """
    encode, characters = partial(encodings_of, backend, texts), sum(map(len, texts))
    if not is_known:
        encodings = call_within(encode, characters)
    else:
        encodings = call_interruptibly(encode) if characters > UNINTERRUPTED_CHARACTERS else encode()
    return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]


def encodings_of(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[tokenizers.Encoding]:
    """Return the library's encodings of `texts`, without special tokens.

    Raises:
        TokenizerError: the library cannot encode a text.
    """
    with library_errors("the tokenizer cannot encode the text"):
        try:
            return backend.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:  # it names neither the text nor the surrogate
            for text in texts:
                encoded(text, "utf-8")
            raise


def encoded(text: str, codec: str) -> bytes:
    """Return `text` in an encoding of Unicode. Raises a TokenizerError that names the first surrogate in it."""
    try:
        return text.encode(codec)
    except UnicodeEncodeError as error:
        surrogate = f"U+{ord(text[error.start]):04X}"
        raise TokenizerError(
            f"the text holds the surrogate {surrogate}, which is not a character", "use text in UTF-8"
        ) from error


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the parts as one array."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
