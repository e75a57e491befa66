"""A chat with one model: its transcript, its settings of sampling, and replies as they are written. It knows no
terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import NamedTuple

from gptcli.chat.reply import Reply, ReplyEnd
from gptcli.chat.transcript import Transcript
from gptcli.errors import DataError, GptcliError
from gptcli.generate.config import SamplingParams
from gptcli.generate.engine import Engine
from gptcli.generate.requests import Request
from gptcli.tokenizer.tokenizer import Tokenizer

Pieces = Generator[str, None, None]
"""The text of a reply as it grows; closing it stops the reply."""
SEEDS, APART = 2**63, 2**32
"""The number of seeds, and the distance between those of the requests of one reply."""


class TokenUsage(NamedTuple):
    """Numbers of tokens of a chat.

    Attributes:
        used: tokens that the model would read with the shortest message.
        context: tokens that it can read.
        prompt: tokens before the last reply.
        cached: those of them that were not read again, since the engine had their keys and values.
        written: tokens of the last reply.
    """

    used: int
    context: int
    prompt: int
    cached: int
    written: int


class Dialogue:
    """A chat with one model.

    Attributes:
        transcript: what was said.
        params: the settings of sampling; `seed` is that of the first reply.
        last: the last reply, or None.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        transcript: Transcript,
        params: SamplingParams,
        on_drop: Callable[[str], None],
    ) -> None:
        """Begin a chat.

        Args:
            engine: the engine, whose prefix cache keeps what was read for the next turn.
            tokenizer: the tokenizer of its model.
            transcript: what was said so far.
            params: the settings of sampling.
            on_drop: receives a line whenever the model no longer reads the beginning of the transcript.
        """
        self.engine, self.tokenizer, self.transcript = engine, tokenizer, transcript
        self.params, self.on_drop = params, on_drop
        self.context = engine.context_length
        self.drawn = 0
        """Replies so far: each is drawn with the next seed, so that /retry gives another one."""
        self.last: Reply | None = None

    def set_params(self, params: SamplingParams) -> None:
        """Use these settings from the next reply on; a new seed counts from there."""
        self.drawn = self.drawn if params.seed == self.params.seed else 0
        self.params = params

    @property
    def can_continue(self) -> bool:
        """Whether an empty message asks for more text."""
        return self.transcript.takes_nothing or (self.last is not None and self.last.can_continue)

    def say(self, text: str) -> Pieces:
        """Write a message, and return the reply's text in pieces, which may be empty.

        Closing the iterator stops the reply; what was written stays in the transcript. An empty message continues a
        reply that was stopped or is too long.

        Raises:
            GptcliError: the model cannot read the message, which is then not in the transcript.
        """
        if not text and not self.transcript.takes_nothing and self.last is not None and self.can_continue:
            return self.changed(self.last, self.transcript.reopen)
        return self.changed(self.new_reply(), partial(self.transcript.add, text))

    def retry(self) -> Pieces:
        """Write the last reply anew, with another seed.

        Raises:
            UsageError: there is no turn.
        """
        return self.changed(self.new_reply(), self.transcript.reopen)

    def undo(self) -> str:
        """Remove the last turn, and return what the user wrote in it.

        Raises:
            UsageError: there is no turn.
        """
        asked = self.transcript.undo()
        self.last = None
        return asked

    def reset(self) -> None:
        """Remove all turns."""
        self.transcript.reset()
        self.last = None

    def read(self, name: str) -> str:
        """Replace the transcript by that in a file, and return what was read, for people.

        Raises:
            DataError, StorageError: the file cannot be read, or holds no transcript.
        """
        found = self.transcript.read(name)
        self.last = None
        return found

    def usage(self) -> TokenUsage:
        """Return how much of the context is used, and how much of the last prompt was read again."""
        last = self.last or self.new_reply()
        return TokenUsage(len(self.transcript.ids()), self.context, last.prompt_length, last.cached, len(last.ids))

    def new_reply(self) -> Reply:
        """Return a reply without any text."""
        return Reply(self.tokenizer, self.params.stop)

    def changed(self, reply: Reply, change: Callable[[], None]) -> Pieces:
        """Change the transcript, and return the text by which a reply to its last turn grows.

        Raises:
            GptcliError: the transcript cannot be changed so, or the model cannot read it; it is then as before.
        """
        before = self.transcript.state()
        try:
            change()
            ids = self.fitted(reply)
            if len(ids) > self.context:
                raise DataError(
                    f"the message takes {len(ids):,} tokens with all that the model must read beside it, more than its "
                    f"context of {self.context:,}",
                    "shorten it",
                )
        except GptcliError:
            self.transcript.restore(before)
            raise
        if reply is not self.last:
            self.last, reply.seed = reply, self.params.seed + self.drawn
            self.drawn += 1
        return self.pieces(reply, ids)

    def fitted(self, reply: Reply) -> list[int]:
        """Return the ids of the transcript and of the reply so far. Where they leave little room in the context, the
        beginning of the transcript is left out.

        So much of it is left out that half of the context is free: the keys and values after it are of other positions
        and are computed anew, which at each turn would take as long as reading half of the context.
        """
        ids = self.transcript.ids(reply.ids)
        room = 0 if reply.ids else min(self.params.max_new_tokens, self.context // 4)
        if len(ids) + room <= self.context:
            return ids
        dropped = self.transcript.drop(self.context // 2, reply.ids)
        if dropped:
            self.on_drop(f"the context of {self.context:,} tokens is full; no longer read: {dropped}")
        return self.transcript.ids(reply.ids)

    def pieces(self, reply: Reply, ids: list[int]) -> Pieces:
        """Yield the text by which a reply grows, up to max_new_tokens; an empty text where none is certain yet."""
        limit = len(reply.ids) + self.params.max_new_tokens
        end: ReplyEnd | None = None
        reply.begin(ids)
        try:
            while end is None:
                request = self.request(reply, ids, limit)
                yield from self.steps(request, reply)
                end = self.end_of(request, reply, limit)
                if end is None:
                    ids = self.fitted(reply)
                    end = "context" if len(ids) > self.context else None
        finally:
            reply.finish(end or "stopped")
            self.transcript.reply(reply.text, is_end=end == "eot")
        yield reply.take()

    def request(self, reply: Reply, ids: list[int], limit: int) -> Request:
        """Return the request that continues a reply up to `limit` ids."""
        values = {
            "seed": (reply.seed + APART * reply.requests) % SEEDS,
            "max_new_tokens": limit - len(reply.ids),
            "overflow": "stop",  # whole turns are left out instead, by `fitted`
        }
        reply.requests += 1
        params = self.params.model_copy(update=values)
        return Request(ids, params, stop_ids=self.transcript.stop_ids, observer=reply)

    def steps(self, request: Request, reply: Reply) -> Pieces:
        """Run a request, and yield the text that each step adds; closing the iterator cancels it."""
        is_first = not reply.ids
        self.engine.add(request)
        try:
            while request.finish_reason is None:
                self.engine.step()
                yield reply.take()
        finally:
            if request.finish_reason is None:
                self.engine.cancel(request)
            if is_first:
                reply.cached = request.cached_tokens

    def end_of(self, request: Request, reply: Reply, limit: int) -> ReplyEnd | None:
        """Return why a reply ends with a request that ended, or None if it goes on in another window."""
        match request.finish_reason:
            case "eot" | "stop" as end:
                return end
            case "length" if len(reply.ids) >= limit:
                return "length"
            case "length":
                return "context" if self.params.overflow == "stop" else None
            case "error" if request.error is not None:
                raise request.error
        return "stopped"
