"""The windows in which the tokens of a sequence are scored. This module is integer arithmetic only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gptcli.errors import UsageError

LONGEST_DEFAULT = 8192
"""The largest default of the tokens in a window. A config may claim any context, and attention takes time and memory by
the square of it."""


class Window(NamedTuple):
    """Positions [start, stop) of a sequence, of which this window scores [scored, stop); start < scored < stop.

    The model is fed positions [start, stop - 1): its output at position p - 1 scores the token at p.
    """

    start: int
    stop: int
    scored: int


def score_windows(length: int, context: int, stride: int) -> Iterator[Window]:
    """Yield windows that score positions 1 .. length - 1 of a sequence exactly once each, in order.

    This is the strided recipe of Hugging Face's guide "Perplexity of fixed-length models": the first window holds
    `context` tokens, each further one starts `stride` later and scores the tokens that no earlier window scored, so
    that each has at least `context - stride` tokens before it in its window. Position 0 (the prefix token, if there is
    one) is never scored, since nothing precedes it.

    With stride == context the windows do not overlap, and the recipe would leave the first token of each unscored.
    Such a window begins one token earlier instead; the model is still fed at most `context` tokens.
    """
    scored = 1
    for start in range(0, length, stride):
        stop = min(start + context, length)
        if stop > scored:
            yield Window(min(start, scored - 1), stop, scored)
            scored = stop
        if stop == length:
            return


def resolve_windows(context: int | None, stride: int | None, limit: int) -> tuple[int, int]:
    """Return the context, by default `limit` but at most `LONGEST_DEFAULT`, and the stride, by default half of it.

    Raises:
        UsageError: the context is longer than the model's, or the stride longer than the context.
    """
    context = min(limit, LONGEST_DEFAULT) if context is None else context
    if not 1 <= context <= limit:
        raise UsageError(
            f"a context of {context} tokens is not possible with this model", f"choose --context from 1 to {limit}"
        )
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= stride <= context:
        raise UsageError(
            f"a stride of {stride} tokens would skip tokens or not advance", f"choose --stride from 1 to {context}"
        )
    return context, stride
