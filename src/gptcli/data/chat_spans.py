"""The places of the answers in a rendered conversation.

A template that has `{% generation %}` says itself what the assistant writes. With any other, the conversation is
rendered turn by turn: the rendering up to an answer, as a model is prompted with it, and the rendering up to its end
must both be beginnings of the whole text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

SHOWN_CHARACTERS = 40
"""Characters before and after the first difference of two texts that a message shows."""

Part = tuple[int, int, bool]
"""The place of a special token or of a text between them: start, stop, is_special."""


class Beginning(NamedTuple):
    """A rendering of the beginning of a conversation.

    Attributes:
        length: its characters, if the whole text begins with it.
        text: the text, if the whole text does not.
        error: the reason, if the template fails on it.
        is_cut: whether the special token at its end was left out, which the template writes only if nothing follows.
    """

    length: int | None = None
    text: str = ""
    error: str = ""
    is_cut: bool = False

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Beginning:
        """Return the rendering in an answer of the process."""
        return cls(answer.get("length"), answer.get("text", ""), answer.get("error", ""))


@dataclass(frozen=True)
class Rendering:
    """A rendered conversation.

    Attributes:
        text: the whole text, with marks in the content of messages.
        parts: the special tokens of the text, and the texts between them.
        generated: the places that `{% generation %}` encloses.
        ends: the renderings of the first 0, 1, 2, ... messages without a prompt for an answer.
        prompts: by the number of an answer's message, the rendering before it with a prompt for an answer.
        headers: likewise, the rendering up to where the content of an answer is written.
    """

    text: str
    parts: Sequence[Part]
    generated: Sequence[tuple[int, int]]
    ends: Sequence[Beginning]
    prompts: Mapping[int, Beginning]
    headers: Mapping[int, Beginning]

    def start(self, number: int) -> Beginning:
        """Return the beginning after which the answer of message `number` starts, as a model is prompted with it.

        Where a template does not write a prompt when it is asked to, this is the header of the answer (`header_stop`).
        """
        prompt, header, end = self.prompts.get(number), self.headers.get(number), self.ends[number]
        if prompt is not None and not prompt.error:
            return prompt
        if header is None:
            return prompt or end
        if header.length is None:
            is_blank = end.length is not None and header.text and not header.text[end.length :].strip()
            return end if is_blank else header
        return Beginning(header_stop(self.text[: header.length], end))

    def until_answer(self) -> Rendering:
        """Return a rendering that ends with the header of an answer, without what belongs to the answer."""
        return self.until(header_stop(self.text, self.ends[-1]))

    def until(self, stop: int) -> Rendering:
        """Return the rendering of the text up to a place."""
        parts = [(start, min(end, stop), is_special) for start, end, is_special in self.parts if start < stop]
        return replace(self, text=self.text[:stop], parts=parts)

    def turns(self, count: int) -> list[int]:
        """Return the places where `count` messages begin and the last ends. A message that is not rendered alone, as
        the system's in Llama 2, ends where it begins, and its text counts to the next one.
        """
        bounds = [0]
        for end in self.ends[1:count]:
            bounds.append(max(bounds[-1], end.length or 0))
        return [*bounds, len(self.text)]


def header_stop(text: str, end: Beginning) -> int:
    """Return the place where an answer starts in a text that ends where its content is written.

    Blanks before the content belong to the answer, as tokenizers have them at the beginning of a word. If there is only
    white space since the `end` of the message before, as in Llama 2, all of it belongs to the answer.
    """
    if end.length is not None and not text[end.length :].strip():
        return end.length
    return len(text.rstrip(" "))


class AnswerSpan(NamedTuple):
    """The place of an answer, its end token included.

    Attributes:
        start: its first character.
        stop: the character after its end token, or after its text if it has none.
        is_ended: whether a special token ends it.
    """

    start: int
    stop: int
    is_ended: bool


def ended(text: str, start: int, stop: Beginning, parts: Sequence[Part], end_names: Collection[str]) -> AnswerSpan:
    """Return the answer between two places, up to and including the special token that ends it.

    That is the first of `end_names` among the special tokens at the end, or else the last of these; there may be white
    space between and after them. It may also follow directly.

    Args:
        text: the rendered text.
        start: where the answer starts.
        stop: where what the template writes for its message stops.
        parts: the special tokens of the text and the texts between them.
        end_names: the special tokens that are known to end an answer.
    """
    limit = len(text) if stop.length is None else stop.length
    ends: list[tuple[int, int]] = []
    for begin, end, is_special in reversed(parts[: bisect_left(parts, (limit,))]):
        if begin < start or not (is_special or not text[begin : min(end, limit)].strip()):
            break
        if is_special:
            ends.insert(0, (begin, end))
    known = [end for begin, end in ends if text[begin:end] in end_names]
    if ends:
        return AnswerSpan(start, known[0] if known else ends[-1][1], True)
    after = next((part for part in parts[bisect_left(parts, (limit,)) :][:1] if part[0] == limit and part[2]), None)
    if after is not None and (stop.is_cut or text[limit : after[1]] in end_names):
        return AnswerSpan(start, after[1], True)
    return AnswerSpan(start, start + len(text[start:limit].rstrip()), False)


def difference(one: str, other: str) -> tuple[str, str]:
    """Return the places of two texts around their first difference."""
    place = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = max(0, place - SHOWN_CHARACTERS)
    first, second = (text[start : place + SHOWN_CHARACTERS] for text in (one, other))
    return first, second
