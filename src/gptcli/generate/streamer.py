"""Ids to text as they come: whole characters only, and nothing of a stop string. Knows no model and no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gptcli.tokenizer.tokenizer import Tokenizer

CONTEXT_TOKENS = 8
"""Ids of the prompt that the decoder sees first: some tokenizers write a word's space only after another word."""


class TextStream:
    """The text of one sample. What could be the beginning of a stop string is held back until it is not.

    `stopped` becomes true when a stop string is complete; the text then ends before it, whatever tokens it spans.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), prompt_ids: Sequence[int] = ()) -> None:
        self.stop = tuple(stop)
        self.held = ""
        self.stopped = False
        self.decoder = tokenizer.decode_stream()
        for token in prompt_ids[-CONTEXT_TOKENS:]:
            self.decoder.step(token)

    def step(self, token: int) -> str:
        """The text that is certain now that `token` has been drawn; it may be empty."""
        return self.release(self.decoder.step(token))

    def finish(self) -> str:
        """What is left when no token follows: an incomplete character, and what was held back."""
        if self.stopped:
            return ""
        text = self.release(self.decoder.finish())
        text, self.held = text + self.held, ""
        return text

    def release(self, piece: str) -> str:
        """Add `piece` to what is held and take away what can no longer belong to a stop string."""
        text = self.held + piece
        places = [place for string in self.stop if (place := text.find(string)) >= 0]
        if places:
            self.stopped, self.held = True, ""
            return text[: min(places)]
        keep = max((held_back(text, string) for string in self.stop), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]


def held_back(text: str, string: str) -> int:
    """Length of the longest end of `text` that `string` begins with, less than the whole of `string`."""
    longest = min(len(text), len(string) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(string[:length])), 0)
