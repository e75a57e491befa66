"""Requests with their texts: ids become text as they are drawn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gptcli.generate.config import GenerationConfig, SamplingParams
from gptcli.generate.constraint import ANY_TEXT, FREE, Constraint, Language
from gptcli.generate.requests import Alternatives, FinishReason, Observer, Request
from gptcli.generate.streamer import TextStream

if TYPE_CHECKING:
    from gptcli.tokenizer.tokenizer import Tokenizer


class TokenText(NamedTuple):
    """Tokens by which a text has certainly grown, and their text: whole characters, and no part of a stop string."""

    ids: list[int]
    """Several where only together they are a character."""
    text: str
    logprobs: list[float]
    top_logprobs: list[Alternatives]
    """Empty unless asked for."""


class Completion(NamedTuple):
    """One sample of a prompt."""

    text: str
    """The text after the prompt, without end-of-text token and stop string."""
    tokens: list[int]
    """Every id drawn, including the end-of-text token or a stop string that ended the sample."""
    logprobs: list[float]
    """Each token's log-probability in nats under the model itself, before temperature, penalty and filters."""
    finish_reason: FinishReason
    """`stop`: a stop string, or a grammar allows no more; `eot`: the token that ends a text; `length`: max_new_tokens,
    or the context is full."""
    seed: int
    """The seed that reproduces this sample alone."""
    top_logprobs: list[Alternatives]
    """The most likely tokens in place of each token, with their log-probabilities; empty unless asked for."""
    is_whole: bool
    """Whether the text matches its grammar to the end; true without a grammar."""

    def report(self) -> dict[str, Any]:
        """Return {"text", "tokens", "logprobs", "finish_reason", "seed"} and, if asked for, "top_logprobs" for JSON."""
        report = self._asdict()
        del report["is_whole"]
        if not self.top_logprobs:
            del report["top_logprobs"]
        return report


class Sample(Observer):
    """A request of the engine with its text so far."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        ids: Sequence[int],
        params: SamplingParams,
        *,
        stop_ids: Collection[int] = (),
        constraint: Constraint = FREE,
        prompt_logprobs: int | None = None,
    ) -> None:
        self.request = Request(
            ids,
            params,
            stop_ids=stop_ids,
            constraint=constraint,
            observer=self,
            prompt_logprobs=prompt_logprobs,
        )
        self.stream = TextStream(tokenizer, params.stop, self.request.ids, constraint.context)
        self.pieces: list[str] = []
        """The text that is certain."""
        self.length = 0
        """Its characters."""
        self.ends: list[tuple[int, int]] = []
        """Numbers of tokens after which the text consists of whole characters, and its characters, from the last take
        on."""
        self.taken = (0, 0)
        """The numbers of tokens and characters that were taken."""
        self.untaken = ""
        self.is_finished = False

    def on_token(self, request: Request) -> bool:
        """Add the text of the request's newest id; return whether a stop string is complete."""
        if request.finish_reason != "eot":
            self.grow(self.stream.step(request.ids[-1]))
        if request.finish_reason is not None:
            self.finish()
        return self.stream.stopped

    def grow(self, piece: str) -> None:
        """Add characters that are certain."""
        if piece:
            self.pieces.append(piece)
            self.untaken += piece
            self.length += len(piece)
        end = self.length + len(self.stream.held)
        if end > (self.ends[-1][1] if self.ends else self.taken[1]):
            self.ends.append((self.token_count, end))

    def finish(self) -> None:
        """Add the rest of the text, as no token follows."""
        if self.is_finished:
            return
        self.is_finished = True
        self.grow(self.stream.finish())
        tokens = self.ends[-1][0] if self.ends else self.taken[0]
        if tokens < self.token_count and not self.stream.stopped:
            self.ends.append((self.token_count, self.length))  # the last tokens have no text

    @property
    def token_count(self) -> int:
        """Tokens drawn, without the one that ends a text."""
        return self.request.count - (self.request.finish_reason == "eot")

    def take(self) -> list[TokenText]:
        """Return what has become certain since the last call.

        The token that ended the text and those that only belong to a stop string are left out.
        """
        if self.request.finish_reason is not None:
            self.finish()
        found = []
        while self.ends and self.ends[0][1] <= self.length:
            found.append(self.take_until(*self.ends.pop(0)))
        if self.is_finished and self.untaken:  # the stop string begins within a token
            found.append(self.take_until(self.ends.pop(0)[0], self.length))
        return found

    def take_until(self, tokens: int, characters: int) -> TokenText:
        """Return the tokens and characters up to these numbers that were not taken."""
        request, (first, start) = self.request, self.taken
        self.taken = (tokens, characters)
        text, self.untaken = self.untaken[: characters - start], self.untaken[characters - start :]
        ids = request.ids[request.prompt_length + first : request.prompt_length + tokens]
        return TokenText(ids, text, request.logprobs[first:tokens], request.top_logprobs[first:tokens])

    def completion(self) -> Completion:
        """Return the sample, which has ended."""
        request = self.request
        if request.finish_reason is None:
            raise ValueError("the sample goes on")
        self.finish()
        return Completion(
            "".join(self.pieces),
            request.ids[request.prompt_length :],
            request.logprobs,
            request.finish_reason,
            request.params.seed,
            request.top_logprobs,
            request.constraint.is_satisfied,
        )


class SampleMaker(NamedTuple):
    """What all samples of a generation have in common."""

    tokenizer: Tokenizer
    config: GenerationConfig
    stop_ids: Collection[int] = ()
    language: Language = ANY_TEXT

    def sample(self, ids: Sequence[int], number: int) -> Sample:
        """Return sample `number` of a prompt."""
        params, constraint = self.config.params(number), self.language.constraint()
        return Sample(self.tokenizer, ids, params, stop_ids=self.stop_ids, constraint=constraint)
