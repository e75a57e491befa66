"""The text of each token, from which the sizes of token sequences are counted."""

from __future__ import annotations

import numpy as np

from gptcli.data.stages import SplitStatistics
from gptcli.errors import DataError
from gptcli.tokenizer.lost_text import LostText
from gptcli.tokenizer.tokenizer import Tokenizer


class TokenSizes:
    """The UTF-8 bytes and the characters of each token of a vocabulary, (V,) each."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.vocab_size = tokenizer, tokenizer.vocab_size
        known = tokenizer.bytes_of_id if tokenizer.is_byte_level else {}
        texts = [known.get(id, b"") if known else tokenizer.decode([id]).encode() for id in range(self.vocab_size)]
        self.texts = texts
        self.bytes = np.array([len(text) for text in texts], dtype=np.int64)
        # Bytes that begin a character: all but those of the form 10xxxxxx.
        self.characters = np.array([sum(byte & 0xC0 != 0x80 for byte in text) for text in texts], dtype=np.int64)

    def statistics(self, documents: int, counts: np.ndarray) -> SplitStatistics:
        """Return the sizes of the text of a split by the number of its documents and of each token, (V,)."""
        return SplitStatistics(
            documents=documents,
            bytes=int(counts @ self.bytes),
            characters=int(counts @ self.characters),
            distinct_characters=len(self.characters_of(counts)),
        )

    def lost_text(self, counts: np.ndarray) -> LostText:
        """Return a lower bound of the text that was lost when the tokens were made: a byte per unknown token.

        counts (V,) are the numbers of each token.
        """
        unknown = self.tokenizer.unk_id
        lost = 0 if unknown is None else int(counts[unknown])
        size = lost + int(counts @ self.bytes)
        return LostText(lost, size, size)

    def characters_of(self, counts: np.ndarray) -> set[str]:
        """Return the distinct characters of a split, without those that are always divided between two tokens.

        counts (V,) are the numbers of each token.
        """
        used = (self.texts[id] for id in np.flatnonzero(counts))
        return {character for text in used for character in text.decode(errors="ignore")}

    def check(self, ids: np.ndarray, name: str, position: int) -> None:
        """Raise a DataError that names the first token of `ids`, which begin at `position`, beyond the vocabulary."""
        if len(ids) and int(ids.max()) >= self.vocab_size:
            place = int((ids >= self.vocab_size).argmax())
            raise DataError(
                f"{name} holds token {int(ids[place])} at position {position + place:,}, and the tokenizer has "
                f"{self.vocab_size:,} tokens",
                "name the tokenizer that made them (data.tokenizer), and check that the file is one of tokens",
            )
