"""The text that a model writes in answer to one message, as it becomes certain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from gptcli.generate.requests import Observer, Request
from gptcli.generate.streamer import TextStream
from gptcli.tokenizer.tokenizer import Tokenizer

ReplyEnd = Literal["eot", "stop", "length", "context", "stopped"]
"""Why a reply ended: a stop id, a stop string, max_new_tokens, the context is full, or the user stopped it."""


class Reply(Observer):
    """The ids drawn for one reply, and their text. It may take several requests, since the window of a long one moves.

    Attributes:
        ids: the ids drawn, without the stop id that ended them.
        text: the text so far, whole characters only, without a stop string.
        end: why it ended; None while it is being written.
        cached: tokens of its first prompt that were not read again.
        prompt_length: tokens of its first prompt.
        seed: the seed of its first request.
        requests: the number of its requests.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.ids: list[int] = []
        self.text = ""
        self.end: ReplyEnd | None = None
        self.cached = self.prompt_length = self.seed = self.requests = 0
        self.stream: TextStream | None = None
        self.taken = 0

    def begin(self, prompt: Sequence[int]) -> None:
        """Take in the ids before the reply."""
        if self.stream is None:
            self.stream, self.prompt_length = TextStream(self.tokenizer, self.stop, prompt), len(prompt)
        self.end = None

    def on_token(self, request: Request) -> bool:
        """Add the text of the last id of a request; return whether it completes a stop string."""
        assert self.stream is not None
        if request.finish_reason == "eot":
            return False
        self.ids.append(request.ids[-1])
        self.text += self.stream.step(request.ids[-1])
        return self.stream.stopped

    def finish(self, end: ReplyEnd) -> None:
        """End the reply. Text that is held back stays so where it may be continued."""
        self.end = end
        if end in ("eot", "stop") and self.stream is not None:
            self.text += self.stream.finish()

    def take(self) -> str:
        """Return the text that was added since the last call."""
        new, self.taken = self.text[self.taken :], len(self.text)
        return new

    @property
    def can_continue(self) -> bool:
        """Whether it ended before the model ended it."""
        return self.end in ("length", "context", "stopped")
