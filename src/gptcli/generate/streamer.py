"""Ids to text as they are drawn: whole characters only, and no part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gptcli.tokenizer.tokenizer import Tokenizer

CONTEXT_TOKENS = 8
"""Ids of the prompt that the decoder reads first: some tokenizers write a word's space only after another word."""


class TextStream:
    """The text of one sample. A possible start of a stop string is held back until it turns out not to be one.

    `stopped` becomes true when a stop string is complete; the text then ends before it, whatever tokens it spans.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        prompt_ids: Sequence[int] = (),
        context: Sequence[int] = (),
    ) -> None:
        self.stop = tuple(stop)
        self.held = ""
        self.stopped = False
        self.decoder = tokenizer.decode_stream()
        for token in (*context, *prompt_ids[-CONTEXT_TOKENS:]):
            self.decoder.step(token)

    def step(self, token: int) -> str:
        """Return the text that is certain now that `token` has been drawn; it may be empty."""
        return self.release(self.decoder.step(token))

    def finish(self) -> str:
        """Return the rest when no token follows: an incomplete character, and the text held back."""
        if self.stopped:
            return ""
        text = self.release(self.decoder.finish())
        text, self.held = text + self.held, ""
        return text

    def release(self, piece: str) -> str:
        """Add `piece` to the text held back, and return the part that can no longer belong to a stop string."""
        text = self.held + piece
        places = [place for string in self.stop if (place := text.find(string)) >= 0]
        if places:
            self.stopped, self.held = True, ""
            return text[: min(places)]
        keep = max((held_back(text, string) for string in self.stop), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]


def held_back(text: str, string: str) -> int:
    """Return the length of the longest end of `text` that is a proper prefix of `string`."""
    longest = min(len(text), len(string) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(string[:length])), 0)
