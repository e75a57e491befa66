"""Requests, each of which is one sample that is being generated."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from gptcli.errors import GptcliError, UsageError
from gptcli.generate.config import SamplingParams
from gptcli.generate.constraint import FREE, Constraint
from gptcli.generate.lookup import PromptLookup

FinishReason = Literal["stop", "eot", "length", "cancelled", "error"]

Alternatives = list[tuple[int, float]]
"""Ids and their log-probabilities, the most likely first."""


class PromptScores(NamedTuple):
    """The log-probabilities of a prompt's tokens from the second on, and the most likely tokens in their places."""

    logprobs: list[float]
    top_logprobs: list[Alternatives]
    """As many as the request asks for."""


class Observer:
    """Receives the ids of a request as they are appended. This class ignores them."""

    def on_token(self, request: Request) -> bool:
        """Take in the last of `request.ids`, in order; return whether the request ends with it (reason "stop")."""
        return False


UNOBSERVED = Observer()


class Request:
    """One sample: the prompt's ids and the ids drawn since, of which the model reads those from `window_start` on.

    It is also the handle by which the sample is cancelled.
    """

    __slots__ = (
        "cached_tokens",
        "constraint",
        "error",
        "finish_reason",
        "ids",
        "logprobs",
        "lookup",
        "observer",
        "params",
        "prompt_length",
        "prompt_logprobs",
        "prompt_scores",
        "stop_ids",
        "top_logprobs",
        "window_start",
    )

    def __init__(
        self,
        ids: Sequence[int],
        params: SamplingParams,
        *,
        stop_ids: Collection[int] = (),
        constraint: Constraint = FREE,
        observer: Observer = UNOBSERVED,
        prompt_logprobs: int | None = None,
    ) -> None:
        self.ids = list(ids)
        """The prompt and every id drawn since."""
        self.params = params
        self.prompt_length = len(self.ids)
        self.stop_ids = frozenset(stop_ids)
        """Each of these ids is the last of the request."""
        self.constraint, self.observer = constraint, observer
        constraint.end_with(self.stop_ids)
        self.prompt_logprobs = prompt_logprobs
        """Most likely tokens to keep with each token of the prompt; None scores no prompt."""
        self.prompt_scores = PromptScores([], [])
        """What was asked for by `prompt_logprobs`, as far as the prompt has been read."""
        self.window_start = 0
        self.logprobs: list[float] = []
        """The log-probability in nats of each id drawn, under the model itself."""
        self.top_logprobs: list[Alternatives] = []
        """The most likely tokens in place of each id drawn; empty unless asked for."""
        self.finish_reason: FinishReason | None = None
        self.error: GptcliError | None = None
        """Why it ended, with the reason "error"."""
        self.cached_tokens = 0
        """Tokens of the prompt that were not read again, since the cache held them."""
        self.lookup: PromptLookup | None = None
        """The source of its draft tokens, if it has any."""

    @property
    def count(self) -> int:
        """Tokens drawn so far."""
        return len(self.ids) - self.prompt_length

    @property
    def window(self) -> list[int]:
        """The ids that the model reads, the last one drawn included."""
        return self.ids[self.window_start :]

    @property
    def window_length(self) -> int:
        """Tokens of the window, the last one drawn included."""
        return len(self.ids) - self.window_start

    @property
    def may_draft(self) -> bool:
        """Whether tokens may be drafted: not under a grammar, whose mask at a place depends on the ids before."""
        return self.constraint.is_free

    def append(self, token: int, logprob: float, top: Alternatives | None = None) -> None:
        """Append an id that was drawn, and set `finish_reason` if the request ends with it."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        if self.params.logprobs is not None:
            self.top_logprobs.append(top or [])
        if token in self.stop_ids:
            self.finish_reason = "eot"
        else:
            if not self.constraint.is_free:
                self.constrain(token)
            if self.finish_reason is None and self.count >= self.params.max_new_tokens:
                self.finish_reason = "length"
        if self.observer.on_token(self) and self.finish_reason != "error":
            self.finish_reason = "stop"

    def constrain(self, token: int) -> None:
        """Tell the constraint of `token`; end the request if it is complete, or with an error if it fails."""
        try:
            self.constraint.accept(token)
            if self.constraint.is_complete:
                self.finish_reason = "stop"
        except GptcliError as error:
            self.fail(error)

    def fail(self, error: GptcliError) -> None:
        """End the request with an error."""
        self.error, self.finish_reason = error, "error"


def require_known_ids(params: SamplingParams, vocab_size: int) -> None:
    """Require that every id of `logit_bias` is one of the model's.

    Raises:
        UsageError: one is not.
    """
    if params.logit_bias and (largest := max(params.logit_bias)) >= vocab_size:
        raise UsageError(
            f"logit_bias has the id {largest}, and the model has {vocab_size} tokens", f"use ids below {vocab_size}"
        )
